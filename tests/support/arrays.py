"""NumPy arrays of all kinds that travel in different ways."""

from typing import Any

import numpy as np

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "small": np.arange(10),
    "beside the pickle": np.linspace(0, 1, 1000),
    "large": np.linspace(0, 1, 200_000),
    "two-dimensional": np.arange(200_000).reshape(400, 500),
    "by columns": np.asfortranarray(np.arange(200_000).reshape(400, 500)),
    "with gaps": np.arange(200_000)[::3],
    "transposed": np.arange(200_000).reshape(400, 500).T,
    "no dimension": np.array(1.5),
    "empty": np.zeros((0, 3)),
    "structured": np.zeros(20_000, dtype=[("a", "i4"), ("b", "f8", (2,))]),
    "text": np.array(["a", "bcd"] * 20_000),
    "dates": np.arange("2000-01", "2024-01", dtype="datetime64[D]"),
    "objects": np.array([1, "a", None], dtype=object),
    "other byte order": np.arange(50_000, dtype=">i4"),
    "read-only": np.arange(50_000),
}
ARRAYS["read-only"].flags.writeable = False
