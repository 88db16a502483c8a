"""The stacks of other processes: Python's if the process answers, and the kernel's always."""

import contextlib
import faulthandler
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

# No test and no tested program uses this signal.
ASK = int(signal.SIGRTMAX) - 1
_FILE = "PENSTOCK_TEST_STACKS"


def new_file() -> Path:
    """Make the file into which the processes of this run write their stacks on `ASK`."""
    descriptor, name = tempfile.mkstemp(prefix="penstock-test-stacks-")
    os.close(descriptor)
    os.environ[_FILE] = name
    return Path(name)


def can_be_asked_for() -> None:
    """From now on this process, and its forks, write their threads' stacks to the run's file on `ASK`.

    The signal handler writes them, so a process blocked in native code answers, too. Without a file nothing
    changes.
    """
    name = os.environ.get(_FILE)
    if name is None or not os.path.exists(name):
        return
    # Open until the process ends, because the handler cannot open files.
    descriptor = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    faulthandler.register(ASK, file=descriptor, all_threads=True)


def report(pids: list[int], file: Path | None = None) -> None:
    """Print the stacks of these processes to standard error. A stopped process goes on."""
    stacks_file = file or Path(os.environ[_FILE])
    for pid in pids:
        print(in_kernel(pid), file=sys.stderr)
    sys.stderr.flush()
    before = stacks_file.stat().st_size
    for pid in pids:
        if answers(pid):
            _append(stacks_file, f"\nPython's stacks of process {pid}\n")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, ASK)
                os.kill(pid, signal.SIGCONT)
            _wait_for_answer(pid)
        else:
            _append(stacks_file, f"\nPython's stacks of process {pid}: it does not answer\n")
    with stacks_file.open(errors="replace") as opened:
        opened.seek(before)
        print(opened.read(), file=sys.stderr, flush=True)


def _wait_for_answer(pid: int) -> None:
    # The signal is pending until its handler runs. A waiting process runs it at once.
    for _ in range(20):
        time.sleep(0.02)
        if not pending(pid):
            break
    time.sleep(0.05)


def _append(file: Path, text: str) -> None:
    with file.open("a") as opened:
        opened.write(text)


def answers(pid: int) -> bool:
    """Whether the process handles `ASK`, which kills a process that does not."""
    return _in_mask(pid, "SigCgt:")


def pending(pid: int) -> bool:
    """Whether the process was asked and has not begun to answer."""
    return _in_mask(pid, "ShdPnd:") or _in_mask(pid, "SigPnd:")


def _in_mask(pid: int, field: str) -> bool:
    for line in _read(pid, "status").splitlines():
        if line.startswith(field):
            return bool(int(line.split()[1], 16) & (1 << (ASK - 1)))
    return False


def in_kernel(pid: int) -> str:
    """The kernel's facts about a process: its command, its state, and where each thread is."""
    command = _read(pid, "cmdline").replace("\0", " ").strip()
    lines = [f"process {pid}: {command or '(ended)'}"]
    for line in _read(pid, "status").splitlines():
        if line.startswith(("State:", "PPid:", "Threads:", "SigPnd:", "SigBlk:")):
            lines.append(f"  {line}")
    for task in _tasks(pid):
        where = _read(pid, f"task/{task}/stack").strip() or _read(pid, f"task/{task}/wchan")
        lines.append(f"  thread {task}: {' < '.join(where.split(chr(10)))}")
        lines.append(f"    system call: {_read(pid, f'task/{task}/syscall').strip()}")
    return "\n".join(lines)


def _tasks(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""
