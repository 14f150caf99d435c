"""Callbacks that add `AutoL2` to the trainers of other libraries, each of which needs an extra."""
