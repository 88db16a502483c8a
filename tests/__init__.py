"""Tests of the package. Children under spawn and forkserver import them by these names."""
