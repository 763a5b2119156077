"""Networks on their way out of a run: into a program that knows nothing of agents."""
