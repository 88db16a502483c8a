"""Queues need no /dev/shm: it may be full, read-only or missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# Run in a mount namespace of its own, so that no other program sees it.
MOUNTS = {
    "full": """
        mount -t tmpfs -o size=4k tmpfs /dev/shm
        head -c 4096 /dev/zero > /dev/shm/full
        ! head -c 1 /dev/zero > /dev/shm/more
    """,
    "read-only": """
        mount -t tmpfs -o ro tmpfs /dev/shm
        ! touch /dev/shm/file
    """,
    "absent": """
        dev=$(mktemp -d)
        mount -t tmpfs tmpfs "$dev"
        for name in null zero urandom; do touch "$dev/$name"; mount --bind "/dev/$name" "$dev/$name"; done
        mount --rbind "$dev" /dev
        ! test -e /dev/shm
    """,
}

PROGRAM = """
import multiprocessing, sys
import penstock

def work(tasks, results, simple):
    while (task := tasks.get()) is not None:
        results.put(task * 2)
        tasks.task_done()
    tasks.task_done()
    simple.put("done")

if __name__ == "__main__":
    # The standard library's queues cannot even be made here.
    try:
        multiprocessing.Queue()
    except OSError as error:
        print("multiprocessing:", type(error).__name__)
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        tasks, results, simple = penstock.JoinableQueue(), penstock.Queue(), penstock.SimpleQueue()
        workers = [context.Process(target=work, args=(tasks, results, simple)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for size in (1, 1000, 100_000, 10_000_000):
            tasks.put(b"x" * size)
        for _ in workers:
            tasks.put(None)
        tasks.join()
        sizes = sorted(len(results.get()) for _ in range(4))
        assert sizes == [2, 2000, 200_000, 20_000_000], sizes
        assert [simple.get() for _ in workers] == ["done", "done"]
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        print(method, "works")
"""


def namespace() -> list[str]:
    """The command that runs another in a mount namespace of its own."""
    command = (
        ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    )
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("NOT TESTED without /dev/shm: there is no command unshare (package util-linux)")
    if tried.returncode != 0:
        pytest.skip(
            f"NOT TESTED without /dev/shm: the kernel forbids a mount namespace: {tried.stderr.strip()}"
        )
    return command


@pytest.mark.parametrize("state", MOUNTS)
def test_queues_without_dev_shm(state: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    script = f"set -e\n{MOUNTS[state]}\nexec {sys.executable} {program}"
    done = subprocess.run([*namespace(), "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        done.stdout.splitlines()[0],
        "fork works",
        "spawn works",
        "forkserver works",
    ]
    # The standard library's line shows that /dev/shm cannot be used there.
    assert done.stdout.startswith("multiprocessing: ")
    assert "SIGBUS" not in done.stderr
