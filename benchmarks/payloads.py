"""The payloads, from an int to an array of 8 MB."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Payload:
    """A kind of object. Each process makes its own, so that they share no memory."""

    name: str
    make: Callable[[], Any]
    array_bytes: int = 0
    """Bytes that one memory copy has to move; 0 if pickling dominates."""
    touch: Callable[[Any], Any] | None = None
    """What a consumer computes from each object; None for nothing."""
    needs: str | None = None
    """A package without which the payload is left out."""


def _array(size: int) -> Any:
    return np.arange(size // 8, dtype=np.float64)


def _read(array: Any) -> Any:
    """The sum of one number of each page."""
    return array.ravel()[::512].sum()


def _frame() -> Any:
    import pandas  # optional, and slow to import

    return pandas.DataFrame({name: np.arange(10_000, dtype=np.float64) + i for i, name in enumerate("abcd")})


def _tensor() -> Any:
    import torch  # optional, and slow to import

    return torch.arange(125_000, dtype=torch.float64)


PAYLOADS = {
    payload.name: payload
    for payload in (
        Payload("int", lambda: 12345),
        Payload("tuple", lambda: (12345, "task", 1.5)),
        Payload(
            "dict", lambda: {"id": 12345, "kind": "task", "weight": 1.5, "done": False, "tags": ["a", "bc"]}
        ),
        Payload("1 KB bytes", lambda: bytes(range(250)) * 4),
        Payload("64 KB array", lambda: _array(64_000), 64_000),
        Payload("1 MB array", lambda: _array(1_000_000), 1_000_000),
        Payload("1 MB array, read", lambda: _array(1_000_000), 1_000_000, touch=_read),
        Payload("8 MB array", lambda: _array(8_000_000), 8_000_000),
        Payload("DataFrame", _frame, 320_000),
        Payload("1 MB tensor", _tensor, 1_000_000, needs="torch"),
    )
    if payload.needs is None or find_spec(payload.needs) is not None
}
