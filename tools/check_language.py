"""Check the language of comments and documents, and the width of lines.

usage: python tools/check_language.py [--counts]

- Comments, docstrings and documents name the role and the verb: they have few of the words that hide them
  (`WORDS`), at most so many in 1,000 lines with a comment.
- A line of code has at most 110 columns, unless a word of it does not fit.
- A line of a document has one whole sentence, in at most 200 characters; a cell of a table is as short.

Prints path:line: what, for each area above its limits. --counts prints what each area has.
"""

import argparse
import ast
import io
import itertools
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

WORDS = re.compile(r"\b(?:[Ww]ho|[Ww]hoever|[Nn]obody|[Ss]omebody|[Ll]ooks?)\b")
COLUMNS = 110
CHARACTERS = 200

DOCUMENTS = "documents"


@dataclass(frozen=True)
class Area:
    """A part of the repository, with its limits."""

    name: str
    patterns: tuple[str, ...]
    words: float
    """At most so many of `WORDS` in 1,000 lines with a comment."""
    lines: int
    """At most so many lines that are too wide, or have not one sentence."""


def code(folder: str, words: float, lines: int) -> Area:
    return Area(folder, tuple(f"{folder}/**/*.{ending}" for ending in ("rs", "py", "pyi")), words, lines)


AREAS = (
    code("crates/penstock-core", 10, 0),
    code("crates/penstock-python", 10, 0),
    code("crates/penstock-history", 10, 0),
    code("crates/penstock-proof", 10, 0),
    code("crates/penstock-steps", 10, 0),
    code("fuzz", 10, 0),
    code("python", 10, 0),
    code("tests", 10, 0),
    code("benchmarks", 10, 0),
    code("examples", 10, 0),
    Area("tools", ("tools/*",), 10, 0),
    Area("commands", ("Makefile", ".ci/run"), 10, 0),
    # Not docs/benchmarks, which `make bench` writes.
    Area(DOCUMENTS, ("*.md", "docs/*.md", "docs/design/*.md"), 10, 0),
)

RUST = re.compile(
    r"""
      (?P<comment> //[^\n]* | /\*.*?\*/ )
    | r(?P<hashes>\#*)".*?"(?P=hashes) | "(?:\\.|[^"\\])*" | '(?:\\.[^']*|[^'\\\n])'
    """,
    re.DOTALL | re.VERBOSE,
)
SHELL = re.compile(r"(?<!\S)#.*")

FENCE = re.compile(r"^ *```")
MARKER = re.compile(r"^ *(?:(?:[-*>]|\d+\.|#{1,6}) +)+")
# "e.g." and its like end no sentence.
NEXT_SENTENCE = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)(?<!\bvs)[.!?][\"')*`]* +(?=[\[(\"'*`]*[A-Z`])")
SENTENCE_END = re.compile(r"[.!?:;][\"')*`]*$")


def comments(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """The lines that have a comment or a docstring, with their numbers. One line may come more than once."""
    if path.suffix == ".rs":
        for token in RUST.finditer(text):
            if comment := token["comment"]:
                first = text.count("\n", 0, token.start()) + 1
                yield from enumerate(comment.splitlines(), first)
    elif path.suffix in (".py", ".pyi"):
        for comment in tokenize.generate_tokens(io.StringIO(text).readline):
            if comment.type == tokenize.COMMENT:
                yield comment.start[0], comment.string
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            match node:
                case ast.Expr(value=ast.Constant(value=str()), end_lineno=int(last)):
                    yield from enumerate(lines[node.lineno - 1 : last], node.lineno)
    else:
        for number, line in enumerate(text.splitlines(), 1):
            if comment := SHELL.search(line):
                yield number, comment[0]


def wide_lines(text: str) -> Iterator[tuple[int, str]]:
    """What is wrong with lines of code."""
    for number, line in enumerate(text.splitlines(), 1):
        indentation = len(line) - len(line.lstrip())
        if len(line) > COLUMNS and indentation + max(map(len, line.split())) <= COLUMNS:
            yield number, f"{len(line)} columns, at most {COLUMNS}"


def prose(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a document outside its blocks of code. The block's lines are empty."""
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if FENCE.match(line):
            is_code = not is_code
            line = ""
        yield number, "" if is_code else line


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """What is wrong with the lines of a document."""
    lines = [*prose(text), (0, "")]
    for (number, line), (_, following) in itertools.pairwise(lines):
        if line.lstrip().startswith("|"):
            for cell in re.split(r"(?<!\\)\|", line):
                if len(cell.strip()) > CHARACTERS:
                    yield number, f"a cell of {len(cell.strip())} characters, at most {CHARACTERS}"
            continue
        body = MARKER.sub("", line)
        if len(line) > CHARACTERS:
            yield number, f"{len(line)} characters, at most {CHARACTERS}"
        if NEXT_SENTENCE.search(body):
            yield number, "more than one sentence"
        goes_on = following.strip() and not MARKER.match(following) and not following.lstrip().startswith("|")
        if body and goes_on and not line.startswith("#") and not SENTENCE_END.search(body):
            yield number, "a sentence that goes on in the next line"


@dataclass
class Found:
    """What an area has."""

    comment_lines: int = 0
    words: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def read(self, path: Path, name: str) -> None:
        text = path.read_text()
        is_document = path.suffix == ".md"
        texts = prose(text) if is_document else comments(path, text)
        numbers = set()
        for number, line in sorted(texts):
            if re.search(r"\w", line):
                numbers.add(number)
            self.words += [f"{name}:{number}: {word}" for word in WORDS.findall(line)]
        self.comment_lines += len(numbers)
        problems = sentences(text) if is_document else wide_lines(text)
        self.lines += [f"{name}:{number}: {problem}" for number, problem in problems]

    @property
    def words_in_1000(self) -> float:
        return 1000 * len(self.words) / max(self.comment_lines, 1)


def find(area: Area, root: Path) -> Found:
    found = Found()
    for path in sorted({path for pattern in area.patterns for path in root.glob(pattern) if path.is_file()}):
        name = path.relative_to(root)
        if "target" not in name.parts and path.suffix != ".suppressions":
            found.read(path, str(name))
    return found


def problems(area: Area, found: Found) -> Iterator[str]:
    """What is above the area's limits."""
    if found.words_in_1000 > area.words:
        yield from found.words
        yield f"{area.name}: {found.words_in_1000:.1f} such words in 1,000 lines, at most {area.words:g}"
    if len(found.lines) > area.lines:
        yield from found.lines
        yield f"{area.name}: {len(found.lines)} such lines, at most {area.lines}"


def main() -> int:
    """Exit status: 0 when every area is within its limits."""
    parser = argparse.ArgumentParser(description="Check the language of comments and documents.")
    parser.add_argument("--counts", action="store_true", help="print what each area has, and judge nothing")
    arguments = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    status = 0
    for area in AREAS:
        found = find(area, root)
        if arguments.counts:
            counts = f"{found.comment_lines:6} lines, {found.words_in_1000:6.1f} words in 1,000"
            print(f"{area.name:24} {counts}, {len(found.lines):4} lines to mend")
            continue
        for problem in problems(area, found):
            print(problem, file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
