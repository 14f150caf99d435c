"""Experiment trackers, to which a run's records can be sent."""
