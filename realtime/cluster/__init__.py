"""What processes share: servers of Redis or Valkey, connections to them, who else runs."""
