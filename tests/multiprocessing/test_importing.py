"""What `import penstock` loads, and where it works."""

import os
import subprocess
import sys

import pytest

import penstock
from tests.support.interpreter import FREE_THREADED


def run(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", program], capture_output=True, text=True, timeout=50
    )


# Modules that are slow to import, or needed by an open queue or by few programs only.
LATE = ["typing", "dataclasses", "inspect", "importlib.util", "pickletools", "argparse"]
LATE += [f"penstock.{name}" for name in ("buffers", "cli", "connections", "demo", "statistics")]
LATE += [f"penstock._multiprocessing.{name}" for name in ("attributes", "patching", "reduction", "running")]


def test_modules_that_an_import_does_not_load() -> None:
    folder = os.path.dirname(penstock.__path__[0])
    program = f"import sys; sys.path.append({folder!r}); import multiprocessing.queues, penstock;"
    program += f"print([name for name in {LATE!r} if name in sys.modules])"
    done = run(program, "-S")  # without the imports of site-packages
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_all_names_are_there() -> None:
    program = "import penstock; print([name for name in penstock.__all__ if not hasattr(penstock, name)])"
    assert run(program).stdout == "[]\n"
    assert run("from penstock import *; print(patch, unpatch, Pipe, Statistics)").stderr == ""


SUB_INTERPRETERS = """
try:
    import _interpreters
    def run_elsewhere(program):
        problem = _interpreters.exec(_interpreters.create("legacy"), program)
        print(problem and problem.formatted, flush=True)
except ImportError:
    import _xxsubinterpreters as _interpreters
    def run_elsewhere(program):
        try:
            _interpreters.run_string(_interpreters.create(isolated=False), program)
        except Exception as error:
            print(error, flush=True)

use = "import penstock; q = penstock.Queue(); q.put([1]); print(q.get(), flush=True)"
"""


@pytest.mark.skipif(FREE_THREADED, reason="sub-interpreters turn the GIL on there")
@pytest.mark.parametrize("order", [["exec", "run_elsewhere"], ["run_elsewhere", "run_elsewhere", "exec"]])
def test_another_interpreter_says_why_not_and_does_no_harm(order: list[str]) -> None:
    done = run(SUB_INTERPRETERS + "".join(f"{function}(use)\n" for function in order))
    assert (done.returncode, done.stderr) == (0, "")
    for function, line in zip(order, done.stdout.splitlines(), strict=True):
        if function == "exec":
            assert line == "[1]"
        else:
            assert "Penstock works in the main interpreter of a process only" in line
