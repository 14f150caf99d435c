"""Learning rate schedules, one option a module."""
