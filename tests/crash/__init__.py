"""Processes die, stop, fork and execute; the others go on."""
