"""What `make docs` makes of the documents: a site, references, notebooks. No part of the library."""
