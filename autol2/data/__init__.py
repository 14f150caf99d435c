"""Data sets of labelled images, as tensors that are kept on the device as a whole."""
