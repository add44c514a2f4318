"""Pretrained weights made fit for transfer: other numbers, the same function."""
