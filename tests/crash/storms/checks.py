"""What a worker does to itself in the middle of its work, when it was ordered to."""

import ctypes
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .worker import Worker

CLONE_NEWPID = 0x20000000
# Programs that do nothing, for a while and at once.
SLEEP = shutil.which("sleep") or "/bin/sleep"
_TRUE = shutil.which("true") or "/bin/true"
_ROOM = 1 << 20  # bytes of address space that are left when it is full


def die(worker: "Worker") -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def execute(worker: "Worker") -> None:
    """Become another program, which lives on for a while."""
    os.execv(SLEEP, [SLEEP, "30"])


def start_program(worker: "Worker") -> None:
    subprocess.run([_TRUE], check=True)


def fork(worker: "Worker") -> None:
    """Fork as `multiprocessing` does, whatever the other threads are at. The child uses the queue at once."""
    worker.announce_child()
    child = multiprocessing.get_context("fork").Process(target=worker.be_child)
    with warnings.catch_warnings():
        # That forking with threads is dangerous in general is what is put to the test.
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    worker.children.append(child)


def close_descriptors(worker: "Worker") -> None:
    """Close all, as programs do that become daemons."""
    worker.has_descriptors = False
    os.closerange(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def use_descriptors_up(worker: "Worker") -> None:
    """Have no number left for another descriptor."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))


def use_address_space_up(worker: "Worker") -> None:
    """Leave next to no room for another mapping. The worker gives itself room when it is refused memory."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM, hard))


def give_address_space_back() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def enter_control_group(group: str) -> Callable[["Worker"], None]:
    """From now on the pages that this process is the first to touch count there."""

    def enter(worker: "Worker") -> None:
        Path(group, "cgroup.procs").write_text("0")

    return enter


def enter_pid_namespace() -> int:
    """Go on in a child that is the first process of a pid namespace; this process only waits for it.

    Returns the child's pid in the parent, which must only wait, and 0 in the child. Raises OSError if that is
    not permitted.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWPID) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWPID)")
    return os.fork()


def wait_as_parent(child: int) -> None:
    """End as the child ends."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(0 if status == 0 else 1)


def may_enter_pid_namespace() -> str:
    """Tell why it is not permitted; empty if it is."""
    program = (
        "import ctypes, os, sys; libc = ctypes.CDLL(None, use_errno=True);"
        f"sys.exit(libc.unshare({CLONE_NEWPID}) and os.strerror(ctypes.get_errno()))"
    )
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    return "" if done.returncode == 0 else done.stderr.strip() or "refused"


MISHAPS: dict[str, Callable[["Worker"], None]] = {
    "die": die,
    "execute": execute,
    "start program": start_program,
    "fork": fork,
    "close descriptors": close_descriptors,
    "use descriptors up": use_descriptors_up,
    "use address space up": use_address_space_up,
}
