"""Penstock beside every rival: the same scenarios, in turn, in one run. `python -m benchmarks --help`."""
