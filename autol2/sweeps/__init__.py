"""A study: which runs it consists of, how each stands, and the launchers that bring them about."""
