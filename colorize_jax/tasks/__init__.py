"""Tasks: the targets, the loss and the scores of what a network learns."""
