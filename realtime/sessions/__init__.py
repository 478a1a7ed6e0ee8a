"""One client, all clients of a process, and the node that owns both."""
