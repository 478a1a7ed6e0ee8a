"""The index of one process: who receives which bytes of a message. Pure."""
