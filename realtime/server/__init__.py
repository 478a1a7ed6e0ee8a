"""Daphne for this project, and the processes that serve."""
