"""One client, and all clients of a process."""
