"""Studies: many runs, and tables and plots of their results."""
