"""Networks: encoders that name their activations, hypercolumns, heads."""
