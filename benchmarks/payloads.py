"""What is passed: from a single int to an array of 8 MB."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Payload:
    """A kind of object. A fresh process makes it anew, so that nothing of it is shared."""

    name: str
    make: Callable[[], Any]
    array_bytes: int = 0
    """Bytes that one memory copy has to move; 0 for what is dominated by pickling."""


def _array(size: int) -> Any:
    return np.arange(size // 8, dtype=np.float64)


def _frame() -> Any:
    import pandas  # optional, and slow to import

    return pandas.DataFrame({name: np.arange(10_000, dtype=np.float64) + i for i, name in enumerate("abcd")})


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
        Payload("8 MB array", lambda: _array(8_000_000), 8_000_000),
        Payload("DataFrame", _frame, 320_000),
    )
}
