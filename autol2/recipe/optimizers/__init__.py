"""Optimizers, one option a module."""
