"""What can be known before anything starts: a list of checks, each a function from what is planned to what is wrong with it."""
