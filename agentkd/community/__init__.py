"""Scripting: a community of agents, handles to the networks they hold, and futures for what they do."""
