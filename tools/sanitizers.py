"""Run the core's tests under AddressSanitizer and ThreadSanitizer.

usage: python tools/sanitizers.py [address|thread ...]

The sanitizers are options that only nightly compilers accept; RUSTC_BOOTSTRAP=1 lets the stable one accept
them. The standard library stays as it was built, without them: AddressSanitizer then misses faults inside it,
and ThreadSanitizer does not see what its locks order, which tools/thread-sanitizer.suppressions makes up for.
So ThreadSanitizer runs the tests whose threads meet in the queue alone. It also does not see
what two processes do: those are tested by death.

Exits with 1 if a test failed or a sanitizer reported something.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = f"{os.uname().machine}-unknown-linux-gnu"
SUPPRESSIONS = ROOT / "tools" / "thread-sanitizer.suppressions"


@dataclass(frozen=True)
class Sanitizer:
    flags: str
    options: dict[str, str]
    tests: list[str]


SANITIZERS = {
    "address": Sanitizer(
        # What is not freed at the end is reported, too.
        "-Zsanitizer=address",
        {"ASAN_OPTIONS": "detect_leaks=1:detect_stack_use_after_return=1"},
        ["behaviour", "notifier", "connection", "model", "threads"],
    ),
    "thread": Sanitizer(
        # The option says that the standard library is known to be built without.
        "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer",
        {"TSAN_OPTIONS": f"suppressions={SUPPRESSIONS}"},
        ["threads"],
    ),
}


def run(name: str, test: str) -> tuple[bool, float]:
    """Whether the tests of one file passed without a report, and the seconds it took."""
    sanitizer = SANITIZERS[name]
    folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / f"sanitizer-{name}"
    environment = {
        **os.environ,
        **sanitizer.options,
        "CARGO_TARGET_DIR": str(folder),
        "RUSTC_BOOTSTRAP": "1",
        "RUSTFLAGS": sanitizer.flags,
    }
    command = ["cargo", "test", "--quiet", "--locked", "--target", TARGET, "-p", "penstock-core"]
    command += ["--test", test, "--", "--test-threads=1"]
    print(f"== {name}: {test}", flush=True)
    start = time.monotonic()
    status = subprocess.run(command, cwd=ROOT, env=environment).returncode
    return status == 0, time.monotonic() - start


def main() -> None:
    names = sys.argv[1:] or list(SANITIZERS)
    if unknown := set(names) - set(SANITIZERS):
        raise SystemExit(f"no such sanitizer: {', '.join(sorted(unknown))}\n{__doc__}")
    results = {(name, test): run(name, test) for name in names for test in SANITIZERS[name].tests}
    print("\nsanitizer  test        seconds  result")
    for (name, test), (is_clean, seconds) in results.items():
        print(f"{name:9}  {test:10}  {seconds:7.0f}  {'clean' if is_clean else 'REPORTED'}")
    raise SystemExit(0 if all(is_clean for is_clean, _ in results.values()) else 1)


if __name__ == "__main__":
    main()
