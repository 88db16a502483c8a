"""The pools of worker processes: one file each, all with the same interface."""

from __future__ import annotations

from ..loading import load
from .interface import Rival

_FILES = (
    "penstock_pool",
    "standard_executor",
    "standard_pool",
    "loky_executor",
    "mpire_pool",
    "pebble_pool",
)


def available() -> tuple[dict[str, Rival], dict[str, str]]:
    """Return the pools that can be imported here, and why the others cannot."""
    return load(__name__, _FILES)
