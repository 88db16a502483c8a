"""What the pool's `shared` has, for the calls: `penstock.shared["model"]`."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Shared", "shared"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    _Any = Any
else:
    _Any = object


class Shared(Mapping[str, _Any]):
    """The objects that the pool of this worker has sent to it once, by their names.

    It is empty in a process that is no worker.

    >>> import penstock
    >>> len(penstock.shared)
    0
    """

    def __init__(self) -> None:
        self._objects: Mapping[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        try:
            return self._objects[name]
        except KeyError:
            raise KeyError(
                f"{name!r} is not shared with this process: WorkerPool(shared={{{name!r}: ...}}) shares it "
                "with the workers of that pool"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._objects)

    def __len__(self) -> int:
        return len(self._objects)


shared = Shared()
