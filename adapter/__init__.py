"""The adapter of PulseOps edge: keeps what the agent sends in SQLite or Cassandra."""
