"""Ends a test that hangs: prints the stacks of all its processes, kills them, and so ends the run.

The watchdog is a process, because a thread in the tested process would change what is tested: its forks, its
threads, and the holder of the GIL.
"""

import os
import subprocess
import sys
from pathlib import Path

_PROGRAM = Path(__file__).with_name("watchdog_process.py")


class Watchdog:
    """Watches the process that makes it, and all descendants of that process."""

    def __init__(self, stacks_file: Path) -> None:
        # Isolated and without site-packages: it starts quickly, and independently of the tested code.
        command = [sys.executable, "-I", "-S", str(_PROGRAM), str(os.getpid()), str(stacks_file)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.pid = self._process.pid

    def begin(self, name: str, seconds: float) -> None:
        """Begin the test `name`, which may run that long."""
        self._tell(f"begin {seconds} {name}")

    def end(self) -> None:
        """End the test."""
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
