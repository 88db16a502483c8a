"""`penstock run`: replaces this process by an interpreter that runs the program with Penstock patched in."""

import getopt
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

_BOOTSTRAP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_bootstrap")


def run(program: Sequence[str]) -> NoReturn:
    """Replace this process by an interpreter that runs `program` with Penstock patched in.

    `program` is what would follow the interpreter's options on its command line: a path, or `-m` and a
    module, then the program's arguments. The process keeps its pid, open files, working folder and
    environment, and the interpreter the options that it was started with, so the program runs as under plain
    Python. See `penstock.patch` for what is patched. Never returns.

    Raises RuntimeError if the interpreter's options or the path of Penstock's folder rule out PYTHONPATH.

        penstock._multiprocessing.running.run(["-m", "json.tool", "--help"])
    """
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise RuntimeError(
            "the interpreter was started with -E, -I or -S, and so would import no sitecustomize from "
            "PYTHONPATH, which is Penstock's way in: leave the option out, or call penstock.patch() in the "
            "program"
        )
    if os.pathsep in _BOOTSTRAP:
        raise RuntimeError(f"Penstock is installed in a folder that PYTHONPATH cannot name: {_BOOTSTRAP}")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *_interpreter_options(), *program], _environment())


def _interpreter_options() -> list[str]:
    """Return the options given to this interpreter, as they were written."""
    options, _ = getopt.getopt(sys.orig_argv[1:], "bBc:dEhiIm:OPqRsStuvVW:xX:?", ["check-hash-based-pycs="])
    # -c and -m end the interpreter's options: with them came the code that called this function.
    return [part for option in options if option[0] not in ("-c", "-m") for part in option if part]


def _environment() -> dict[str, str]:
    """Return the environment for the interpreter, which `_bootstrap/sitecustomize.py` restores."""
    environment = dict(os.environ)
    path = environment.get("PYTHONPATH")
    if path is not None:
        environment["PENSTOCK_PYTHONPATH"] = path
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [_BOOTSTRAP, path]))
    return environment
