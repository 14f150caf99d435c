"""A run's directory with its identity, state, records, checkpoints and result."""
