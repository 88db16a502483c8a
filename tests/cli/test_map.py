"""`penstock map`: a function for each line of standard input."""

import subprocess
import sys
from pathlib import Path

from tests.support.programs import write

MODULE = """
import os, signal

def double(line):
    return int(line) * 2

def die(line):
    if line == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return line.upper()

def nothing(line):
    return None

number = 3
"""

PENSTOCK = (str(Path(sys.executable).with_name("penstock")), "map")


def call(folder: Path, *arguments: str, stdin: str) -> tuple[int, str, str]:
    write(folder, {"work.py": MODULE})
    ended = subprocess.run(
        [*PENSTOCK, "--workers", "2", *arguments], cwd=folder, input=stdin, capture_output=True, text=True
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_results_come_in_order(tmp_path: Path) -> None:
    lines = "".join(f"{number}\n" for number in range(100))
    doubled = "".join(f"{2 * number}\n" for number in range(100))
    assert call(tmp_path, "work:double", stdin=lines) == (0, doubled, "")


def test_failures_are_told(tmp_path: Path) -> None:
    status, out, complaints = call(tmp_path, "work:double", stdin="1\nx\n3")
    assert (status, out) == (1, "2\n\n6\n")
    assert complaints.startswith("line 2: ValueError: invalid literal")
    assert complaints.count("\n") == 1


def test_a_worker_dies(tmp_path: Path) -> None:
    status, out, complaints = call(tmp_path, "work:die", stdin="a\nb\nc\n")
    assert (status, out) == (1, "A\n\nC\n")
    assert complaints.startswith("line 2: WorkerDied: ")


def test_nothing(tmp_path: Path) -> None:
    assert call(tmp_path, "work:nothing", stdin="a\n") == (0, "\n", "")
    assert call(tmp_path, "work:nothing", stdin="") == (0, "", "")


def test_progress(tmp_path: Path) -> None:
    status, _, complaints = call(tmp_path, "work:double", "--progress", stdin="1\n2\n")
    assert status == 0
    assert "double: 2 done" in complaints


def test_wrong_arguments(tmp_path: Path) -> None:
    for name in ("work", "work:", "work:missing", "missing:double", "work:number"):
        status, _, complaints = call(tmp_path, name, stdin="")
        assert status == 2
        assert "Traceback" not in complaints
    assert call(tmp_path, "work:double", "--retries", "-1", stdin="")[0] == 2
