"""Coloring photos with a trained network: the command and its parts."""
