"""The host's side: photos from disk to batches of uint8 crops. Knows numpy, not JAX."""
