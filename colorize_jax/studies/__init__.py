"""Studies: many runs, and the tables and plots that they are for."""
