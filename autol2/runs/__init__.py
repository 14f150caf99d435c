"""A run's directory: its identity, records, checkpoints, lock and trackers."""
