"""`penstock demo`: the totals are right although workers die, and nothing is left behind."""

import hashlib
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from penstock import cli, demo
from penstock.demo import crew
from penstock.demo.interrupts import FirstInterrupt
from penstock.demo.screen import Progress
from penstock.demo.times import Machine, Times, compare
from penstock.demo.tree import Count, Findings, Task, Unreadable, examine, read, survey
from tests.support import processes
from tests.support.programs import METHODS, write
from tests.support.waiting import until

pytestmark = pytest.mark.slow

COMMAND = (sys.executable, "-m", "penstock", "demo")
AGREE = "The totals with workers and without agree.\n"


def run_demo(
    folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, str(folder), *options],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        encoding="utf-8",
    )


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder of 400 small files, which make 13 tasks."""
    folder = tmp_path / "small"
    write(folder, {f"{number % 7}/{number}.txt": "line\n" * number for number in range(400)})
    return folder


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A folder of sparse files, larger than the memory, that takes minutes to read."""
    folder = tmp_path / "large"
    folder.mkdir()
    for number in range(64):
        (folder / f"{number}.bin").touch()
        os.truncate(folder / f"{number}.bin", 16 << 30)
    return folder


# Listing a folder.


def test_counts_and_digest(tmp_path: Path) -> None:
    contents = {
        "a.txt": b"one\ntwo\n",
        "b.TXT": b"no end",
        "empty": b"",
        "below/deep/c.py": b"\n",
        "large.bin": b"x" * (5 << 20) + b"\n",
    }
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    tasks, unreadable = survey(str(tmp_path))
    found = Findings()
    for task in reversed(tasks):
        found.add(examine(task))
    assert not unreadable
    assert found.unreadable == set()
    assert found.counts == {
        ".txt": Count(files=2, bytes=14, lines=3),
        "(none)": Count(files=1, bytes=0, lines=0),
        ".py": Count(files=1, bytes=1, lines=1),
        ".bin": Count(files=1, bytes=(5 << 20) + 1, lines=1),
    }
    assert found.total() == Count(files=5, bytes=(5 << 20) + 16, lines=5)
    digest = 0
    for name, content in contents.items():
        inner = hashlib.blake2b(content, digest_size=32).digest()
        digest += int.from_bytes(hashlib.blake2b(name.encode() + b"\0" + inner, digest_size=32).digest())
    assert found.digest == digest % (1 << 256)


def test_tasks_hold_every_file_once(small: Path) -> None:
    tasks, unreadable = survey(str(small))
    names = [name for task in tasks for name in task.names]
    assert [task.number for task in tasks] == list(range(13))
    assert sorted(names) == sorted(str(path.relative_to(small)) for path in small.rglob("*.txt"))
    assert sum(task.size for task in tasks) == sum(path.stat().st_size for path in small.rglob("*.txt"))
    assert not unreadable


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Path]:
    """A folder with entries that are no files, cannot be read, or have names that are hard to print."""
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "file").write_text("text\n")
    (folder / "link to file").symlink_to("file")
    (folder / "link to folder").symlink_to(".")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    (folder / "esc\x1b[31m\nnewline ü").write_text("text\n")
    (folder / os.fsdecode(b"not utf-8 \xff")).symlink_to("nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(folder)
        listener.bind("socket")
        os.chdir(before)
        yield folder


def test_what_cannot_be_read_is_reported(odd: Path) -> None:
    tasks, unreadable = survey(str(odd))
    assert [set(task.names) for task in tasks] == [{"file", "link to file", "esc\x1b[31m\nnewline ü"}]
    assert {entry.name: entry.reason for entry in unreadable} == {
        "dangling": "dangling link",
        "loop": "dangling link",
        "pipe": "neither a file nor a folder",
        "socket": "neither a file nor a folder",
        os.fsdecode(b"not utf-8 \xff"): "dangling link",
    }


def test_what_changed_since_the_survey_is_reported(tmp_path: Path) -> None:
    (tmp_path / "still there").write_text("text\n")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    found = examine(Task(0, str(tmp_path), ("still there", "vanished", "pipe", "folder"), 0))
    assert found.counts == {"(none)": Count(1, 5, 1)}
    assert found.unreadable == {
        Unreadable("vanished", "No such file or directory"),
        Unreadable("pipe", "neither a file nor a folder"),
        Unreadable("folder", "neither a file nor a folder"),
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_reported(tmp_path: Path) -> None:
    write(tmp_path, {"secret": "", "closed/file": ""})
    (tmp_path / "secret").chmod(0)
    (tmp_path / "closed").chmod(0)
    tasks, unreadable = survey(str(tmp_path))
    (tmp_path / "closed").chmod(0o700)
    assert unreadable == [Unreadable("closed", "Permission denied")]
    assert examine(tasks[0]).unreadable == {Unreadable("secret", "Permission denied")}


# The whole job.


@pytest.mark.parametrize("method", METHODS)
def test_totals(method: str, small: Path) -> None:
    done = run_demo(small, "--workers", "3", "--start-method", method)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"400 files, 399.0 kB, in 13 tasks for 3 workers started by {method}\n" in done.stdout
    assert re.search(r"^total +400 +399,000 +79,800$", done.stdout, re.MULTILINE)
    assert done.stdout.endswith(AGREE)
    assert "killed" not in done.stdout


@pytest.mark.parametrize("method", METHODS)
def test_totals_though_workers_are_killed(method: str, small: Path) -> None:
    done = run_demo(small, "--workers", "3", "--start-method", method, "--kill")
    assert (done.returncode, done.stderr) == (0, "")
    killed = re.search(r"^Workers killed: (\d+)\. Tasks delivered again: \d+\.", done.stdout, re.MULTILINE)
    assert killed
    assert int(killed[1]) == done.stdout.count("killed worker ") >= 1
    assert re.search(r"^total +400 +399,000 +79,800$", done.stdout, re.MULTILINE)
    assert done.stdout.endswith(AGREE)


def test_standard_library_though_workers_are_killed() -> None:
    done = subprocess.run([*COMMAND, "--kill"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(re.findall(r"^Workers killed: (\d+)\.", done.stdout, re.MULTILINE)[0]) >= 5
    assert done.stdout.endswith(AGREE)


def test_folder_with_odd_things(odd: Path) -> None:
    done = run_demo(odd)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^total +3 +15 +3$", done.stdout, re.MULTILINE)
    assert "Not read: 5\n  dangling: dangling link\n" in done.stdout
    assert "  not utf-8 \\udcff: dangling link\n" in done.stdout


def test_names_that_standard_output_cannot_encode(odd: Path) -> None:
    (odd / "dängling").symlink_to("nowhere")
    done = run_demo(odd, environment={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "  d\\xe4ngling: dangling link\n" in done.stdout


def test_empty_folder(tmp_path: Path) -> None:
    done = run_demo(tmp_path, "--kill")
    assert (done.returncode, done.stderr) == (0, "")
    assert "There was no time to kill a worker" in done.stdout
    assert done.stdout.endswith(AGREE)


def test_output_is_plain_text_when_it_is_no_terminal(odd: Path) -> None:
    done = run_demo(odd, "--kill", environment={"TERM": "xterm-256color", "FORCE_COLOR": "1"})
    assert [letter for letter in done.stdout if not letter.isprintable() and letter != "\n"] == []


# The report of the times.

TWO = Machine(processors=2, load=0.5)
BUSY = Machine(processors=2, load=6.0)


def test_workers_that_pay() -> None:
    assert compare(Times(workers=2, with_workers=1.1, starting=0.02, alone=2.09), TWO) == [
        "Time with 2 workers: 1.10 s. Without: 2.09 s. Workers made it 1.9 times as fast."
    ]


def test_workers_that_pay_on_a_busy_machine() -> None:
    lines = compare(Times(workers=2, with_workers=1.1, starting=0.02, alone=2.09), BUSY)
    assert lines[0].endswith("Workers made it 1.9 times as fast.")
    assert len(lines) == 1


def test_work_too_little_for_workers() -> None:
    assert compare(Times(workers=2, with_workers=0.0301, starting=0.025, alone=0.0012), BUSY) == [
        "Time with 2 workers: 30 ms. Without: 1.2 ms.",
        "Workers do not pay for so little work: starting and ending them took 25 ms, "
        "and 2 at once can save 0.6 ms at most.",
    ]


def test_workers_on_a_busy_machine() -> None:
    assert compare(Times(workers=2, with_workers=4.0, starting=0.02, alone=3.2), BUSY) == [
        "Time with 2 workers: 4.00 s. Without: 3.20 s. Workers made it 1.2 times as slow.",
        "Other programs were at work: on average over the last minute, "
        "6.0 processes wanted to run on 2 processors.",
    ]


def test_workers_that_make_no_difference() -> None:
    times = Times(workers=2, with_workers=3.0, starting=0.02, alone=3.1)
    assert compare(times, TWO) == [
        "Time with 2 workers: 3.00 s. Without: 3.10 s. Workers made no difference."
    ]


def test_one_worker() -> None:
    lines = compare(Times(workers=1, with_workers=3.4, starting=0.02, alone=3.0), TWO)
    assert lines[0] == "Time with 1 worker: 3.40 s. Without: 3.00 s. Workers made it 1.1 times as slow."
    assert "what the queues cost" in lines[1]


def test_one_processor() -> None:
    lines = compare(Times(workers=2, with_workers=3.4, starting=0.02, alone=3.0), Machine(1, 0.5))
    assert lines[1:] == ["This program may run on one processor only, so workers cannot be faster."]


def test_no_time_at_all() -> None:
    lines = compare(Times(workers=2, with_workers=0.0, starting=0.0, alone=0.0), TWO)
    assert "do not pay" in lines[1]


# How the times are measured.


def test_all_is_read_before_it_is_timed(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    was_read: list[int] = []
    early: list[int] = []

    def note_reading(task: Task) -> None:
        was_read.append(task.number)
        read(task)

    def examine_what_was_read(task: Task) -> Findings:
        if task.number not in was_read:
            early.append(task.number)
        return examine(task)

    monkeypatch.setattr(demo, "read", note_reading)
    monkeypatch.setattr(demo, "examine", examine_what_was_read)
    assert demo.run(str(small), 2, False, "fork") == 0
    assert (was_read, early) == (list(range(13)), [])
    output = capsys.readouterr().out
    assert output.index("Reading: 100 %, 399.0 kB") < output.index("Hashing: 100 %, 798.0 kB")


def test_what_would_not_stay_in_memory_is_not_read_before(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "_available_memory", lambda: 2 * 398_999)
    monkeypatch.setattr(demo, "read", lambda task: pytest.fail("it is read"))
    assert demo.run(str(small), 2, False, "fork") == 0
    assert "Not read before" in capsys.readouterr().out


@pytest.mark.parametrize(("count", "turns"), [(1, 1), (127, 1), (128, 2), (640, 10), (10_000, 10)])
def test_turns(count: int, turns: int) -> None:
    tasks = [Task(number, ".", (), 0) for number in range(count)]
    portions = list(demo._portions(tasks, 2))
    assert [task for portion in portions for task in portion] == tasks
    assert len(portions) == turns
    assert min(map(len, portions)) >= min(count, 64)


def test_turns_change_their_order(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ways: list[tuple[str, int]] = []
    do = crew.Job.do

    def do_with_workers(self: crew.Job, tasks: Sequence[Task], progress: Progress) -> None:
        ways.append(("with workers", tasks[0].number))
        do(self, tasks, progress)

    def do_alone(task: Task) -> Findings:
        ways.append(("alone", task.number))
        return examine(task)

    monkeypatch.setattr(demo, "_TASKS_OF_A_WORKER", 4)
    monkeypatch.setattr(crew.Job, "do", do_with_workers)
    monkeypatch.setattr(demo, "examine", do_alone)
    assert demo.run(str(small), 1, False, "fork") == 0
    assert [number for way, number in ways if way == "with workers"] == [0, 4, 8]
    order = [way for way, number in ways if number in (0, 4, 8)]
    assert order == ["with workers", "alone", "alone", "with workers", "with workers", "alone"]


# Errors.


def test_totals_that_do_not_agree(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def examine_alone(task: Task) -> Findings:
        found = examine(task)
        found.digest += 1
        return found

    monkeypatch.setattr(demo, "examine", examine_alone)
    assert demo.run(str(small), 2, False, "fork") == 1
    assert "FAILED: the totals with workers and without differ." in capsys.readouterr().out


def test_task_that_kills_its_workers(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def examine_or_die(task: Task) -> Findings:
        if task.number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return examine(task)

    monkeypatch.setattr(crew, "examine", examine_or_die)
    monkeypatch.setattr(crew, "_MAX_DELIVERIES", 2)
    assert demo.run(str(small), 2, False, "fork") == 1
    output = capsys.readouterr().out
    died, again = re.findall(r"and (\d+) died by themselves\. Tasks delivered again: (\d+)\.", output)[0]
    assert int(died) == int(again) + 1
    assert "FAILED: 1 tasks were not done. Dead letters: 1.\n" in output


@pytest.fixture
def same_signal_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("same_signal_handler")
def test_workers_that_keep_dying(
    small: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(task: Task) -> Findings:
        raise LookupError("no idea")

    monkeypatch.setattr(crew, "examine", fail)
    assert cli.main(["demo", str(small), "--workers", "2", "--start-method", "fork"]) == 1
    errors = capfd.readouterr().err
    assert "LookupError: no idea" in errors
    assert errors.endswith("penstock demo: workers keep dying; the last one's exit status is 1\n")


def test_reader_that_goes_away(small: Path) -> None:
    with subprocess.Popen([*COMMAND, small], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.readline()
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait() == 1


# On a terminal.


def run_on_terminal(folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    terminal, side_of_program = pty.openpty()
    program = subprocess.Popen(
        [*COMMAND, folder, "--kill"],
        env={**os.environ, "COLUMNS": "100", **environment},
        stdin=subprocess.DEVNULL,
        stdout=side_of_program,
        stderr=side_of_program,
    )
    os.close(side_of_program)
    output = b""
    try:
        while part := os.read(terminal, 65536):
            output += part
    except OSError:
        pass  # EIO: all processes have closed the terminal
    os.close(terminal)
    return program.wait(), output.decode().replace("\r\n", "\n")


def test_progress_bar_and_table_on_a_terminal(small: Path) -> None:
    status, output = run_on_terminal(small, {"TERM": "xterm-256color"})
    assert status == 0
    bar = re.sub("\x1b[^a-zA-Z]*[a-zA-Z]", "", output)
    assert re.search(r"Reading ━+ 100% 399\.0/399\.0 kB", bar)
    assert re.search(r"Hashing ━+ 100% 798\.0/798\.0 kB", bar)
    assert re.search(r"killed worker \d+ after \d+ of 13 tasks\n", bar)
    assert re.search(r"^ +total +400 +399,000 +79,800 *$", bar, re.MULTILINE)
    assert output.endswith(AGREE)


def test_plain_text_on_a_terminal_that_can_do_no_more(small: Path) -> None:
    status, output = run_on_terminal(small, {"TERM": "dumb"})
    assert status == 0
    assert "\x1b" not in output
    assert "Hashing: 100 %, 798.0 kB in " in output
    assert output.endswith(AGREE)


def test_plain_text_without_rich(small: Path, tmp_path: Path) -> None:
    write(tmp_path, {"without/rich/__init__.py": "raise ImportError('hidden by the test')"})
    path = os.pathsep.join([str(tmp_path / "without"), *filter(None, [os.environ.get("PYTHONPATH")])])
    status, output = run_on_terminal(small, {"TERM": "xterm", "PYTHONPATH": path})
    assert status == 0
    assert output.startswith("For a progress bar install rich: pip install 'penstock[cli]'\n")
    assert "\x1b" not in output
    assert output.endswith(AGREE)


# Interrupts and kills at any time.

# The line after which Ctrl-C is pressed.
MOMENTS = ["Listing the files", " tasks for 8 workers", "killed worker"]


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_interrupt(moment: str, method: str, times: int, large: Path) -> None:
    press_after(moment, times, [large, "--workers", "8", "--start-method", method, "--kill"])


def test_interrupt_while_reading(tmp_path: Path) -> None:
    # Files that fit in memory: the demo reads them first.
    size = min(demo._available_memory() // 3, 8 << 30)
    for number in range(20):
        (tmp_path / str(number)).touch()
        os.truncate(tmp_path / str(number), size // 20)
    press_after("Reading:", 1, [tmp_path])


@pytest.mark.usefixtures("same_signal_handler")
def test_interrupt_without_workers(
    small: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def press(task: Task) -> Findings:
        signal.raise_signal(signal.SIGINT)
        return examine(task)

    monkeypatch.setattr(demo, "examine", press)
    assert cli.main(["demo", str(small), "--start-method", "fork"]) == 130
    assert capfd.readouterr().err == "Interrupted.\n"


def press_after(moment: str, times: int, arguments: list[Any]) -> None:
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        assert program.stdout is not None
        for line in program.stdout:
            if moment in line:
                break
        for _ in range(times):  # as a terminal does, to all of its processes
            os.killpg(program.pid, signal.SIGINT)
        errors = program.communicate()[1]
    assert (program.returncode, errors) == (130, "Interrupted.\n")
    # The check for leaks finds processes that are left.


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_can_meet_no_evaluation_of_a_text(method: str, small: Path) -> None:
    """CPython ends a program by SIGINT if Ctrl-C came in one, although the exception was caught."""
    program = """
        import sys
        import penstock.demo
        from penstock import cli
        from penstock.demo.interrupts import FirstInterrupt

        class Watched(FirstInterrupt):
            is_inside = False

            def __enter__(self):
                Watched.is_inside = True
                return super().__enter__()

        def hear(event, arguments):
            if event == "compile" and Watched.is_inside and arguments[1] == "<string>":
                print("EVALUATED", arguments[0])

        if __name__ == "__main__":
            penstock.demo.FirstInterrupt = Watched
            sys.addaudithook(hear)
            sys.exit(cli.main(["demo", *sys.argv[1:]]))
    """
    file = small.parent / "watched.py"
    file.write_text(textwrap.dedent(program))
    command = [sys.executable, str(file), str(small), "--workers", "2", "--start-method", method, "--kill"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert "EVALUATED" not in done.stdout
    assert done.stdout.endswith(AGREE)


class Weak:
    pass


@pytest.mark.usefixtures("same_signal_handler")
def test_interrupt_that_the_interpreter_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: lost.append(unraisable.exc_type))
    with FirstInterrupt() as interrupt:
        interrupt.check()
        referred = Weak()
        reference = weakref.ref(referred, lambda _: signal.raise_signal(signal.SIGINT))
        del referred
        assert reference() is None
        assert lost == [KeyboardInterrupt]
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
    signal.raise_signal(signal.SIGINT)  # has no effect any more


@pytest.mark.parametrize("method", METHODS)
def test_workers_end_after_their_parent(method: str, large: Path) -> None:
    for file in large.iterdir():
        os.truncate(file, 16 << 20)
    command = [*COMMAND, large, "--workers", "3", "--start-method", method, "--kill"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        for line in program.stdout:
            if "killed worker" in line:
                break
        started = processes.descendants(program.pid)
        assert len(started) >= 3
        program.kill()
    until(lambda: all(processes.state(pid) in ("Z", "") for pid in started))
