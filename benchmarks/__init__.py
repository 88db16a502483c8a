"""Penstock beside every peer: the same scenarios, in turn, in one run. `python -m benchmarks --help`."""
