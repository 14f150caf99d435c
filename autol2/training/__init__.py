"""Training: the loop, the optimizer, the hardware, and one attempt at a run."""
