"""Learning rate schedules, one module for each option."""
