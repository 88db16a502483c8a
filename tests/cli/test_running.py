"""`penstock run`: a program runs as under plain Python, but for its queues."""

import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import penstock
from tests.support.programs import METHODS, PENSTOCK, PLAIN, run, write

pytestmark = pytest.mark.slow

# Prints all that a program can find out about its start.
STATE = """
import os, sys
hidden = ("seen", "hidden", "__loader__", "__builtins__")
seen = {
    "argv": sys.argv,
    "orig_argv": sys.orig_argv,
    "path": sys.path,
    "importers": sorted(sys.path_importer_cache),
    "modules": sorted(sys.modules),
    "flags": sys.flags,
    "warnings": sys.warnoptions,
    "options": sys._xoptions,
    "unbuffered": sys.stdout.write_through,
    "environment": list(os.environ.items()),
    "folder": os.getcwd(),
    "names": {name: value for name, value in globals().items() if name not in hidden},
    "main": sys.modules["__main__"].__dict__ is globals(),
}
for name, value in seen.items():
    print(name, value)
"""

FAILING = """
def inner(number):
    return 1 / number

def outer():
    try:
        inner(0)
    except ZeroDivisionError as error:
        raise LookupError("not found") from error

outer()
"""


def assert_same(
    program: Sequence[str | Path],
    folder: Path,
    *,
    options: Sequence[str] = (),
    environment: dict[str, str | None] | None = None,
    stdin: bytes = b"",
) -> subprocess.CompletedProcess[bytes]:
    """Run the program both ways, and compare the outcomes, without addresses and helpers' commands."""
    plain, through_penstock = (
        run(way, program, folder=folder, options=options, environment=environment, stdin=stdin)
        for way in (PLAIN, PENSTOCK)
    )
    assert without_addresses(through_penstock.stdout) == without_addresses(plain.stdout)
    assert without_addresses(through_penstock.stderr) == without_addresses(plain.stderr)
    assert through_penstock.returncode == plain.returncode
    return plain


def without_addresses(output: bytes) -> str:
    # Newer tracebacks show the command of a helper process, which begins with Penstock's.
    without_commands = re.sub(
        r'(  File "<string>", line 1, in <module>\n)    .*\n(?: +[~^]+\n)?', r"\1", output.decode()
    )
    return re.sub(" at 0x[0-9a-f]+", " at 0x", without_commands)


# Each way to name a program: its files, and the command line.
NAMED = {
    "a file": ({"program.py": STATE}, ["program.py"]),
    "a file elsewhere": ({"below/program.py": STATE}, ["below/program.py"]),
    "a file without a suffix": ({"program": STATE}, ["./program"]),
    "a module": ({"program.py": STATE}, ["-m", "program"]),
    "a module of a package": (
        {"package/__init__.py": "", "package/part.py": STATE},
        ["-m", "package.part"],
    ),
    "a package": ({"package/__init__.py": "", "package/__main__.py": STATE}, ["-m", "package"]),
    "a folder": ({"folder/__main__.py": STATE}, ["folder"]),
}
ARGUMENTS = ["a b", "--help", "-m", "--", "run", "-", "", "*", "--version=3"]


@pytest.mark.parametrize("how", NAMED)
def test_program_named_by(how: str, tmp_path: Path) -> None:
    files, command = NAMED[how]
    write(tmp_path, files)
    done = assert_same([*command, *ARGUMENTS], tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert repr(ARGUMENTS)[1:] in done.stdout.decode()


def test_zip_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as packed:
        packed.writestr("__main__.py", STATE)
    assert assert_same(["program.zip", *ARGUMENTS], tmp_path).returncode == 0


def test_standard_input(tmp_path: Path) -> None:
    done = assert_same(["-", *ARGUMENTS], tmp_path, stdin=STATE.encode())
    assert b"argv ['-', 'a b'" in done.stdout


def test_standard_input_is_the_programs(tmp_path: Path) -> None:
    write(tmp_path, {"program.py": "import sys; print(sys.stdin.read()[::-1])"})
    assert assert_same(["program.py"], tmp_path, stdin=b"drawer").stdout == b"reward\n"


# Each way to end: the program.
ENDS = {
    "in order": "print('done')",
    "an exception": FAILING,
    "a group of exceptions": "raise ExceptionGroup('two', [ValueError(1), TypeError(2)])",
    "sys.exit with a text": "import sys; sys.exit('nothing to do')",
    "sys.exit with a number": "import sys; sys.exit(3)",
    "sys.exit with nothing": "import sys; sys.exit()",
    "os._exit": "import os; print('lost'); os._exit(4)",
    "a syntax error": "print('never'\nnor this)",
    "an interrupt": "raise KeyboardInterrupt",
    "a module that is missing": "import no_such_module",
    "an error at exit": "import atexit; atexit.register(lambda: 1 / 0)",
    "SIGTERM": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "SIGKILL": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "SIGABRT": "import os; os.abort()",
    "another program": "import os; os.execlp('echo', 'echo', 'another program')",
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("command", [["program.py"], ["-m", "program"]], ids=["file", "module"])
def test_program_ends_by(end: str, command: list[str], tmp_path: Path) -> None:
    write(tmp_path, {"program.py": ENDS[end]})
    assert_same(command, tmp_path)


@pytest.mark.parametrize(
    "command", [["missing.py"], ["-m", "missing"], ["-m", "missing.part"], ["."], ["missing/"]]
)
def test_program_that_is_not_there(command: list[str], tmp_path: Path) -> None:
    assert assert_same(command, tmp_path).returncode != 0


SIGNALLED = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
print("ready", flush=True)
sys.stdin.readline()
signal.pthread_sigmask(signal.SIG_SETMASK, [])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signal(number: signal.Signals, tmp_path: Path) -> None:
    write(tmp_path, {"program.py": SIGNALLED})
    pipe = subprocess.PIPE
    ends = []
    for way in (PLAIN, PENSTOCK):
        command = [sys.executable, *way, "program.py"]
        with subprocess.Popen(command, cwd=tmp_path, stdin=pipe, stdout=pipe, stderr=pipe) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == b"ready\n"
            program.send_signal(number)
            errors = program.communicate(b"go on\n")[1]
            ends.append((program.returncode, errors))
    assert ends[0] == ends[1]
    assert ends[0][0] == -number


def test_signals_that_are_ignored_and_blocked(tmp_path: Path) -> None:
    show = """
import signal
ignored = [number for number in range(1, 65) if signal.getsignal(number) is signal.SIG_IGN]
print(ignored, signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""
    write(tmp_path, {"program.py": show})
    command = "trap '' INT HUP USR2; exec \"$@\""
    outputs = [
        subprocess.run(
            ["sh", "-c", command, "sh", sys.executable, *way, "program.py"], cwd=tmp_path, capture_output=True
        )
        for way in (PLAIN, PENSTOCK)
    ]
    assert outputs[0].stdout == outputs[1].stdout
    assert outputs[0].stderr == outputs[1].stderr == b""


def test_process_stays_the_same(tmp_path: Path) -> None:
    write(tmp_path, {"program.py": "import os; print(os.getpid(), os.getppid())"})
    command = [sys.executable, *PENSTOCK, "program.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.read().split() == [str(program.pid).encode(), str(os.getpid()).encode()]


def test_open_files_are_the_programs(tmp_path: Path) -> None:
    show = """
import os
for fd in range(3, 20):
    if os.path.exists(f"/proc/self/fd/{fd}"):
        print(fd, os.readlink(f"/proc/self/fd/{fd}"))
"""
    write(tmp_path, {"program.py": show, "kept.txt": ""})
    with (tmp_path / "kept.txt").open() as kept:
        outputs = [
            subprocess.check_output(
                [sys.executable, *way, "program.py"], cwd=tmp_path, pass_fds=[kept.fileno()]
            )
            for way in (PLAIN, PENSTOCK)
        ]
    assert outputs[0] == outputs[1]
    assert b"kept.txt" in outputs[0]


# The interpreter.


@pytest.mark.parametrize(
    "options",
    [
        ["-O"],
        ["-O", "-O", "-B"],
        ["-u"],
        ["-q"],
        ["-s"],
        ["-P"],
        ["-b"],
        ["-W", "error", "-W", "ignore::DeprecationWarning"],
        ["-X", "dev"],
        ["-X", "utf8", "-X", "int_max_str_digits=700"],
        ["--check-hash-based-pycs", "always"],
    ],
    ids=" ".join,
)
def test_option_of_the_interpreter(options: list[str], tmp_path: Path) -> None:
    write(tmp_path, {"program.py": STATE})
    assert assert_same(["program.py"], tmp_path, options=options).returncode == 0


@pytest.mark.parametrize("option", ["-E", "-I", "-S"])
def test_option_that_shuts_penstock_out(option: str, tmp_path: Path) -> None:
    # Makes Penstock importable for an interpreter without PYTHONPATH and site-packages.
    location = str(Path(penstock.__file__).parent.parent)
    start = f"""
import sys
sys.path.append({location!r})
from penstock.cli import main
main(["run", "program.py"])
"""
    write(tmp_path, {"program.py": "print('runs')"})
    done = run(PLAIN, ["-c", start], folder=tmp_path, options=[option])
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"penstock run: error: the interpreter was started with -E, -I or -S" in done.stderr
    assert b"Traceback" not in done.stderr


def python_path(*folders: str) -> str:
    """A PYTHONPATH of these folders and of the current PYTHONPATH."""
    return os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.parametrize("value", [None, "", "lib", "/nowhere::lib", "lib:lib:.", ":"])
def test_python_path(value: str | None, tmp_path: Path) -> None:
    write(tmp_path, {"program.py": STATE, "lib/__init__.py": ""})
    done = assert_same(["program.py"], tmp_path, environment={"PYTHONPATH": value})
    assert (done.returncode, done.stderr) == (0, b"")


CUSTOMIZED = [
    "sys.customized = 'yes'",
    "raise ValueError('not today')",
    "import no_such_module",
]


@pytest.mark.parametrize("customize", CUSTOMIZED)
def test_sitecustomize_of_the_environment(customize: str, tmp_path: Path) -> None:
    # Has no effect in the interpreter that `penstock run` begins in.
    customize = f"import sys\nif 'run' not in sys.orig_argv:\n    {customize}\n"
    show = (
        "import sitecustomize\nprint(sitecustomize, list(vars(sitecustomize)), vars(sys).get('customized'))"
    )
    write(tmp_path, {"lib/sitecustomize.py": customize, "program.py": STATE + show})
    assert_same(["program.py"], tmp_path, environment={"PYTHONPATH": python_path("lib")})


def test_usercustomize(tmp_path: Path) -> None:
    write(tmp_path, {"lib/usercustomize.py": "print('customized')", "program.py": STATE})
    assert_same(["program.py"], tmp_path, environment={"PYTHONPATH": python_path("lib")})


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    write(tmp_path, {"program.py": "import os, sys; print(ascii(sys.argv), ascii(os.environ['ODD']))"})
    odd = os.fsdecode(b"\xff\xfe")
    done = assert_same(["program.py", odd], tmp_path, environment={"ODD": odd})
    assert rb"\udcff\udcfe" in done.stdout


def test_program_that_never_imports_multiprocessing_never_loads_penstock(tmp_path: Path) -> None:
    write(tmp_path, {"program.py": "import sys; print([name for name in sys.modules if 'penstock' in name])"})
    assert assert_same(["program.py"], tmp_path).stdout == b"[]\n"


# Programs that use multiprocessing.

PICKLED = """
import multiprocessing, pickle, pickletools, sys

class Own:
    def __eq__(self, other):
        return type(other) is Own

def send(queue):
    queue.put([Own(), Own.__module__, __name__])

def main():
    multiprocessing.set_start_method(sys.argv[1])
    pickletools.dis(pickle.dumps([Own(), send]))
    queue = multiprocessing.Queue()
    child = multiprocessing.Process(target=send, args=(queue,))
    child.start()
    print(queue.get()[0] == Own())
    child.join()
    print(__name__, __spec__, sys.modules["__main__"].__dict__ is globals(), sys.argv, sys.path)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("command", [["program.py"], ["-m", "program"]], ids=["file", "module"])
def test_classes_of_the_main_module(command: list[str], method: str, tmp_path: Path) -> None:
    write(tmp_path, {"program.py": PICKLED})
    done = assert_same([*command, method], tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\nTrue\n" in done.stdout


CHILDREN = """
import multiprocessing, sys

def fail(queue):
    queue.get()
    raise LookupError("in the child")

def leave(queue):
    queue.get()
    sys.exit("left")

def main(start):
    multiprocessing.set_start_method(sys.argv[1])
    queue = multiprocessing.Queue()
    for target in (fail, leave):
        child = multiprocessing.Process(target=target, args=(queue,))
        child.start()
        queue.put(1)
        child.join()
        print(child.name, child.exitcode, flush=True)
"""
# Each failure of a process: the end of the program.
TROUBLES = {
    "in a child": 'if __name__ == "__main__":\n    main(1)\n',
    "an argument that does not pickle": """
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    multiprocessing.Process(target=print, args=(lambda: 1,)).start()
""",
    "a main module without a guard": """
multiprocessing.set_start_method(sys.argv[1], force=True)
child = multiprocessing.Process(target=print, args=("child",))
child.start()
child.join()
print(child.exitcode)
""",
    "a target that the child lacks": """
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    def only_here(): pass
    child = multiprocessing.Process(target=only_here)
    child.start()
    child.join()
    print(child.exitcode)
""",
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_with_a_process(trouble: str, method: str, tmp_path: Path) -> None:
    write(tmp_path, {"program.py": CHILDREN + TROUBLES[trouble]})
    assert_same(["program.py", method], tmp_path)


def test_order_of_what_is_done_at_exit(tmp_path: Path) -> None:
    program = """
import atexit, multiprocessing, os
atexit.register(print, "registered before a process was started")
def child():
    input_end.recv()
    os.write(1, b"the child ends\\n")
if __name__ == "__main__":
    input_end, output_end = multiprocessing.Pipe(duplex=False)
    queue = multiprocessing.Queue()
    multiprocessing.get_context("fork").Process(target=child).start()
    atexit.register(output_end.send, 1)
    atexit.register(print, "registered after", flush=True)
"""
    write(tmp_path, {"program.py": program.replace("import atexit,", "import atexit,", 1)})
    done = assert_same(["program.py"], tmp_path)
    assert done.stderr == b""


KINDS = """
import multiprocessing, subprocess, sys
from multiprocessing import JoinableQueue

at_import = type(multiprocessing.get_context("fork").SimpleQueue()).__module__

def show(depth):
    made = [JoinableQueue(), multiprocessing.Queue(), multiprocessing.get_context("spawn").SimpleQueue()]
    print(depth, at_import, *(type(queue).__module__ for queue in made), flush=True)
    if depth < 2:
        child = multiprocessing.Process(target=show, args=(depth + 1,))
        child.start()
        child.join()

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    show(0)
    program = "import multiprocessing; print(type(multiprocessing.Queue()).__module__)"
    subprocess.run([sys.executable, "-c", program], check=True)
"""


@pytest.mark.parametrize("way", [PLAIN, PENSTOCK], ids=["plain", "penstock"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("command", [["program.py"], ["-m", "program"]], ids=["file", "module"])
def test_whose_queues_they_are(command: list[str], method: str, way: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, {"program.py": KINDS})
    done = run(way, [*command, method], folder=tmp_path)
    kind = "penstock.queues" if way else "multiprocessing.queues"
    expected = [f"{depth} {kind} {kind} {kind} {kind}" for depth in range(3)]
    assert done.stdout.decode().splitlines() == [*expected, "multiprocessing.queues"]
    assert (done.returncode, done.stderr) == (0, b"")


def test_module_of_the_program_named_multiprocessing(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"multiprocessing.py": "own = 'own'", "program.py": "import multiprocessing as m; print(m.own, m)"},
    )
    assert_same(["program.py"], tmp_path)


def test_looking_for_multiprocessing_is_not_importing_it(tmp_path: Path) -> None:
    program = """
import importlib.util, sys
print(importlib.util.find_spec("multiprocessing").origin, "multiprocessing" in sys.modules)
import multiprocessing
spec = importlib.util.find_spec("concurrent.futures.process")
print(spec.origin, "concurrent.futures.process" in sys.modules)
import concurrent.futures.process
for module in (multiprocessing, concurrent.futures.process):
    print(module.__spec__, module.__loader__, file=sys.stderr)
print(sys.meta_path, file=sys.stderr)
print(type(multiprocessing.Queue()).__module__)
"""
    write(tmp_path, {"program.py": program})
    plain, through_penstock = (run(way, ["program.py"], folder=tmp_path) for way in (PLAIN, PENSTOCK))
    assert plain.stdout.replace(b"multiprocessing.queues", b"penstock.queues") == through_penstock.stdout
    assert without_addresses(plain.stderr) == without_addresses(through_penstock.stderr)


@pytest.mark.parametrize("first", ["concurrent.futures.process", "multiprocessing", "penstock"])
def test_executors_whatever_is_imported_first(first: str, tmp_path: Path) -> None:
    program = f"""
import {first}
from concurrent.futures import ProcessPoolExecutor
print(type(ProcessPoolExecutor(1).__dict__["_penstock_pool"]).__name__)
"""
    write(tmp_path, {"program.py": program})
    done = run(PENSTOCK, ["program.py"], folder=tmp_path)
    assert (done.stdout, done.stderr) == (b"WorkerPool\n", b"")


def test_patch_can_be_undone_in_the_program(tmp_path: Path) -> None:
    program = "import multiprocessing, penstock\npenstock.unpatch()\nprint(type(multiprocessing.Queue()))"
    write(tmp_path, {"program.py": program})
    done = assert_same(["program.py"], tmp_path)
    assert done.stdout == b"<class 'multiprocessing.queues.Queue'>\n"


# The command line.


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "say what to do: run, demo or map"),
        (["run"], "say which program"),
        (["run", "-m"], "argument -m: expected one argument"),
        (["run", "--no-such-option", "program.py"], "unrecognized arguments: --no-such-option"),
        (["no-such-command"], "invalid choice"),
        (["demo", "--workers", "0"], "'0' is not a number from 1 up"),
        (["demo", "/no/such/folder"], "'/no/such/folder' is not a folder"),
        (["demo", "--start-method", "teleport"], "invalid choice"),
    ],
    ids=" ".join,
)
def test_wrong_arguments(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    done = run(("-m", "penstock"), arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert complaint in done.stderr.decode()
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["run", "-h"], ["demo", "--help"]], ids=" ".join
)
def test_help(arguments: list[str], tmp_path: Path) -> None:
    done = run(("-m", "penstock"), arguments, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"usage: penstock")


def test_help_says_where_penstock_ends(tmp_path: Path) -> None:
    done = run(("-m", "penstock"), ["run", "--help"], folder=tmp_path)
    assert b"Penstock ends at exec" in done.stdout


SUB_INTERPRETER = """
try:
    import _interpreters
    run = lambda program: _interpreters.exec(_interpreters.create("legacy"), program)
except ImportError:
    import _xxsubinterpreters as _interpreters
    run = lambda program: _interpreters.run_string(_interpreters.create(isolated=False), program)
import multiprocessing
run("import os, sys; print('in another', 'PYTHONPATH' in os.environ, len(sys.path), flush=True)")
run("import multiprocessing; print(multiprocessing.Queue.__name__, flush=True)")
print("in this one", flush=True)
"""


@pytest.mark.parametrize("path", [None, "lib"])
def test_sub_interpreters(path: str | None, tmp_path: Path) -> None:
    write(tmp_path, {"program.py": SUB_INTERPRETER})
    plain = assert_same(["program.py"], tmp_path, environment={"PYTHONPATH": path})
    assert (plain.returncode, plain.stderr) == (0, b"")
    assert b"in another" in plain.stdout


def test_without_the_script(tmp_path: Path) -> None:
    write(tmp_path, {"program.py": KINDS})
    done = run(("-m", "penstock", "run"), ["-m", "program", "fork"], folder=tmp_path)
    assert done.stdout.startswith(b"0 penstock.queues penstock.queues penstock.queues penstock.queues\n")
    assert (done.returncode, done.stderr) == (0, b"")


def test_version(tmp_path: Path) -> None:
    done = run(("-m", "penstock"), ["--version"], folder=tmp_path)
    assert done.stdout.decode() == f"penstock {penstock.__version__}\n"
