"""Runs programs as a user does: by Python alone, or by `penstock run`."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the checkout
METHODS = ("fork", "spawn", "forkserver")
PLAIN: tuple[str, ...] = ()
PENSTOCK = (os.path.join(os.path.dirname(sys.executable), "penstock"), "run")


def run(
    way: Sequence[str],
    program: Sequence[str | Path],
    *,
    folder: Path,
    options: Sequence[str] = (),
    environment: Mapping[str, str | None] | None = None,
    stdin: bytes = b"",
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in `folder`, and return its outcome.

    `way` is `PLAIN` or `PENSTOCK`, `options` are the interpreter's; None in `environment` removes a variable.
    """
    command = [sys.executable, *options, *way, *map(str, program)]
    changed = {**os.environ, **(environment or {})}
    variables = {name: value for name, value in changed.items() if value is not None}
    return subprocess.run(command, cwd=folder, env=variables, input=stdin, capture_output=True)


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files, named relative to `folder`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
