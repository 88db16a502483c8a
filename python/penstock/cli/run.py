"""The command `penstock run`."""

import argparse
from collections.abc import Sequence
from functools import partial

from .._multiprocessing import running

_DESCRIPTION = """\
Run a Python program with Penstock's queues in the place of those of
multiprocessing.

The program is not changed, and needs to know nothing of Penstock. Whatever it
makes with multiprocessing.Queue, SimpleQueue, JoinableQueue and Pipe, or with
the same of a context, is Penstock's, inside the pools of multiprocessing too;
and the calls of a concurrent.futures.ProcessPoolExecutor run in a
penstock.WorkerPool, which loses at most the call whose worker dies. So it is in
the program itself, in the processes that it starts with multiprocessing under
fork, spawn or forkserver, and in theirs.
All else is as under plain Python: arguments, __main__, environment, exit
status, tracebacks.

Managers of the standard library keep its queues, and so do sub-interpreters,
and Python programs started through subprocess. Penstock ends at exec: a program
that restarts itself by os.execv runs under plain Python from then on, unless it
starts `penstock run` again.
Options of the interpreter go before: python -O -m penstock run program.py
"""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "run",
        usage="penstock run [-h] (program.py | -m module) [argument ...]",
        help="run a program with Penstock's queues under multiprocessing",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "program", nargs="?", help="a file, a folder or zip file with a __main__.py, or - for standard input"
    )
    parser.add_argument(
        "-m", metavar="module", dest="module", help="run a module or package by its name, as python -m does"
    )
    parser.add_argument(
        "arguments", metavar="argument", nargs="*", help="the program's own arguments, all that follows"
    )
    parser.set_defaults(execute=partial(_execute, parser))


def split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Split a command line behind the name of the program to run: the rest is the program's arguments."""
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


def _execute(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.module is not None:
        program = ["-m", options.module]
    elif options.program is not None:
        program = [options.program]
    else:
        parser.error("say which program: a file, or -m and a module")
    try:
        running.run([*program, *options.for_program])
    except RuntimeError as error:
        parser.error(str(error))
