"""Check the documentation: run its Python, follow its links.

usage: python tools/check_docs.py FILE.md ...

- Each block fenced as `python` is executed, in an empty folder. The blocks with prompts are one doctest for
  each document; any other block is a program of its own, which has to end with status 0.
- Each relative link names a file that exists, and each anchor a heading of the file it points into.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

BLOCK = re.compile(r"^(?P<fence>`{3,})(?P<language>\w*).*\n(?P<text>(?s:.*?))^(?P=fence) *$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(\s*([^)\s]+)[^)]*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
HEADING = re.compile(r"^#{1,6} +(.+?)[ #]*$", re.MULTILINE)
WATCHDOG_SECONDS = 120


def anchors(text: str) -> set[str]:
    """The anchors that the headings get on the usual hosts of Markdown."""
    names: list[str] = []
    for heading in HEADING.findall(BLOCK.sub("", text)):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).strip().replace(" ", "-")
        again = sum(re.fullmatch(re.escape(slug) + r"(-\d+)?", name) is not None for name in names)
        names.append(f"{slug}-{again}" if again else slug)
    return set(names)


def broken_links(path: Path, text: str) -> Iterator[str]:
    """A sentence for each link that leads nowhere."""
    prose = re.sub(r"`[^`\n]*`", "code", BLOCK.sub("", text))
    for inline, reference in LINK.findall(prose):
        target = inline or reference
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue  # absolute: another's page, and the network is no part of this check
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists():
            yield f"{path}: the link to {target} leads to no file"
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text()):
            yield f"{path}: the link to {target} leads to no heading"


def run(name: str, source: str, *options: str) -> str | None:
    """What went wrong when the source ran, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, name)
        program.write_text(source)
        with subprocess.Popen(
            [sys.executable, *options, program],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,  # so that the watchdog ends its children too
        ) as process:
            try:
                output, _ = process.communicate(timeout=WATCHDOG_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return f"did not end within {WATCHDOG_SECONDS} s; it printed\n{process.communicate()[0]}"
    if process.returncode == 0:
        return None
    return f"ended with status {process.returncode} and printed\n{output}"


def broken_examples(path: Path, text: str) -> Iterator[str]:
    """A sentence for each example that fails. Line numbers in its report are the document's."""
    blocks = [block for block in BLOCK.finditer(text) if block["language"] == "python"]
    session = ""
    for block in blocks:
        above = text.count("\n", 0, block.start("text"))
        if ">>> " in block["text"]:
            session += "\n" * (above - session.count("\n")) + block["text"]
        elif problem := run("example.py", "\n" * above + block["text"]):
            yield f"{path}:{above + 1}: the example {problem}"
    if session and (problem := run("session.txt", session, "-m", "doctest")):
        yield f"{path}: the example with prompts {problem}"


def main() -> int:
    """Exit status: 0 when nothing was found."""
    problems = []
    for path in map(Path, sys.argv[1:]):
        text = path.read_text()
        problems += [*broken_links(path, text), *broken_examples(path, text)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
