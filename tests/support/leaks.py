"""Finds what a test left behind: processes, descriptors, threads, queue memory, files in /dev/shm."""

import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from typing import Any

from . import processes

PR_SET_CHILD_SUBREAPER = 36
# The name of a queue's memory in /proc/<pid>/maps.
QUEUE_MEMORY = "/memfd:penstock-"
# Seconds for an ended process or thread to disappear. One that is still there was left behind.
GRACE = 5.0
# Part of the names of our files in /dev/shm, which other programs use too.
OUR_FILES = "penstock"


def adopt_orphans() -> None:
    """Make this process the parent of all orphans among its descendants, so that it finds them."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def left_processes(exempt: set[int]) -> list[int]:
    """Descendants that still run after `GRACE`. Orphans that have ended are reaped."""
    exempt = exempt | set(_standard_helpers()[0])
    deadline = time.monotonic() + GRACE
    while True:
        active_children()  # reaps the children of multiprocessing
        left = []
        for pid in processes.descendants(os.getpid()):
            if processes.state(pid) == "Z":
                _reap(pid)
            elif pid not in exempt:
                left.append(pid)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.001)


def kill(pids: list[int]) -> None:
    """Kill these processes, so that they do not disturb the next tests."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        _reap(pid, os.WUNTRACED)


def _reap(pid: int, options: int = os.WNOHANG) -> None:
    with contextlib.suppress(ChildProcessError):  # the child of another process
        os.waitpid(pid, options)


@dataclass(frozen=True)
class Snapshot:
    """What this process has, and our files in /dev/shm."""

    descriptors: dict[str, str]
    threads: set[str]
    queue_memory: list[str]
    shared_files: set[str]

    @staticmethod
    def take() -> "Snapshot":
        """The snapshot of this moment."""
        helpers = {str(descriptor) for descriptor in _standard_helpers()[1]}
        descriptors = {name: what for name, what in _descriptors().items() if name not in helpers}
        return Snapshot(descriptors, set(os.listdir("/proc/self/task")), _queue_memory(), _shared_files())

    def new_since_then(self) -> list[str]:
        """What is there now and was not then, one line each, if it does not disappear within `GRACE`."""
        deadline = time.monotonic() + GRACE
        while True:
            gc.collect()
            new = self._compare(Snapshot.take())
            if not new or time.monotonic() > deadline:
                return new
            time.sleep(0.005)

    def _compare(self, now: "Snapshot") -> list[str]:
        new = [
            f"descriptor {name}: {what}"
            for name, what in now.descriptors.items()
            if self.descriptors.get(name) != what
        ]
        new += [f"thread {task}" for task in sorted(now.threads - self.threads)]
        memory = list(now.queue_memory)
        for mapping in self.queue_memory:
            if mapping in memory:
                memory.remove(mapping)
        new += [f"queue memory: {mapping}" for mapping in memory]
        new += [f"/dev/shm/{name}" for name in sorted(now.shared_files - self.shared_files)]
        return new


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor that listed the folder
    return found


def _queue_memory() -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if QUEUE_MEMORY in line]


def _shared_files() -> set[str]:
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return {name for name in names if OUR_FILES in name}


def _standard_helpers() -> tuple[list[int], list[int]]:
    """Pids and descriptors of the standard library's fork server and resource tracker, which stay."""
    pids: list[int | None] = []
    descriptors: list[int | None] = []
    tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    if tracker is not None:
        pids.append(tracker._resource_tracker._pid)
        descriptors.append(tracker._resource_tracker._fd)
    server: Any = sys.modules.get("multiprocessing.forkserver")
    if server is not None:
        pids.append(server._forkserver._forkserver_pid)
        descriptors.append(server._forkserver._forkserver_alive_fd)
    return [pid for pid in pids if pid is not None], [fd for fd in descriptors if fd is not None]
