"""Scores, and running them over a held-out split."""
