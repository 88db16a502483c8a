"""Shared by the tests: a watchdog, a check for leaks, and worker processes."""

from . import stacks

# Also in children that import a test module under spawn and forkserver: forked ones have it already.
stacks.can_be_asked_for()
