"""Networks: trunks that name their activations, hypercolumns, heads."""
