"""Ends a test that hangs: all its processes' stacks are printed, then they are killed, and with them the run.

A process of its own, because a thread in the tested process would change what is tested: its forks, its
threads, who holds the GIL.
"""

import os
import subprocess
import sys
from pathlib import Path

_PROGRAM = Path(__file__).with_name("watchdog_process.py")


class Watchdog:
    """Watches the process that makes it, and all its descendants."""

    def __init__(self, stacks_file: Path) -> None:
        # Isolated and without site-packages: it must start quickly, and whatever the tested code is.
        command = [sys.executable, "-I", "-S", str(_PROGRAM), str(os.getpid()), str(stacks_file)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.pid = self._process.pid

    def begin(self, name: str, seconds: float) -> None:
        """From now on the test `name` may run that long."""
        self._tell(f"begin {seconds} {name}")

    def end(self) -> None:
        """The test has ended."""
        self._tell("end")

    def stop(self) -> None:
        """End the watchdog, and wait for it."""
        self._tell("stop")
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
