"""The command `penstock demo`."""

import argparse
import multiprocessing
import os
import sysconfig

_DESCRIPTION = """\
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

_EPILOG = """\
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


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "demo",
        help="hash a folder's files with several processes and check the totals",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder",
        metavar="DIR",
        nargs="?",
        type=_folder,
        default=sysconfig.get_path("stdlib"),
        help="default: the standard library's, %(default)s",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=_positive,
        default=max(2, len(os.sched_getaffinity(0))),
        help="number of worker processes (default: one for each processor, at least 2: %(default)s)",
    )
    parser.add_argument(
        "--kill",
        action="store_true",
        help="while they work, kill one of them every second with SIGKILL, and at every tenth of the tasks, "
        "so that a short run sees kills too; another takes its place",
    )
    parser.add_argument(
        "--start-method",
        metavar="M",
        choices=multiprocessing.get_all_start_methods(),
        help="how workers are started: %(choices)s (default: multiprocessing's)",
    )
    parser.set_defaults(execute=_execute)


def _folder(text: str) -> str:
    if not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")
    return int(text)


def _execute(options: argparse.Namespace) -> int:
    from .. import demo  # late: what only the demo needs would slow `penstock run`

    return demo.run(options.folder, options.workers, options.kill, options.start_method)
