"""The programs in the pages for users run, as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("asyncio", "endings", "leases")

PROGRAMS = [
    pytest.param(program, id=f"{page}-{number}")
    for page in PAGES
    for number, program in enumerate(
        re.findall(r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.M | re.S), 1
    )
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_in_a_page(program: str, tmp_path: Path) -> None:
    # In a file, so that processes of every start method can import it.
    path = tmp_path / "program.py"
    path.write_text(program)
    command = [sys.executable, "-W", "error", str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
