"""Penstock in place of multiprocessing: its interface, start methods, libraries and own tests."""
