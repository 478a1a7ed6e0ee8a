"""Attempts against a running server: each row of the table in docs/security.md, as a test."""
