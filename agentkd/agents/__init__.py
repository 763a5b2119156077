"""An agent's process: what it does as teacher and as student."""
