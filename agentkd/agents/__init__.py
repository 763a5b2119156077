"""The processes: what an agent does as teacher and as student, and the coordinator that plans and assigns the work."""
