"""The mishaps: what a worker does to itself in the middle of its work, on order."""

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
# Programs that do nothing: one sleeps, the other ends at once.
SLEEP = shutil.which("sleep") or "/bin/sleep"
_TRUE = shutil.which("true") or "/bin/true"
_ROOM = 1 << 20  # bytes of address space that `use_address_space_up` leaves


def die(worker: "Worker") -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def execute(worker: "Worker") -> None:
    """Become another program, which sleeps for 30 s."""
    os.execv(SLEEP, [SLEEP, "30"])


def start_program(worker: "Worker") -> None:
    subprocess.run([_TRUE], check=True)


def fork(worker: "Worker") -> None:
    """Fork as `multiprocessing` does, while other threads use the queue. The child uses it at once."""
    worker.announce_child()
    child = multiprocessing.get_context("fork").Process(target=worker.be_child)
    with warnings.catch_warnings():
        # The warning is about forking beside threads, which is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    worker.children.append(child)


def close_descriptors(worker: "Worker") -> None:
    """Close all descriptors, as programs do that become daemons."""
    worker.has_descriptors = False
    os.closerange(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def use_descriptors_up(worker: "Worker") -> None:
    """Leave no number for another descriptor."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))


def use_address_space_up(worker: "Worker") -> None:
    """Leave 1 MiB for other mappings. The worker gives itself room again when a call raises MemoryError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM, hard))


def give_address_space_back() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def enter_control_group(group: str) -> Callable[["Worker"], None]:
    """Enter the control group: pages that this process touches first count there from now on."""

    def enter(worker: "Worker") -> None:
        Path(group, "cgroup.procs").write_text("0")

    return enter


def enter_pid_namespace() -> int:
    """Fork a child that is the first process of a pid namespace, and goes on in place of this process.

    Returns the child's pid in the parent, which must only wait, and 0 in the child. Raises OSError if that is
    not permitted.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWPID) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWPID)")
    return os.fork()


def wait_as_parent(child: int) -> None:
    """Wait for the child, and end with its success or failure."""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(0 if status == 0 else 1)


def may_enter_pid_namespace() -> str:
    """The reason why `enter_pid_namespace` is not permitted; empty if it is."""
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
