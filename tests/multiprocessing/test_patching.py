"""`penstock.patch()`: what it replaces, what it leaves alone, and that it can be undone."""

import multiprocessing
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import (
    JoinableQueue,
    Queue,
    SimpleQueue,
    context,
    process,
    queues,
    reduction,
    spawn,
    util,
)
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock._multiprocessing import patching
from tests.support.programs import METHODS, PLAIN, run, write

BOUND_EARLIER = {"Queue": Queue, "SimpleQueue": SimpleQueue, "JoinableQueue": JoinableQueue}
STANDARD, OURS = "multiprocessing.queues", "penstock.queues"


@pytest.fixture
def patched() -> Iterator[None]:
    penstock.patch()
    yield
    penstock.unpatch()


def with_folder(folder: Path) -> str:
    """A PYTHONPATH of this folder and of the current PYTHONPATH."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def module_of(factory: Any) -> str:
    made = factory()
    made.close()
    return type(made).__module__


# What is patched.


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("name", BOUND_EARLIER)
def test_every_way_to_a_queue(name: str) -> None:
    contexts = [multiprocessing.get_context(method) for method in (None, *METHODS)]
    for factory in [getattr(owner, name) for owner in (multiprocessing, *contexts)] + [BOUND_EARLIER[name]]:
        made = factory()
        assert type(made) is getattr(penstock, name)


@pytest.mark.usefixtures("patched")
def test_arguments_arrive() -> None:
    for queue in (multiprocessing.Queue(1), multiprocessing.JoinableQueue(maxsize=1)):
        assert not queue.full()
        queue.put("a")
        assert queue.full()


TREE = """
import multiprocessing, sys
from multiprocessing import Queue

def module_of(factory):
    return type(factory()).__module__

def show(depth):
    ways = (Queue, multiprocessing.Queue, multiprocessing.get_context("spawn").JoinableQueue)
    print(depth, *map(module_of, ways), flush=True)
    if depth < 2:
        child = multiprocessing.Process(target=show, args=(depth + 1,))
        child.start()
        child.join()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_whole_tree_of_processes(method: str, tmp_path: Path) -> None:
    main = f"""
if __name__ == "__main__":
    import penstock
    multiprocessing.set_start_method({method!r})
    for change in (penstock.patch, penstock.unpatch, penstock.patch):
        change()
        show(0)
"""
    write(tmp_path, {"tree.py": TREE + main})
    done = run(PLAIN, ["tree.py"], folder=tmp_path)
    assert done.stderr == b""
    expected = [f"{depth} {kind} {kind} {kind}" for kind in (OURS, STANDARD, OURS) for depth in range(3)]
    assert done.stdout.decode().splitlines() == expected


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_child_is_patched_before_it_imports_the_main_module(method: str, tmp_path: Path) -> None:
    main = f"""
at_import = module_of(multiprocessing.SimpleQueue)

def show_at_import():
    print(at_import)

if __name__ == "__main__":
    import penstock
    penstock.patch()
    child = multiprocessing.get_context({method!r}).Process(target=show_at_import)
    child.start()
    child.join()
"""
    write(tmp_path, {"early.py": TREE + main})
    done = run(PLAIN, ["early.py"], folder=tmp_path)
    assert (done.stdout.decode(), done.stderr) == (f"{OURS}\n", b"")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep", [True, False], ids=["kept on the path", "taken from the path"])
def test_penstock_that_a_child_could_not_import(method: str, keep: bool, tmp_path: Path) -> None:
    # Isolated and without site-packages, as its children are: only this change of the path leads to Penstock.
    location = str(Path(penstock.__file__).parent.parent)
    main = f"""
if __name__ == "__main__":
    sys.path.append({location!r})
    import penstock
    if not {keep}:
        sys.path.remove({location!r})
    penstock.patch()
    multiprocessing.set_start_method({method!r})
    show(0)
    print({location!r} in sys.path)
"""
    write(tmp_path, {"lonely.py": TREE + main})
    done = run(PLAIN, ["lonely.py"], folder=tmp_path, options=["-I", "-S"])
    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == [
        *(f"{depth} {OURS} {OURS} {OURS}" for depth in range(3)),
        str(keep),
    ]


@pytest.mark.slow
def test_module_of_that_name_does_not_get_in_the_way(tmp_path: Path) -> None:
    location = str(Path(penstock.__file__).parent.parent)
    main = f"""
if __name__ == "__main__":
    sys.path.insert(0, {location!r})
    from penstock import patch
    sys.path.remove({location!r})
    patch()
    multiprocessing.set_start_method("spawn")
    show(0)
"""
    write(tmp_path, {"penstock.py": TREE + main})
    done = run(PLAIN, ["penstock.py"], folder=tmp_path)
    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == [f"{depth} {OURS} {OURS} {OURS}" for depth in range(3)]


@pytest.mark.parametrize(
    ("command", "behind"),
    [
        ("from multiprocessing.forkserver import main; main(3, 4, ['json'], **{})", []),
        (
            "import sys; from multiprocessing.forkserver import main; "
            "main(3, 4, ['json'], sys_argv=sys.argv[1:], **{})",
            ["-c", "an argument of the program's own"],
        ),
    ],
    ids=["3.11", "3.14.7"],
)
def test_the_command_of_a_fork_server_in_each_version(
    command: str, behind: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    class Original:
        @staticmethod
        def original(path: str, arguments: list[str], descriptors: list[int]) -> int:
            started.append(list(arguments))
            return 7

    monkeypatch.setattr(patching, "_commands", [Original])
    before = ["python", "-X", "dev", "-c"]
    assert patching.start_interpreter("python", [*before, command, *behind], [3, 4]) == 7
    another = [*before, "from multiprocessing.resource_tracker import main;main(3)"]
    assert patching.start_interpreter("python", another, [3]) == 7
    first, second = started
    assert second == another
    assert (first[:4], first[5:]) == (before, behind)
    imports, main = command.split("main(")
    assert first[4].startswith(imports)  # a frozen program recognizes the command by it
    assert first[4].endswith("; main(" + main)
    assert "patch_fork_server" in first[4].removeprefix(imports).removesuffix("main(" + main)


@pytest.mark.slow
def test_modules_that_a_fork_server_preloads(tmp_path: Path) -> None:
    files = {
        "preloaded.py": """
import multiprocessing, os
from multiprocessing import Queue
loaded_in = os.getpid()
at_import = type(multiprocessing.Queue()).__module__
""",
        "main.py": """
import multiprocessing, os, penstock

def show():
    import preloaded
    assert preloaded.loaded_in != os.getpid()
    print(preloaded.at_import, type(preloaded.Queue()).__module__, flush=True)

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    for change in (penstock.patch, penstock.unpatch, penstock.patch):
        change()
        child = context.Process(target=show)
        child.start()
        child.join()
""",
    }
    write(tmp_path, files)
    done = run(PLAIN, ["main.py"], folder=tmp_path, environment={"PYTHONPATH": with_folder(tmp_path)})
    assert done.stderr == b""
    # Children of one fork server may be patched or not.
    assert done.stdout.decode().split() == [OURS, OURS, OURS, STANDARD, OURS, OURS]


@pytest.mark.slow
def test_fork_server_that_ran_before(tmp_path: Path) -> None:
    main = """
if __name__ == "__main__":
    import penstock
    multiprocessing.set_start_method("forkserver")
    show(1)
    penstock.patch()
    show(1)
"""
    write(tmp_path, {"late.py": TREE + main})
    done = run(PLAIN, ["late.py"], folder=tmp_path)
    assert done.stderr == b""
    expected = [f"{depth} {kind} {kind} {kind}" for kind in (STANDARD, OURS) for depth in (1, 2)]
    assert done.stdout.decode().splitlines() == expected


# Pools and executors.


def square_and_module(number: int) -> tuple[int, str]:
    return number * number, module_of(multiprocessing.Queue)


@pytest.mark.slow
@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("ours", [False, True], ids=["multiprocessing", "penstock.get_context"])
@pytest.mark.parametrize("method", METHODS)
def test_pool(method: str, ours: bool) -> None:
    with (penstock if ours else multiprocessing).get_context(method).Pool(2) as pool:
        assert type(pool._inqueue).__module__ == OURS  # type: ignore[attr-defined]
        assert pool.map(square_and_module, range(5), chunksize=1) == [(n * n, OURS) for n in range(5)]
        pool.close()
        pool.join()


@pytest.mark.slow
@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("ours", [False, True], ids=["multiprocessing", "penstock.get_context"])
@pytest.mark.parametrize("method", METHODS)
def test_executor(method: str, ours: bool) -> None:
    context = (penstock if ours else multiprocessing).get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        assert list(executor.map(square_and_module, range(5))) == [(n * n, OURS) for n in range(5)]


# What is left alone.


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("method", METHODS)
def test_manager(method: str) -> None:
    with multiprocessing.get_context(method).Manager() as manager:
        made = manager.Queue()
        made.put("a")
        assert made.get() == "a"
        assert type(made).__module__ == "multiprocessing.managers"


@pytest.mark.usefixtures("patched")
def test_classes_of_the_standard_library() -> None:
    assert module_of(lambda: queues.Queue(ctx=multiprocessing.get_context())) == STANDARD


class OwnContext(context.SpawnContext):
    """A program's own context: one factory replaces the inherited one, another calls it."""

    def Queue(self, maxsize: int = 0) -> Any:
        return ["its own", maxsize]

    def SimpleQueue(self) -> Any:
        self.asked = True
        return super().SimpleQueue()


@pytest.mark.slow
@pytest.mark.usefixtures("patched")
def test_context_with_factories_of_its_own() -> None:
    own = OwnContext()
    assert own.Queue(3) == ["its own", 3]
    assert module_of(own.SimpleQueue) == OURS
    assert module_of(own.JoinableQueue) == OURS
    with own.Pool(1) as pool:
        assert own.asked
        assert pool.apply(square_and_module, (3,)) == (9, OURS)
        pool.close()
        pool.join()


def test_python_started_by_subprocess(tmp_path: Path) -> None:
    program = """
import multiprocessing, penstock, subprocess, sys
penstock.patch()
program = "import multiprocessing; print(type(multiprocessing.Queue()).__module__)"
subprocess.run([sys.executable, "-c", program])
"""
    write(tmp_path, {"starts.py": program})
    done = run(PLAIN, ["starts.py"], folder=tmp_path)
    assert (done.stdout.decode(), done.stderr) == (f"{STANDARD}\n", b"")


# Undoing it.

TOUCHED = [
    context.BaseContext.Queue,
    context.BaseContext.SimpleQueue,
    context.BaseContext.JoinableQueue,
    context.BaseContext.Pipe,
    process.AuthenticationString.__reduce__,
    util.spawnv_passfds,  # type: ignore[attr-defined]
]


def state_of_multiprocessing() -> list[Any]:
    modules = [multiprocessing, context, process, queues, reduction, spawn, util]
    found: list[Any] = [(vars(module).copy(), id(module)) for module in modules]
    found += [vars(context.BaseContext).copy(), vars(process.AuthenticationString).copy()]
    found += [function.__code__ for function in TOUCHED]  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("times", [0, 1, 2])
def test_undone_wholly(times: int) -> None:
    with multiprocessing.get_context("forkserver").Pool(1):
        pass  # the first start of a process changes the modules itself
    before = state_of_multiprocessing()
    for _ in range(times):
        penstock.patch()
    if times:
        assert state_of_multiprocessing() != before
        with multiprocessing.get_context("forkserver").Pool(1) as pool:
            assert pool.apply(square_and_module, (3,)) == (9, OURS)
            pool.close()
            pool.join()
    penstock.unpatch()
    assert state_of_multiprocessing() == before
    for name, factory in BOUND_EARLIER.items():
        assert module_of(factory) == module_of(getattr(multiprocessing, name)) == STANDARD


def test_name_bound_while_patched_is_undone_too() -> None:
    penstock.patch()
    from multiprocessing import Queue as bound_while_patched

    penstock.unpatch()
    assert module_of(bound_while_patched) == STANDARD


def test_queue_made_while_patched_goes_on_working() -> None:
    penstock.patch()
    queue = multiprocessing.Queue()
    penstock.unpatch()
    queue.put("a")
    assert queue.get() == "a"


# Types and signatures are those of the standard library.


@pytest.mark.usefixtures("patched")
def test_key_still_refuses_to_be_pickled() -> None:
    with pytest.raises(TypeError, match="disallowed for security reasons"):
        pickle.dumps(process.current_process().authkey)


@pytest.mark.usefixtures("patched")
def test_wrong_arguments_raise_the_same() -> None:
    with pytest.raises(
        TypeError, match=r"BaseContext.SimpleQueue\(\) takes 1 positional argument but 2 were given"
    ):
        multiprocessing.SimpleQueue(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"BaseContext.Queue\(\) got an unexpected keyword argument 'size'"):
        multiprocessing.Queue(size=1)  # type: ignore[call-arg]
