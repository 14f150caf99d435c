"""Data sets, as tensors that lie on the device as a whole."""
