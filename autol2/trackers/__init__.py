"""Experiment trackers that a run is shown to, beside its own records."""
