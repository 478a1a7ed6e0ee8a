"""What a process counts and reports, and in which forms: logs, metrics, traces, terminals."""
