"""Networks: encoders that return activations by name, hypercolumns, and heads."""
