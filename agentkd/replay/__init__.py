"""Recorded tasks executed again: from the record or with teachers, with one thing replaced, and compared."""
