"""A run's directory: its identity, state, records, checkpoints and result."""
