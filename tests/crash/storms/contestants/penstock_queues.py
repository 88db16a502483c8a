"""Penstock's three classes."""

from penstock import JoinableQueue, Queue, ShutDown, SimpleQueue

from . import Contestant

_NO_JOIN = frozenset({"kill idle in join"})
# Its put waits when 1 MiB is queued, so it never reaches the limit of a control group, which is larger.
_NOT_SIMPLE = _NO_JOIN | {"control group full"}

CONTESTANTS = [
    Contestant(
        "penstock.Queue",
        lambda context, options: Queue(options.maxsize, max_bytes=options.max_bytes),
        is_penstock=True,
        ended=(ShutDown,),
        does_not_apply=_NO_JOIN,
    ),
    Contestant(
        "penstock.SimpleQueue",
        lambda context, options: SimpleQueue(max_bytes=options.max_bytes),
        is_penstock=True,
        ended=(ShutDown,),
        does_not_apply=_NOT_SIMPLE,
    ),
    Contestant(
        "penstock.JoinableQueue",
        lambda context, options: JoinableQueue(options.maxsize, max_bytes=options.max_bytes),
        is_penstock=True,
        ended=(ShutDown,),
        is_joinable=True,
        redelivers=True,
    ),
]
