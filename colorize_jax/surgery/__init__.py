"""Adapts pretrained weights for transfer: the numbers change, the function stays the same."""
