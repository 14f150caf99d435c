"""Optimizers, one module for each option."""
