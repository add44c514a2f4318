"""Scores, and running them over a split."""
