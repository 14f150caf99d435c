"""Studies: which runs they consist of, how each run stands, and the launchers that execute them."""
