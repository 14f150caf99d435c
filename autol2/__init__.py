"""autol2: does an L2 schedule beat a fixed λ? Runs that can be trusted, and the schedules to use."""
