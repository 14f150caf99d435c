"""Random augmentations of training images, one module for each option."""
