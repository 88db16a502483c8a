"""The command `penstock map`."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

_DESCRIPTION = """\
Call a function for each line of standard input, in worker processes.

The function gets the line as a str, without its end. What it returns is written
to standard output, a line each, in the order of the input; None writes an
empty line. A call that fails writes a line to standard error, with the number
of its input line, and an empty line to standard output. The exit status is 1
if any call has failed.

The module is imported as by python -m: from the current folder, too.
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "map",
        help="call a function for each line of standard input, in worker processes",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("function", metavar="module:function", help="what to call, as in math:sqrt")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="how many workers (default: a processor each)"
    )
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="the longest time of a call")
    parser.add_argument(
        "--retries", type=int, default=0, metavar="N", help="how often a call whose worker died is run again"
    )
    parser.add_argument("--progress", action="store_true", help="tell on standard error how far it is")
    parser.set_defaults(execute=partial(_execute, parser))


def _execute(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from ..workers.pool import WorkerPool  # late: the other commands need nothing of it

    sys.path.insert(0, os.getcwd())
    try:
        function = _function(options.function)
        pool = WorkerPool(options.workers, timeout=options.timeout, retries=options.retries)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        parser.error(str(error))
    has_failed = False
    with pool:
        results: Iterator[Any] = pool.map(function, _lines(), errors="return", progress=options.progress)
        for number, result in enumerate(results, 1):
            if isinstance(result, BaseException):
                has_failed = True
                told = str(result).partition("\n")[0]
                print(f"line {number}: {type(result).__name__}: {told}", file=sys.stderr)
                result = None
            print("" if result is None else result)
    return int(has_failed)


def _function(name: str) -> Callable[[str], Any]:
    module, _, path = name.partition(":")
    if not module or not path:
        raise ValueError(f"{name!r} is not of the form module:function, as math:sqrt is")
    found: Any = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{name} is not callable: it is of type {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _lines() -> Iterator[str]:
    for line in sys.stdin:
        yield line.removesuffix("\n")
