"""Measures how fast training is on this machine, and what limits it: ``python -m autol2.bench``."""
