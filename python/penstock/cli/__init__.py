"""The command line: reads what is asked for, and hands it on."""

import argparse
import multiprocessing
import os
import sys
import sysconfig
from collections.abc import Sequence

from .. import __version__
from .._multiprocessing import running
from ..errors import PenstockError

_DESCRIPTION = "Crash-safe shared-memory queues under programs that use multiprocessing."

_EXIT_CODES = """\
exit status:
  0    success
  1    the demo's totals do not agree, or it could not finish
  2    wrong arguments
  130  interrupted by Ctrl-C
`penstock run` ends with the program's own status.
"""

_RUN = """\
Run a Python program with Penstock's queues in the place of those of
multiprocessing.

The program is not changed, and needs to know nothing of Penstock. Whatever it
makes with multiprocessing.Queue, SimpleQueue, JoinableQueue and Pipe, or with
the same of a context, is Penstock's, inside process pools too: in the program
itself, in the processes that it starts with multiprocessing under fork, spawn
or forkserver, and in theirs.
All else is as under plain Python: arguments, __main__, environment, exit
status, tracebacks.

Managers of the standard library keep its queues, and so do the calls of a
ProcessPoolExecutor, sub-interpreters, and Python programs started through
subprocess. Penstock ends at exec: a program that restarts itself by os.execv
runs under plain Python from then on, unless it starts `penstock run` again.
Options of the interpreter go before: python -O -m penstock run program.py
"""

_DEMO = """\
Hash every file of a folder and count its lines, with several worker processes,
check the totals, and show what the workers save.

The files are split into tasks of up to 32 files or 2 MiB, which reach the
workers through a penstock.JoinableQueue; what the workers find comes back
through a penstock.Queue. All is done a second time without workers and queues,
and totals and times are compared. The time with workers includes starting and
ending them.

So that the times tell of the work alone, all files are read once before, unless
they need more than half of the available memory and would not stay there; and a
tenth of the files is done with workers, the same tenth without, and so on, if
there are enough of them.

Links to folders are not followed. What cannot be read is listed, and does not
stop the demo.
"""

_DEMO_END = """\
On a terminal, with rich installed (pip install 'penstock[cli]'), the demo draws
progress bars; elsewhere it writes plain lines of text.

exit status:
  0    the totals with workers and without agree, also if workers were killed
  1    they do not agree, or workers kept dying by themselves
  2    wrong arguments
  130  interrupted by Ctrl-C

examples:
  penstock demo                         the standard library's folder
  penstock demo --kill /usr/share       workers are killed meanwhile
  penstock demo --workers 1 .           what the queues alone cost
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line `arguments` ask for (default: this process's), and return the exit status.

    `penstock --help` explains the statuses. Does not return from `penstock run`, which replaces the process.
    Raises SystemExit for `--help` and for wrong arguments, as `argparse` does.

    >>> main(["--version"])  # doctest: +ELLIPSIS
    penstock ...
    0
    """
    given, for_program = _split(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options = parser.parse_args(given)
    try:
        if options.version:
            print("penstock", __version__)
            return 0
        if options.command == "run":
            return _run(options, for_program)
        if options.command == "demo":
            return _demo(options)
        parser.error("say what to do: run or demo")
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except PenstockError as error:
        print(f"penstock {options.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read the output has gone. What is left of it goes nowhere when the interpreter flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Split a command line after the program to be run: what follows is the program's, whatever it is."""
    if arguments[:1] != ["run"]:
        return arguments, []
    end = 1
    while end < len(arguments):
        argument = arguments[end]
        end += 1
        if argument in ("-m", "--"):
            end += 1
            break
        if argument == "-" or argument.startswith("-m") or not argument.startswith("-"):
            break
    return arguments[:end], arguments[end:]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="command")

    run = commands.add_parser(
        "run",
        usage="penstock run [-h] (program.py | -m module) [argument ...]",
        help="run a program with Penstock's queues under multiprocessing",
        description=_RUN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument(
        "program", nargs="?", help="a file, a folder or zip file with a __main__.py, or - for standard input"
    )
    run.add_argument(
        "-m", metavar="module", dest="module", help="run a module or package by its name, as python -m does"
    )
    run.add_argument(
        "arguments", metavar="argument", nargs="*", help="the program's own arguments, all that follows"
    )
    run.set_defaults(parser=run)

    demo = commands.add_parser(
        "demo",
        help="hash a folder's files with several processes and check the totals",
        description=_DEMO,
        epilog=_DEMO_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        type=_folder,
        default=sysconfig.get_path("stdlib"),
        help="default: the standard library's, %(default)s",
    )
    demo.add_argument(
        "--workers",
        metavar="N",
        type=_positive,
        default=max(2, len(os.sched_getaffinity(0))),
        help="number of worker processes (default: one for each processor, at least 2: %(default)s)",
    )
    demo.add_argument(
        "--kill",
        action="store_true",
        help="while they work, kill one of them every second with SIGKILL, and at every tenth of the tasks, "
        "so that a short run sees kills too; another takes its place",
    )
    demo.add_argument(
        "--start-method",
        metavar="M",
        choices=multiprocessing.get_all_start_methods(),
        help="how workers are started: %(choices)s (default: multiprocessing's)",
    )
    return parser


def _folder(text: str) -> str:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return int(text)


def _run(options: argparse.Namespace, for_program: Sequence[str]) -> int:
    parser: argparse.ArgumentParser = options.parser
    if options.module is not None:
        program = ["-m", options.module]
    elif options.program is not None:
        program = [options.program]
    else:
        parser.error("say which program: a file, or -m and a module")
    try:
        running.run([*program, *for_program])
    except RuntimeError as error:
        parser.error(str(error))


def _demo(options: argparse.Namespace) -> int:
    from .. import demo  # late: what only the demo needs would slow `penstock run`

    return demo.run(options.folder, options.workers, options.kill, options.start_method)
