"""How much memory workers have, and whether the system has killed one for want of it."""

from __future__ import annotations

import os

__all__ = ["OutOfMemory", "resident_bytes"]

_PAGE = os.sysconf("SC_PAGESIZE")


def resident_bytes(pid: int | None = None) -> int:
    """Return the resident memory of a process in bytes; 0 if the system does not tell."""
    try:
        with open(f"/proc/{'self' if pid is None else pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


class OutOfMemory:
    """The count of processes that this control group has killed for want of memory."""

    def __init__(self) -> None:
        self._path = _events()
        self._seen = self._count()

    def has_killed(self) -> bool | None:
        """Return whether it has killed one since this was last called. None if the system does not tell."""
        count, seen = self._count(), self._seen
        if count is None or seen is None:
            return None
        self._seen = count
        return count > seen

    def _count(self) -> int | None:
        if self._path is None:
            return None
        try:
            with open(self._path) as file:
                for line in file:
                    name, _, number = line.partition(" ")
                    if name == "oom_kill":
                        return int(number)
        except (OSError, ValueError):
            pass
        return None


def _events() -> str | None:
    try:
        with open("/proc/self/cgroup") as file:
            for line in file:
                if line.startswith("0::"):
                    return f"/sys/fs/cgroup{line[3:].rstrip()}/memory.events"
    except OSError:
        pass
    return None
