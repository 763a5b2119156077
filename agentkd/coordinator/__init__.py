"""The coordinator's side: which agent does what next, the agents as processes and peers, and what they bring back."""
