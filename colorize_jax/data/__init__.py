"""Reads photos from disk and makes batches of uint8 crops, on the host: with numpy, without JAX."""
