"""The training step, the loop around it, and what they leave on disk."""
