"""The command line. Each command is a file."""

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import PenstockError
from . import demo, map, run

_DESCRIPTION = "Crash-safe shared-memory queues under programs that use multiprocessing."

_EXIT_CODES = """\
exit status:
  0    success
  1    the demo's totals do not agree, or it could not finish; a call of map has failed
  2    wrong arguments
  130  interrupted by Ctrl-C
`penstock run` ends with the program's own status.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line `arguments` ask for (default: this process's), and return the exit status.

    `penstock --help` explains the statuses. Does not return from `penstock run`, which replaces the process.
    Raises SystemExit for `--help` and for wrong arguments, as `argparse` does.

    >>> main(["--version"])  # doctest: +ELLIPSIS
    penstock ...
    0
    """
    given, for_program = run.split(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options = parser.parse_args(given, argparse.Namespace(for_program=for_program))
    try:
        if options.version:
            print("penstock", __version__)
            return 0
        if options.command is None:
            parser.error("say what to do: run, demo or map")
        status: int = options.execute(options)
        return status
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except PenstockError as error:
        print(f"penstock {options.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of the output has closed it. The interpreter flushes what is left to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="command")
    run.add_to(commands)
    demo.add_to(commands)
    map.add_to(commands)
    return parser
