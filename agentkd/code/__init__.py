"""A user's own code as an input: collected without running it, kept by digest, and run from what is kept. Torch-free."""
