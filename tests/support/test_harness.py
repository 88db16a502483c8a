"""The watchdog and the check for leaks can fail: sample tests leave something behind, or hang."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import ROOT

pytestmark = pytest.mark.slow

# Not under Penstock's name: tests that run at the same time count those files.
LEFT_FILE = Path(f"/dev/shm/harness-test-{os.getpid()}")

SAMPLE = """
import mmap, os, signal, subprocess, threading
import pytest
from tests.support import leaks
from tests.support.children import fork

leaks.GRACE = 0.2
leaks.OUR_FILES = "harness-test-"
kept = []

def blocked_in_child():
    os.read(os.pipe()[0], 1)

def test_sample():
    {body}

def test_next():
    pass
"""

# For each leak: the body of the sample test, and a part of its report.
LEAKS = {
    "descriptor": ("os.dup(0)", "  descriptor "),
    "child": ("kept.append(subprocess.Popen(['sleep', '1000']))", "  process "),
    "grandchild": ("subprocess.run('sleep 1000 >/dev/null 2>&1 &', shell=True)", "  process "),
    "thread": ("threading.Thread(target=threading.Event().wait, daemon=True).start()", "  thread "),
    "queue memory": (
        "fd = os.memfd_create('penstock-sample'); os.ftruncate(fd, 4096)\n"
        "    kept.append(mmap.mmap(fd, 4096)); os.close(fd)",
        "  queue memory: ",
    ),
    "file": (f"open('{LEFT_FILE}', 'w').close()", f"  {LEFT_FILE}"),
}


def run_sample(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_sample.py").write_text(SAMPLE.format(body=body))
    # Without what the installed libraries warn of: it would be counted beside the tests.
    plugins = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-p", "no:warnings"]
    command = [sys.executable, "-m", "pytest", *plugins, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("leak", LEAKS)
def test_leak_fails_the_test_that_left_it(leak: str, tmp_path: Path) -> None:
    body, report = LEAKS[leak]
    try:
        done = run_sample(tmp_path, body)
    finally:
        LEFT_FILE.unlink(missing_ok=True)
    assert done.returncode == 1, done.stdout
    assert "left behind by the test:" in done.stdout
    assert report in done.stdout
    # Counted once: the next test passes.
    assert "2 passed, 1 error" in done.stdout


def test_what_ends_in_the_test_is_no_leak(tmp_path: Path) -> None:
    body = "with fork(os.getpid) as child: assert child.result() == child.pid\n    os.close(os.dup(0))"
    done = run_sample(tmp_path, body)
    assert done.returncode == 0, done.stdout


def test_failed_test_reports_its_own_failure_alone(tmp_path: Path) -> None:
    done = run_sample(tmp_path, "file = os.fdopen(os.dup(0))\n    assert file is None")
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "left behind" not in done.stdout


def test_hang_ends_the_run_with_the_stacks_of_all_processes(tmp_path: Path) -> None:
    body = "fork(blocked_in_child).wait()\n\ntest_sample = pytest.mark.limit(1)(test_sample)"
    done = run_sample(tmp_path, body)
    assert done.returncode == -signal.SIGKILL
    assert "HANGS: test_sample.py::test_sample" in done.stderr
    assert "in blocked_in_child" in done.stderr
    assert "in wait" in done.stderr
    assert done.stderr.count("Python's stacks of process") == 2
    assert "system call: " in done.stderr


def test_death_of_the_test_process_takes_its_children_with_it(tmp_path: Path) -> None:
    # The children hold the output open, so `run_sample` returns only after their end.
    done = run_sample(tmp_path, "fork(blocked_in_child); os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL
    assert "The test process died by itself in test_sample.py::test_sample." in done.stderr


def test_death_of_the_test_process_ends_the_watchdog(tmp_path: Path) -> None:
    # No other process has the watchdog's pipe, so that it reads its end, again and again.
    done = run_sample(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL
    assert "The test process died by itself in test_sample.py::test_sample." in done.stderr


def test_stopped_process_is_ended_too(tmp_path: Path) -> None:
    body = (
        "child = fork(blocked_in_child); child.kill(signal.SIGSTOP); child.wait()"
        "\n\ntest_sample = pytest.mark.limit(1)(test_sample)"
    )
    done = run_sample(tmp_path, body)
    assert done.returncode == -signal.SIGKILL
    assert "State:\tT (stopped)" in done.stderr


def test_tests_are_importable_by_their_children() -> None:
    assert __name__ == "tests.support.test_harness"
    assert os.path.samefile(sys.modules["tests"].__path__[0], ROOT / "tests")


def test_make_runs_every_test_file() -> None:
    tests = ROOT / "tests"
    [folders] = re.findall(r"^FOLDERS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {path.relative_to(tests).parts[0] for path in tests.rglob("test_*.py")} == set(folders.split())
