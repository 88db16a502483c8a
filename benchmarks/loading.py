"""Which rivals can be imported here: each is a file of its own, with a list `RIVALS`."""

from __future__ import annotations

import importlib
from typing import Any


def load(package: str, files: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the rivals of the package's files by their names, and why files cannot be imported."""
    rivals: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name in files:
        try:
            module = importlib.import_module(f"{package}.{name}")
        except ImportError as error:
            missing[name] = str(error)
        else:
            rivals |= {rival.name: rival for rival in module.RIVALS}
    return rivals, missing
