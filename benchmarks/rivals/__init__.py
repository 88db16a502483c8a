"""The rivals: one file each, all with the same interface."""

from __future__ import annotations

from ..loading import load
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
    return load(__name__, _FILES)
