"""The page on which a run is watched: what is recorded and what happens, read and never written."""
