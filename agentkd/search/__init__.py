"""Architecture search: spaces, suggestions, stopping, selection. Everything here is a pure function of what was found so far."""
