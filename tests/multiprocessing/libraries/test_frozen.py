"""Penstock inside programs that PyInstaller has frozen."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import multiprocessing, sys
import penstock

def work(tasks, connection):
    connection.send((type(multiprocessing.Queue()).__module__, tasks.get()))
    tasks.task_done()

def main(method):
    context = multiprocessing.get_context(method)
    tasks, (here, there) = context.JoinableQueue(), context.Pipe()
    process = context.Process(target=work, args=(tasks, there))
    process.start()
    tasks.put(method)
    print(*here.recv(), type(tasks).__module__, type(here).__module__)
    tasks.join()
    process.join()
    with context.Pool(2) as pool:
        print(process.exitcode, pool.map(abs, [-1, 2]))

if __name__ == "__main__":
    multiprocessing.freeze_support()
    penstock.patch()
    main(sys.argv[1])
"""


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("objdump") is None:
        pytest.fail("PyInstaller needs objdump: install binutils (Debian, Ubuntu: apt install binutils)")
    folder = tmp_path_factory.mktemp("frozen")
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", "program.py"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return folder / "dist/program/program"


@pytest.mark.limit(300)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_patched(frozen: Path, method: str) -> None:
    done = subprocess.run([frozen, method], capture_output=True, text=True, timeout=100)
    assert done.stderr == ""
    assert done.stdout == f"penstock.queues {method} penstock.queues penstock.connections\n0 [1, 2]\n"
