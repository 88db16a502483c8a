"""Processes die, stop, fork and call exec; the others go on."""
