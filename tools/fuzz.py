"""Fuzz the core: operations on a queue whose shared memory is damaged (see fuzz/src/lib.rs).

usage: python tools/fuzz.py [--seconds N] [--minimise]

Needs a C++ compiler (g++) and the stable Rust. The fuzzer's instrumentation and AddressSanitizer are
options that only nightly compilers accept. RUSTC_BOOTSTRAP=1 lets the stable one accept them: so what is
fuzzed is what the released compiler makes, and no second one is needed. Where cargo-fuzz is installed,
`cargo +nightly fuzz run --features libfuzzer damage` does the same.

New inputs are kept in build/fuzz/corpus. With --minimise the files in fuzz/corpus, which the tests
replay, are replaced by few that reach all that both folders reach. An input that finds something is left
in build/fuzz. Exits with 1 if something was found.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ROOT / "fuzz" / "corpus"
BUILD = ROOT / "build" / "fuzz"
TARGET = f"{os.uname().machine}-unknown-linux-gnu"

# What cargo-fuzz passes.
FLAGS = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Zsanitizer=address",
]
# A hang is an input that takes this long; most take a few milliseconds.
LIMITS = ["-timeout=10", "-rss_limit_mb=3000", "-max_len=400"]
MOST_FILES, MOST_BYTES = 200, 500_000

STATUS = re.compile(r"#(\d+)\s.*cov: (\d+) .*corp: (\d+)/")


def build() -> Path:
    """The fuzzer's program, up to date."""
    folder = Path(os.environ.get("CARGO_TARGET_DIR", BUILD / "target")) / "fuzzer"
    environment = {
        **os.environ,
        "CARGO_TARGET_DIR": str(folder),
        "RUSTC_BOOTSTRAP": "1",
        "RUSTFLAGS": " ".join(FLAGS),
    }
    command = ["cargo", "build", "--quiet", "--locked", "--release", "--target", TARGET]
    command += [
        "--manifest-path",
        str(ROOT / "fuzz" / "Cargo.toml"),
        "--features",
        "libfuzzer",
        "--bin",
        "damage",
    ]
    print("== Building the fuzzer (a minute the first time)", flush=True)
    if subprocess.run(command, env=environment).returncode != 0:
        raise SystemExit(1)
    return folder / TARGET / "release" / "damage"


def environment() -> dict[str, str]:
    # Other tests check for leaks; a check after each input would cost more than the input.
    return {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}


def fuzz(program: Path, seconds: int) -> bool:
    """Whether nothing was found."""
    corpus = BUILD / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    command = [program, corpus, SEEDS, f"-max_total_time={seconds}", f"-artifact_prefix={BUILD}/", *LIMITS]
    print(f"== Fuzzing for {seconds} s", flush=True)
    start = shown = time.monotonic()
    inputs, coverage, kept = "0", "0", "0"
    log = BUILD / "log"
    on_terminal = sys.stdout.isatty()
    with log.open("w") as out:
        fuzzer = subprocess.Popen(
            command,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert fuzzer.stdout is not None
        for line in fuzzer.stdout:
            out.write(line)
            if match := STATUS.match(line):
                inputs, coverage, kept = match.groups()
                now = time.monotonic()
                if now - shown > (0.5 if on_terminal else 30):
                    shown = now
                    status = f"{now - start:5.0f} s  {inputs} inputs  {coverage} edges  {kept} kept"
                    print(
                        f"\r{status}" if on_terminal else status, end="" if on_terminal else "\n", flush=True
                    )
        status = fuzzer.wait()
    took = time.monotonic() - start
    if on_terminal:
        print()
    print(f"seconds  {took:.0f}\ninputs   {inputs}\na second {int(inputs) / took:.0f}")
    print(f"edges    {coverage}\nkept     {kept}")
    if status == 0:
        print("Nothing found.")
        return True
    print("".join(log.read_text().splitlines(keepends=True)[-60:]))
    print(f"Something was found. The whole log is {log}; the input is in {BUILD}. To see its steps:")
    print("    PENSTOCK_FUZZ_TRACE=1 cargo run --manifest-path fuzz/Cargo.toml --bin replay -- INPUT")
    return False


def minimise(program: Path) -> None:
    """Replace the corpus in the repository by few small inputs that reach the same."""
    chosen = BUILD / "minimised"
    shutil.rmtree(chosen, ignore_errors=True)
    chosen.mkdir(parents=True)
    # Edges alone decide, not how often they are taken: that keeps the corpus small.
    options = ["-set_cover_merge=1", "-use_counters=0", "-use_value_profile=0", "-use_cmp=0", *LIMITS]
    subprocess.run(
        [program, chosen, SEEDS, BUILD / "corpus", *options],
        env=environment(),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    files = sorted(chosen.iterdir(), key=lambda file: (file.stat().st_size, file.name))
    total = sum(file.stat().st_size for file in files)
    print(f"{len(files)} inputs, {total} bytes, reach all edges")
    if len(files) > MOST_FILES or total > MOST_BYTES:
        raise SystemExit(
            f"That is more than {MOST_FILES} files or {MOST_BYTES} bytes: fuzz/corpus stays as it is."
        )
    # Inputs with a name were written by hand or found something: they stay.
    for old in SEEDS.iterdir():
        if re.fullmatch("[0-9a-f]{40}", old.name):
            old.unlink()
    for file in files:
        if re.fullmatch("[0-9a-f]{40}", file.name):
            shutil.copy(file, SEEDS / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the core with damaged shared memory.")
    parser.add_argument("--seconds", type=int, default=600, help="how long (default: 600)")
    parser.add_argument(
        "--minimise", action="store_true", help="only make the corpus in fuzz/corpus small again"
    )
    arguments = parser.parse_args()
    program = build()
    BUILD.mkdir(parents=True, exist_ok=True)
    if arguments.minimise:
        minimise(program)
    elif not fuzz(program, arguments.seconds):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
