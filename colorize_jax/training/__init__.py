"""A run: the training step, the loop around it, and the files that they write."""
