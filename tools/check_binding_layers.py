"""Hold the layers of the binding: a folder names only what it may of the crate and of the core.

usage: python tools/check_binding_layers.py

Prints each fault. Exit status: 0 if there is none, else 1.
"""

import re
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "crates" / "penstock-python" / "src"

# What a folder may name of a crate. The folder queue may name everything.
MAY_NAME = {
    ("interpreter", "crate"): {"interpreter"},
    ("interpreter", "penstock_core"): {"Error", "Patience", "Wait"},
    ("codec", "crate"): {"interpreter", "codec"},
    ("codec", "penstock_core"): set(),
}
FOLDERS = {"interpreter", "codec", "queue"}


def named(crate: str, text: str) -> set[str]:
    """The first names of all paths that begin with `crate::`, also of those in braces."""
    names = set()
    for found in re.finditer(rf"\b{crate}::(\w+|\{{)", text):
        if found[1] != "{":
            names.add(found[1])
            continue
        depth, start = 1, found.end()
        for at in range(found.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0 or (depth == 1 and text[at] == ","):
                names.update(re.findall(r"^\s*(\w+)", text[start:at]))
                start = at + 1
            if depth == 0:
                break
    return names


def main() -> int:
    faults = [
        f"{path.relative_to(SOURCE)} is in none of the folders {', '.join(sorted(FOLDERS))}"
        for path in sorted(SOURCE.rglob("*.rs"))
        if path.name != "lib.rs" and path.relative_to(SOURCE).parts[0] not in FOLDERS
    ]
    for (folder, crate), allowed in MAY_NAME.items():
        for path in sorted((SOURCE / folder).rglob("*.rs")):
            text = re.sub(r"//[^\n]*", "", path.read_text())
            for name in sorted(named(crate, text) - allowed):
                faults.append(f"{path.relative_to(SOURCE)} must not name {crate}::{name}")
    print(*faults, sep="\n", end="\n" if faults else "")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
