"""The rivals: one file each, all with the same interface."""

from __future__ import annotations

import importlib

from .interface import Rival

_FILES = (
    "penstock_queues",
    "standard_queue",
    "standard_simple_queue",
    "standard_joinable_queue",
    "standard_pipe",
    "standard_manager",
    "faster_fifo_queue",
    "pyzmq_sockets",
    "torch_queue",
)


def available() -> tuple[dict[str, Rival], dict[str, str]]:
    """Return the rivals that can be imported here, and why the others cannot."""
    rivals: dict[str, Rival] = {}
    missing: dict[str, str] = {}
    for name in _FILES:
        try:
            module = importlib.import_module(f"{__name__}.{name}")
        except ImportError as error:
            missing[name] = str(error)
        else:
            rivals |= {rival.name: rival for rival in module.RIVALS}
    return rivals, missing
