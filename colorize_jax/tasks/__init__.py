"""Tasks: what to predict and how wrong a prediction is."""
