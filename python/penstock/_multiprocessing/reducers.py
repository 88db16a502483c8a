"""Which pickler is used: that of `multiprocessing`, or one that a program has put in its place.

A program can set another pickler (dill's, cloudpickle's, its own) by assigning it to one of these:

    multiprocessing.queues._ForkingPickler        for queues
    multiprocessing.connection._ForkingPickler    for connections
    the `reducer` of a context                    for both: an AbstractReducer with another ForkingPickler
    multiprocessing.reduction.ForkingPickler      for both
    ForkingPickler.dumps, .loads and so on        for both: parts of the class itself

The first of these that is not the standard library's is used. The binding reads all of them when a queue or
a connection is opened, and the first two again for each object that is not plain. It then calls `dumps(obj)`
and `loads(bytes)` of that pickler, as `multiprocessing` does.
"""

from __future__ import annotations

import _pickle
import sys
from multiprocessing import context, reduction

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from typing import Any

__all__: list[str] = []

# The standard library's own, which a program may have replaced in its module before this import.
_STANDARD: Any = reduction.AbstractReducer.ForkingPickler
_REGISTERED: dict[type, Any] = getattr(_STANDARD, "_extra_reducers", {})

_OWN = {"__init__", "register", "dumps", "loads", "_extra_reducers", "_copyreg_dispatch_table"}


def _is_whole() -> bool:
    """Return whether the class in `_STANDARD` is as the standard library defines it."""
    attributes = vars(_STANDARD)
    added = {name for name in attributes if name not in _OWN and not name.startswith("__")}
    functions = [getattr(_STANDARD, name, None) for name in ("__init__", "register", "dumps")]
    return (
        not added
        and _STANDARD.__bases__ == (_pickle.Pickler,)
        and all(getattr(function, "__module__", None) == reduction.__name__ for function in functions)
        and attributes.get("loads") is _pickle.loads
        and attributes.get("_extra_reducers") is _REGISTERED
    )


_was_whole = _is_whole()
_attributes = dict(vars(_STANDARD))


def _other(home: str) -> Any:
    """Return the pickler in the place of `multiprocessing`'s, or None if there is none.

    `home` is the module whose `_ForkingPickler` is read first.
    """
    found: Any = getattr(sys.modules.get(home), "_ForkingPickler", _STANDARD)
    if found is not _STANDARD:
        return found
    found = context.reduction.ForkingPickler  # type: ignore[attr-defined]
    if found is not _STANDARD:
        return found
    found = reduction.ForkingPickler
    if found is not _STANDARD:
        return found
    return None if _was_whole and vars(_STANDARD) == _attributes else _STANDARD
