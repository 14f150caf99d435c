"""Training: the training loop, the optimizer, the hardware, and one attempt at a run."""
