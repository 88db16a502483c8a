"""Hold the layers of the core: a folder imports those below it and itself, nothing else.

usage: python tools/check_layers.py

Rust shows only half of the dependencies. A method of `Queue`, `Shared`, `Section` or `Guard` can be called
without an import of the file that defines it. So a call counts as a dependency, too, if no layer that the
caller may use defines a method of that name.

Two rules more: only the layer `state` extends `Section`, and nothing imports by the names that lib.rs
re-exports.

Prints each fault. Exit status: 0 if there is none, else 1.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "crates" / "penstock-core" / "src"

# The lowest first. A layer is a folder, or files beside lib.rs.
LAYERS = [
    ("error", "units", "sync"),
    ("platform",),
    ("fault", "options", "slice", "fork"),
    ("memory",),
    ("state",),
    ("lock",),
    ("handle",),
    ("operations",),
    ("diagnostics",),
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

EXTENDED = {"Queue", "Shared", "Section", "Guard"}
# Methods that types of the standard library have as well: of a call one cannot tell whose it is.
COMMON = {"count", "deref", "deref_mut", "drop", "get", "is_empty", "join", "len", "new", "position", "take"}


def code(text: str) -> str:
    """Without comments and the contents of strings."""
    return re.sub(r'"(\\.|[^"\\])*"', '""', re.sub(r"//[^\n]*", "", text))


def layer_of(path: Path) -> str:
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


def read_sources() -> dict[Path, str]:
    """Without the models, which stand in the place of other files, and unit tests."""
    return {
        path: code(path.read_text())
        for path in sorted(SOURCE.rglob("*.rs"))
        if layer_of(path) not in ("lib", "models") and path.name not in ("tests.rs", "model.rs")
    }


def methods(text: str) -> dict[str, set[str]]:
    """The methods that a file gives to each type."""
    found: dict[str, set[str]] = defaultdict(set)
    for start in re.finditer(r"^impl(?:<[^>]*>)?\s+([A-Z]\w*)[^\n]*\{", text, re.M):
        found[start[1]].update(re.findall(r"\bfn\s+(\w+)", block(text, start.start())))
    return found


def imports(text: str) -> set[str]:
    """What follows `crate::`: layers, and names that lib.rs re-exports."""
    names: set[str] = set()
    for found in re.finditer(r"\bcrate::(?:\{([^}]*)\}|(\w+))", text):
        names.update(re.findall(r"(?:^|,)\s*(\w+)", found[1]) if found[1] else [found[2]])
    return names


def check(sources: dict[Path, str]) -> list[str]:
    faults = []
    extensions: dict[str, set[str]] = defaultdict(set)
    own: dict[str, set[str]] = defaultdict(set)
    for path, text in sources.items():
        for kind, names in methods(text).items():
            own[layer_of(path)] |= names
            if kind in EXTENDED:
                for name in names:
                    extensions[name].add(layer_of(path))
            if kind == "Section" and layer_of(path) != "state":
                faults.append(f"{path.relative_to(SOURCE)} extends Section, which only state does")
    for path, text in sources.items():
        here, place = layer_of(path), path.relative_to(SOURCE)
        for name in sorted(imports(text)):
            if name == "models":
                continue  # which stand in the place of atomics and kernel
            if name not in LEVEL:
                faults.append(f"{place} imports {name} by lib.rs")
            elif LEVEL[name] > LEVEL[here]:
                faults.append(f"{place} imports {name}")
        for name in sorted(set(re.findall(r"\.(\w+)\(", text)) - COMMON):
            is_below = any(name in own[other] for other in LEVEL if LEVEL[other] <= LEVEL[here])
            there = extensions.get(name)
            if there and not is_below:
                faults.append(f"{place} calls {name}() of {min(there)}")
    return faults


def main() -> int:
    sources = read_sources()
    unknown = {layer_of(path) for path in sources} - set(LEVEL)
    faults = check(sources) if not unknown else [f"{name} is in no layer" for name in sorted(unknown)]
    for fault in faults:
        print(f"check_layers.py: {fault}", file=sys.stderr)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
