"""Random changes to training images, one option a module."""
