"""Which queues stay the standard library's: those inside its own process pools."""

import sys
from multiprocessing.context import BaseContext
from types import FrameType

_POOLS = frozenset({"multiprocessing.pool", "concurrent.futures.process"})
_FACTORIES = frozenset({"Queue", "SimpleQueue", "JoinableQueue"})


def asked_by_standard_pool() -> bool:
    """Tell whether the queue being made is for a pool or an executor of the standard library.

    `multiprocessing.pool.Pool` and `concurrent.futures.ProcessPoolExecutor` reach into the pipes and locks
    of the queues that they make for themselves, so these must be the standard library's. A queue factory
    calls this function; what counts is the code that called the factory. A task that runs in a pool and
    makes a queue of its own gets Penstock's.

    >>> asked_by_standard_pool()
    False
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _belongs_to_factory(frame):
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__") in _POOLS


def _belongs_to_factory(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__"))
    if module == "multiprocessing.context" or module.partition(".")[0] == "penstock":
        return True
    # A program's own context may override a factory and call the inherited one in it.
    code = frame.f_code
    if code.co_name not in _FACTORIES or code.co_argcount == 0:
        return False
    return isinstance(frame.f_locals.get(code.co_varnames[0]), BaseContext)
