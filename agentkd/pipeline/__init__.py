"""KD-NAS as a pure function: given the experiment and the records so far, what is to be done next and what the table says."""
