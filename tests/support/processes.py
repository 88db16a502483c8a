"""The processes of the machine, as /proc shows them."""

import os
from collections.abc import Iterator
from pathlib import Path


def descendants(root: int) -> list[int]:
    """All descendants of `root`, zombies included; not `root` itself."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    left = [root]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def state(pid: int) -> str:
    """R running, S sleeping, T stopped, Z ended and not reaped, and so on; empty if there is no process."""
    return "".join(_stat(pid)[:1])


def holding(target: str) -> list[int]:
    """Processes other than this one that have a descriptor which /proc shows as `target`."""
    return [pid for pid, _ in _parents() if pid != os.getpid() and target in _descriptors(pid)]


def command(pid: int) -> str:
    """The program that the process runs, as it was called; empty if there is no process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").partition("\0")[0]
    except OSError:
        return ""


def describe(pid: int) -> str:
    """A process in one line."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        command = ""
    return f"process {pid} ({state(pid)}): {command or '(no command)'}"


def _parents() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat(int(name))
            if fields:
                yield int(name), int(fields[1])


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat that follow the name, which may contain anything.

    Read without a file object: after each test this is done for all processes of the machine.
    """
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(file, 4096).rpartition(b")")[2].decode().split()
    except OSError:
        return []
    finally:
        os.close(file)


def _descriptors(pid: int) -> list[str]:
    found = []
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    except OSError:
        pass
    return found
