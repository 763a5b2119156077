"""What a run leaves behind: stored bytes by digest, the journal of committed records, and where each file lies. Torch-free."""
