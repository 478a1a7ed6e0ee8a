"""From the channel layer and the log to connections, in order and without a gap."""
