"""Run the interpreters' own tests of queues with the built wheel, on every installed CPython.

usage: python tools/cpython_tests.py WHEEL [argument of tests/multiprocessing/cpython/run.py ...]

With --sample on the oldest and the newest of them only.

The wheel is for the stable ABI, so all of them get the same, each in an environment `.venvs/<version>`.
A free-threaded interpreter has no such ABI: run by one, this tests its own version only.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".venvs"
RUNNER = "tests/multiprocessing/cpython/run.py"
ASYNC_RUNNER = "tests/asynchronous/cpython/run.py"
LANES = 2  # interpreters at a time: most of their tests sleep

# Some distributions package `test` apart.
PROBE = """
import importlib.util, sys, sysconfig, venv
wanted = sys.argv[1]
kind = sysconfig.get_config_var("SOABI") if sysconfig.get_config_var("Py_GIL_DISABLED") else "stable"
fits = (
    sys.implementation.name == "cpython"
    and sys.version_info >= (3, 11)
    and sys.version_info.releaselevel == "final"
    and kind == wanted
)
if fits:
    tests = importlib.util.find_spec("test._test_multiprocessing")
    print("%d.%d.%d" % sys.version_info[:3], "tested" if tests else "untested", sys._base_executable)
"""


def wanted_abi() -> str:
    """What the probe says of an interpreter that can load this one's wheel."""
    free_threaded = sysconfig.get_config_var("Py_GIL_DISABLED")
    return str(sysconfig.get_config_var("SOABI")) if free_threaded else "stable"


def candidates() -> Iterator[Path]:
    """Every file that may be a CPython, whether or not it is on the PATH."""
    folders = [Path(sys.base_prefix, "bin"), *map(Path, os.get_exec_path())]
    folders += [Path("/usr/local/bin"), Path("/usr/bin")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders += pyenv.glob("versions/*/bin")
    folders += Path.home().glob(".local/share/uv/python/*/bin")
    for folder in folders:
        # pyenv's shims stand for interpreters that the folders of its versions have themselves.
        if folder != pyenv / "shims":
            yield from sorted(folder.glob("python3.[0-9]*[0-9t]"))


def interpreters() -> tuple[dict[str, str], dict[str, str]]:
    """The installed CPythons from 3.11 up with these tests, and those without: version -> path."""
    found: dict[str, dict[str, str]] = {"tested": {}, "untested": {}}
    for path in dict.fromkeys(candidate.resolve() for candidate in candidates()):
        probe = subprocess.run([path, "-c", PROBE, wanted_abi()], capture_output=True, text=True, cwd="/")
        if probe.returncode == 0 and probe.stdout:
            version, kind, executable = probe.stdout.strip().split(maxsplit=2)
            found[kind].setdefault(version, executable)
    in_order = sorted(found["tested"].items(), key=lambda item: [int(part) for part in item[0].split(".")])
    return dict(in_order), found["untested"]


def prepare(version: str, executable: str, wheel: Path) -> Path:
    """The Python of an environment of that interpreter with this wheel in it, made or renewed if need be."""
    environment = ENVIRONMENTS / version
    python = environment / "bin" / "python"
    installed = environment / "installed"  # the wheel's time stamp, written when all is done
    stamp = f"{executable} {wheel.stat().st_mtime_ns}"
    if not installed.exists() or installed.read_text() != stamp:
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run([executable, "-m", "venv", "--without-pip", environment], check=True)
        pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(python)]
        subprocess.run([*pip, "install", "--no-index", "--no-deps", wheel], check=True)
        installed.write_text(stamp)
    return python


def run(python: Path, arguments: list[str]) -> tuple[bool, str]:
    """Whether the tests of one interpreter passed, and what they printed."""
    passed, output = True, ""
    for command in ([python, ASYNC_RUNNER], [python, RUNNER, *arguments]):
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        passed, output = passed and done.returncode == 0, output + done.stdout
    return passed, output


def main() -> int:
    """Exit status: 0 when they passed on each interpreter that has them."""
    wheel, arguments = Path(sys.argv[1]), sys.argv[2:]
    tested, untested = interpreters()
    left_out: list[str] = []
    if "--sample" in arguments:
        _, *left_out = list(tested)[:-1] or [""]  # neither the oldest nor the newest
    failed = []
    with ThreadPoolExecutor(LANES) as lanes:
        runs = [
            (version, lanes.submit(run, prepare(version, executable, wheel), arguments))
            for version, executable in tested.items()
            if version not in left_out
        ]
        for version, done in runs:
            passed, output = done.result()
            print(f"== CPython {version}: its multiprocessing tests, on penstock")
            print(output, end="", flush=True)
            if not passed:
                failed.append(version)
    for version in left_out:
        print(f"== CPython {version}: left out of the sample, which has the oldest and the newest only")
    for version, executable in untested.items():
        minor = version.rpartition(".")[0]
        print(
            f"== CPython {version}: not tested, because {executable} comes without the module test "
            f"(Debian, Ubuntu: apt install libpython{minor}-testsuite)"
        )
    if failed:
        print(f"penstock: the multiprocessing tests failed on CPython {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
