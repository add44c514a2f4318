"""Measuring speed, memory and cost."""
