"""Reads and writes checkpoints of runs and of converted weights. Only this room uses Orbax.

On disk a checkpoint is a folder with a state, a JSON note and a manifest of checksums. The state is
a tree with plain names, so that other programs can read a part of it: "params", every other
collection of the network ("batch_stats", ...), "opt_state" and "step".
"""
