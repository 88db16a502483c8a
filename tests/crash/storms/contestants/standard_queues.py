"""The standard library's three classes."""

from . import Contestant

# They send through a pipe, which needs its descriptors, and have no limit of memory.
_NOT_THEIRS = frozenset(
    {"close descriptors", "max_bytes reached", "control group full", "address space full"}
)
_NO_JOIN = frozenset({"kill idle in join"})

CONTESTANTS = [
    Contestant(
        "multiprocessing.Queue",
        lambda context, options: context.Queue(options.maxsize),
        does_not_apply=_NOT_THEIRS | _NO_JOIN,
    ),
    Contestant(
        "multiprocessing.SimpleQueue",
        lambda context, options: context.SimpleQueue(),
        does_not_apply=_NOT_THEIRS | _NO_JOIN,
    ),
    Contestant(
        "multiprocessing.JoinableQueue",
        lambda context, options: context.JoinableQueue(options.maxsize),
        is_joinable=True,
        does_not_apply=_NOT_THEIRS,
    ),
]
