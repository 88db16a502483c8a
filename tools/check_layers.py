"""Hold the layers of the core: a folder imports those below it and itself, nothing else.

usage: python tools/check_layers.py

Rust shows only half of the dependencies. A method of `Queue`, `Shared`, `Section` or `Guard` can be called without an
import of the file that defines it, so a call counts as a dependency, too, if no layer that the caller may use
defines a method of that name.

The exceptions are arrows of today that point upwards. One that is not needed any more has to be removed.

Prints each fault. Exit status: 0 if there is none, else 1.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "crates" / "penstock-core" / "src"

# The lowest first. A layer is a folder, or files beside lib.rs.
LAYERS = [
    ("base", "error units sync"),
    ("platform", "platform"),
    ("process", "fault options slice fork"),
    ("memory", "memory"),
    ("state", "state"),
    ("lock", "lock"),
    ("handle", "handle"),
    ("operations", "operations"),
    ("diagnostics", "diagnostics"),
]
EXCEPTIONS: set[tuple[str, str]] = {
    ("handle", "operations"),
    ("operations", "diagnostics"),
    ("state", "diagnostics"),
    ("state", "handle"),
    ("state", "lock"),
    ("state", "operations"),
}

EXTENDED = {"Queue", "Shared", "Section", "Guard"}
# Names of methods that types of the standard library have as well: a call does not tell whose method it is.
COMMON = set(
    "get len is_empty new take keep find forget drop deref deref_mut id fd count position try_reserve join".split()
)


def code(text: str) -> str:
    """Without comments and the contents of strings."""
    return re.sub(r'"(\\.|[^"\\])*"', '""', re.sub(r"//[^\n]*", "", text))


def module(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".rs")


def block(text: str, start: int) -> str:
    """The text between the next braces."""
    first = at = text.index("{", start)
    depth = 0
    while True:
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[first : at + 1]
        at += 1


def main() -> int:
    level = {name: number for number, (_, names) in enumerate(LAYERS) for name in names.split()}
    files = {
        path: code(path.read_text())
        for path in sorted(SOURCE.rglob("*.rs"))
        if module(path) not in ("lib", "models") and path.name not in ("tests.rs", "model.rs")
    }
    faults = [f"{name} is in no layer" for name in sorted({module(path) for path in files} - set(level))]
    if faults:
        print(*faults, sep="\n")
        return 1

    # Where each method is defined: of the types that every layer extends, and of all types.
    extensions: dict[str, set[str]] = defaultdict(set)
    methods: dict[str, set[str]] = defaultdict(set)
    for path, text in files.items():
        here = module(path)
        for found in re.finditer(r"^impl(?:<[^>]*>)?\s+([A-Z]\w*)[^\n]*\{", text, re.M):
            names = re.findall(r"\bfn\s+(\w+)", block(text, found.start()))
            methods[here].update(names)
            if found[1] in EXTENDED:
                for name in names:
                    extensions[name].add(here)

    arrows: dict[tuple[str, str], str] = {}
    for path, text in files.items():
        here, place = module(path), path.relative_to(SOURCE)
        for found in re.finditer(r"\bcrate::(?:\{([^}]*)\}|(\w+))", text):
            names = re.findall(r"(?:^|,)\s*(\w+)", found[1]) if found[1] else [found[2]]
            for name in names:
                if level.get(name, -1) > level[here]:
                    arrows[here, name] = f"{place} imports {name}"
        for name in set(re.findall(r"\.(\w+)\(", text)) - COMMON - methods[here]:
            there = extensions.get(name)
            if there and all(level[other] > level[here] for other in there):
                arrows.setdefault((here, min(there)), f"{place} calls {name}() of {min(there)}")

    faults += [what for arrow, what in sorted(arrows.items()) if arrow not in EXCEPTIONS]
    faults += [f"the exception {arrow} is not needed" for arrow in sorted(EXCEPTIONS - set(arrows))]
    if faults:
        print(*faults, sep="\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
