"""`AutoL2` as a callback of trainers that own the training loop. Each needs an extra of its own."""
