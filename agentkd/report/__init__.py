"""What people see: the live view of a run, the table, the figures and the page. Torch-free."""
