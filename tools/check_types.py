"""Check programs as their authors' type checkers do: by mypy --strict, and by pyright in its strict mode.

usage: python tools/check_types.py FILE ...

A document's programs are its blocks that are fenced as `python` and have no prompts; a Python file is a
program by itself. They are checked against the Penstock that is installed beside the checkers. pyright is
the one of basedpyright, which brings its own node.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from check_docs import BLOCK

CHECKERS = {
    "mypy": ["mypy", "--strict", "--config-file=", "--no-error-summary", "--cache-dir=/dev/null"],
    "pyright": ["basedpyright", "--pythonpath", sys.executable],
}
PYRIGHT = {"typeCheckingMode": "strict", "reportUnnecessaryTypeIgnoreComment": True}


def extract(document: Path, folder: Path) -> None:
    """Write a document's programs into the folder. Line numbers in a report are the document's."""
    text = document.read_text()
    for block in BLOCK.finditer(text):
        if block["language"] == "python" and ">>> " not in block["text"]:
            above = text.count("\n", 0, block.start("text"))
            program = folder / f"{document.stem}_{above + 1}.py"
            program.write_text("\n" * above + block["text"])


def main() -> int:
    """Exit status: 0 when nothing was found."""
    problems = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pyrightconfig.json").write_text(json.dumps(PYRIGHT))
        for path in map(Path, sys.argv[1:]):
            if path.suffix == ".py":
                shutil.copy(path, folder)
            else:
                extract(path, folder)
        programs = sorted(path.name for path in folder.glob("*.py"))
        for checker, (module, *options) in CHECKERS.items():
            command = [sys.executable, "-m", module, *options, *programs]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode != 0:
                problems.append(f"{checker}:\n{done.stdout}{done.stderr}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
