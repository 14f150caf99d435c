"""The command line: overrides, help, composition, and what a terminal shows."""
