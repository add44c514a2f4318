"""Augmentations of photos on the accelerator: pure functions of keys and arrays."""
