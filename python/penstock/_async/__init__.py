"""Queues under an event loop: methods.py has what a program calls, turns.py how its tasks wait."""
