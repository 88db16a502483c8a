"""The watchdog's process: python watchdog_process.py WATCHED-PID STACKS-FILE

It reads lines from its standard input: `begin SECONDS NAME`, `end`, `stop`.
"""

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # isolated, so the tests are not on the path

import processes
import stacks


def _main(watched: int, stacks_file: Path) -> None:
    parent = os.pidfd_open(watched)
    name, deadline, unread = "", None, b""
    heard = [0, parent]
    while True:
        patience = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = select.select(heard, [], [], patience)[0]
        if 0 in ready:
            said = os.read(0, 65536)
            if not said:
                heard.remove(0)  # closed by all processes: the death of the watched one comes next
            unread += said
            *lines, unread = unread.split(b"\n")
            for line in lines:
                verb, _, rest = line.decode().partition(" ")
                if verb == "stop":
                    return
                deadline = None
                if verb == "begin":
                    seconds, _, name = rest.partition(" ")
                    deadline = time.monotonic() + float(seconds)
        elif parent in ready:
            # It died. Its forks have our pipe, and may be blocked for ever with the terminal open.
            print(f"\nThe test process died by itself in {name or 'no test'}.", file=sys.stderr, flush=True)
            _kill_all(processes.holding(os.readlink("/proc/self/fd/0")))
            stacks_file.unlink(missing_ok=True)
            return
        elif deadline is not None and time.monotonic() >= deadline:
            _report(name, watched, stacks_file)
            _kill_all([watched])
            stacks_file.unlink(missing_ok=True)
            return


def _report(name: str, watched: int, stacks_file: Path) -> None:
    print(f"\n{'=' * 30} HANGS: {name} {'=' * 30}", file=sys.stderr)
    hanging = [watched, *(pid for pid in processes.descendants(watched) if pid != os.getpid())]
    stacks.report(hanging, stacks_file)


def _kill_all(roots: list[int]) -> None:
    # Stopped first, so that no process starts another meanwhile.
    doomed: set[int] = set()
    while True:
        found = {pid for root in roots for pid in [root, *processes.descendants(root)]}
        found -= doomed | {os.getpid()}
        if not found:
            break
        for pid in found:
            _signal(pid, signal.SIGSTOP)
        doomed |= found
    for pid in doomed:
        _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    _main(int(sys.argv[1]), Path(sys.argv[2]))
