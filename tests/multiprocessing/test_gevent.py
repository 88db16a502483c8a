"""Under gevent's patches a wait for an item lets the other greenlets run.

Each test runs a program of its own, because the patches are for a whole process.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gevent")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

HEAD = """
from gevent import monkey
monkey.patch_all()
import multiprocessing, os, signal, sys, time
import gevent
import penstock

ticks = 0

def tick():
    global ticks
    while True:
        gevent.sleep(0.01)
        ticks += 1

def ticks_during(call, *arguments):
    # Ticks during the call, and its answer or its exception.
    before = ticks
    try:
        answer = call(*arguments)
    except BaseException as error:
        answer = error
    return ticks - before, answer

gevent.spawn(tick)

def in_child(function, *arguments):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function(*arguments)
            status = 0
        finally:
            os._exit(status)
    return pid

def when_ticked(function, *arguments):
    # Calls the function in a greenlet, once the other one has run some times.
    start = ticks
    def wait():
        while ticks < start + 5:
            gevent.sleep(0.01)
        function(*arguments)
    return gevent.spawn(wait)
"""


def run(program: str, *, prints: bool = False) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HEAD + program], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert ended.returncode == 0, ended.stderr
    assert prints or not ended.stderr, ended.stderr


@pytest.mark.parametrize(
    ("made", "wait"),
    [
        ("penstock.Queue()", "queue.get(timeout=0.5)"),
        ("penstock.JoinableQueue()", "queue.get(timeout=0.5)"),
        ("penstock.Queue()", "queue.get_many(timeout=0.5)"),
        ("penstock.Queue()", "queue._reader.poll(0.5)"),
        ("penstock.Pipe()[0]", "queue.poll(0.5)"),
        ("penstock.Pipe(False)[0]", "queue.poll(0.5)"),
        # As a comparison: those of multiprocessing.
        ("multiprocessing.Queue()", "queue.get(timeout=0.5)"),
        ("multiprocessing.Pipe()[0]", "queue.poll(0.5)"),
    ],
)
def test_a_wait_in_vain(made: str, wait: str) -> None:
    made = made.replace("Pipe()[0]", "Pipe()").replace("Pipe(False)[0]", "Pipe(False)")
    run(f"""
from queue import Empty
queue = {made}
if isinstance(queue, tuple):
    queue, other = queue
while ticks < 5:  # on a busy machine the greenlet may run late
    began = time.monotonic()
    _, answer = ticks_during(lambda: {wait})
    assert answer is False or isinstance(answer, Empty), answer
    assert time.monotonic() - began >= 0.5
""")


@pytest.mark.parametrize(
    ("made", "put", "get"),
    [
        ("[penstock.Queue()] * 2", "put", "get"),
        ("[penstock.JoinableQueue()] * 2", "put", "get"),
        ("[penstock.SimpleQueue()] * 2", "put", "get"),
        ("penstock.Pipe()", "send", "recv"),
        ("penstock.Pipe()", "send_bytes", "recv_bytes"),
    ],
)
def test_an_item_ends_the_wait(made: str, put: str, get: str) -> None:
    """It is put by another greenlet, and then by another process."""
    run(f"""
receiver, sender = {made}
for by in ((sender.{put},), (in_child, sender.{put})):
    when_ticked(*by, b"item")
    seen, answer = ticks_during(receiver.{get})
    assert seen > 0 and answer == b"item", (seen, answer)
""")


@pytest.mark.parametrize("made", ["penstock.Queue()", "penstock.SimpleQueue()"])
def test_many_greenlets_take_from_one_queue(made: str) -> None:
    run(f"""
queue = {made}
takers = [gevent.spawn(queue.get) for _ in range(20)]
gevent.sleep(0)  # each of them begins to wait
for number in range(20):
    queue.put(number)
assert sorted(taker.get(timeout=60) for taker in takers) == list(range(20))
""")


def test_timeouts_and_kills_of_gevent() -> None:
    run("""
queue, (a, b) = penstock.Queue(), penstock.Pipe()
for wait in (queue.get, a.recv):
    with gevent.Timeout(0.2, False):
        wait()
        raise AssertionError("it must not return")
taker = gevent.spawn(queue.get)
gevent.sleep(0)  # it begins to wait
taker.kill()
assert isinstance(taker.value, gevent.GreenletExit)
queue.put("x")
assert queue.get() == "x"
assert queue.check() == []
""")


def test_a_signal_handler_that_raises() -> None:
    # gevent prints what is raised while the hub runs.
    run(
        """
class Alarm(Exception): pass
def raising(*_): raise Alarm
signal.signal(signal.SIGALRM, raising)
signal.setitimer(signal.ITIMER_REAL, 0.2)
seen, answer = ticks_during(penstock.Queue().get)
assert isinstance(answer, Alarm), answer
""",
        prints=True,
    )


def test_the_other_side_ends() -> None:
    run("""
a, b = penstock.Pipe()
when_ticked(b.close)
seen, answer = ticks_during(a.recv)
assert isinstance(answer, EOFError), answer
a, b = penstock.Pipe()
def hold():
    a.close()
    time.sleep(1000)
pid = in_child(hold)
b.close()
when_ticked(os.kill, pid, signal.SIGKILL)
assert ticks_during(a.poll, 60)[1] is True
assert isinstance(ticks_during(a.recv)[1], EOFError)
""")


@pytest.mark.parametrize("duplex", [True, False])
@pytest.mark.parametrize("wait", ["recv", "recv_bytes", "poll"])
def test_another_greenlet_closes_the_connection(wait: str, duplex: bool) -> None:
    """The hub sleeps with its descriptor, whose number becomes no other file's before the wait has ended."""
    run(f"""
import socket
a, b = penstock.Pipe({duplex})
number = a.fileno()
pairs = []
def close_and_open():
    a.close()
    while len(pairs) < 10:
        pairs.append(socket.socketpair())
        pairs[-1][0].send(b"x")
    assert number not in [side.fileno() for pair in pairs for side in pair]
closer = when_ticked(close_and_open)
seen, answer = ticks_during(a.{wait}, *([60] if {wait!r} == "poll" else []))
assert isinstance(answer, OSError), answer
assert seen > 0
closer.get()
assert all(pair[1].recv(10) == b"x" for pair in pairs)
try:
    os.fstat(number)
except OSError:
    pass
else:
    raise AssertionError("the last use has closed it")
assert isinstance(ticks_during(b.send, 1)[1], BrokenPipeError)
""")


@pytest.mark.parametrize("wait", ["queue.get", "lambda: queue._reader.poll(60) and queue.get()"])
def test_an_item_of_a_killed_worker_comes_back(wait: str) -> None:
    """Nothing makes the descriptor readable: the end of a slice finds the death."""
    run(f"""
queue, told = penstock.JoinableQueue(), penstock.Queue()
queue.put("item")
queue.fileno()
def take():
    queue.get()
    told.put("taken")
    time.sleep(1000)
pid = in_child(take)
assert told.get() == "taken"
when_ticked(os.kill, pid, signal.SIGKILL)
seen, answer = ticks_during({wait})
assert answer == "item", answer
assert seen > 0
""")


def test_without_a_descriptor_left() -> None:
    run("""
import resource
queue = penstock.Queue()
queue.put("x"), queue.get()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
files = []
try:
    while True:
        files.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
when_ticked(queue.put, "item")
seen, answer = ticks_during(queue.get)
assert answer == "item", answer
assert seen > 0
""")


def test_the_other_operations_are_as_ever() -> None:
    run("""
from queue import Empty, Full
queue = penstock.JoinableQueue(1)
queue.put("a")
for call, error in ((lambda: queue.put("b", timeout=0.01), Full), (lambda: queue.put("b", False), Full)):
    assert isinstance(ticks_during(call)[1], error)
assert queue.get() == "a"
queue.task_done()
queue.join()
assert isinstance(ticks_during(queue.get_nowait)[1], Empty)
a, b = penstock.Pipe()
assert a.poll() is False
""")


def test_a_program_that_has_not_patched_blocks_as_ever() -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "import gevent.monkey, penstock, queue\n"
            "q = penstock.Queue()\n"
            "try: q.get(timeout=0.2)\n"
            "except queue.Empty: print('empty')\n"
            "q.put(1); print(q.get(), gevent.monkey.is_module_patched('select'))",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert ended.stdout == "empty\n1 False\n", ended.stderr


def test_threads_of_the_system_wait_beside_the_hub() -> None:
    run("""
queue = penstock.Queue()
began = []
def take():
    began.append(ticks)
    return queue.get()
taker = gevent.get_hub().threadpool.spawn(take)
while not began or ticks < began[0] + 5:
    gevent.sleep(0.01)
queue.put("x")
assert taker.get(timeout=60) == "x"
""")


def test_interrupted() -> None:
    """Ctrl-C ends the wait."""
    program = subprocess.Popen(
        [sys.executable, "-c", HEAD + "print('ready', flush=True)\npenstock.Queue().get()"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=120)
        assert "KeyboardInterrupt" in errors


@pytest.mark.parametrize("made", ["penstock.Queue()", "penstock.SimpleQueue()", "penstock.JoinableQueue()"])
def test_a_shutdown_ends_the_wait(made: str) -> None:
    run(f"""
queue = {made}
ending = when_ticked(queue.shutdown)
ticked, error = ticks_during(queue.get)
assert isinstance(error, penstock.ShutDown), error
assert ticked >= 5
""")


@pytest.mark.parametrize("wait", ["queue.get", "lambda: queue._reader.poll(60) and queue.get()"])
def test_an_item_that_comes_back_after_a_shutdown(wait: str) -> None:
    """The queue's descriptor is readable meanwhile: the wait does not spin."""
    run(f"""
queue = penstock.JoinableQueue()
queue.put("item")

def hold():
    queue.get()
    os.kill(os.getpid(), signal.SIGSTOP)

holder = in_child(hold)
while not queue.empty():
    gevent.sleep(0.01)
queue.shutdown()
import select
assert select.select([queue], [], [], 0)[0] == [queue]
attempts = 0
sleep = penstock._multiprocessing.greenlets._sleep
def counting(*arguments):
    global attempts
    attempts += 1
    sleep(*arguments)
penstock._multiprocessing.greenlets._sleep = counting
began = time.monotonic()
gevent.spawn_later(0.5, os.kill, holder, signal.SIGKILL)
ticked, answer = ticks_during({wait})
assert answer == "item", answer
assert ticked >= 5
assert attempts <= 5 + (time.monotonic() - began) / 0.01, attempts
queue.task_done()
queue.join()
""")


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "JoinableQueue"])
def test_a_loop(kind: str) -> None:
    """The other greenlets run while it waits, also for the end of the last producer."""
    run(f"""
queue = penstock.{kind}()

def produce():
    with queue.producing():
        time.sleep(0.3)
        queue.put("item")
        os.kill(os.getpid(), signal.SIGKILL)

iterator = iter(queue)
with queue.producing():
    pids = []
    when_ticked(lambda: pids.append(in_child(produce)))
    seen, answer = ticks_during(next, iterator)
    assert seen > 0 and answer == "item", (seen, answer)
    os.waitpid(pids[0], 0)
    child = in_child(produce)
    while queue.statistics().producers < 2:
        gevent.sleep(0.01)
seen, answer = ticks_during(lambda: list(iterator))
assert seen > 0 and answer == ["item"], (seen, answer)
os.waitpid(child, 0)
""")


def test_a_greenlet_without_items_spares_the_loop_of_another() -> None:
    run("""
queue = penstock.JoinableQueue()
gevent.sleep(0)
queue.put_many("abc")
assert queue.get() == "a"
left = []
def loop():
    for item in queue:
        left.append((item, queue.statistics().unfinished))
        gevent.sleep(0.1)
        if item == "c":
            break
greenlet = gevent.spawn(loop)
gevent.sleep(0)
gevent.spawn(queue.task_done).join()  # it has none: the oldest of the process is done
assert left == [("b", 3)], left
greenlet.get()
assert left == [("b", 3), ("c", 1)], left
queue.task_done()
queue.join()
""")


def test_loops_of_several_greenlets() -> None:
    run("""
queue = penstock.JoinableQueue()
loops = [gevent.spawn(list, queue) for _ in range(3)]
gevent.sleep(0.05)
in_child(lambda: (queue.put_many(range(100)), queue.shutdown()))
assert sorted(item for loop in loops for item in loop.get(timeout=60)) == list(range(100))
queue.join()
""")


@pytest.mark.parametrize(
    ("made", "item"),
    [
        ("penstock.Queue(maxsize=1)", "'x'"),
        ("penstock.Queue(maxsize=1)", "bytes(500_000)"),
        ("penstock.SimpleQueue()", "bytes(1 << 20)"),
    ],
)
def test_room_ends_the_wait(made: str, item: str) -> None:
    """It is made by another greenlet, and then by another process."""
    run(f"""
queue = {made}
queue.put({item})
for by in ((queue.get,), (in_child, queue.get)):
    when_ticked(*by)
    ticked, answer = ticks_during(queue.put, {item})
    assert ticked >= 5 and answer is None, (ticked, answer)
    when_ticked(*by)
    ticked, answer = ticks_during(queue.put_many, [{item}])
    assert ticked >= 5 and answer is None, (ticked, answer)
assert queue.get() == {item}
assert queue.check() == []
""")


def test_a_wait_for_room_in_vain() -> None:
    run("""
import queue as standard
queue = penstock.Queue(maxsize=1)
queue.put("x")
while ticks < 5:
    ticked, answer = ticks_during(lambda: queue.put("y", timeout=0.5))
    assert isinstance(answer, standard.Full), answer
when_ticked(queue.shutdown)
ticked, answer = ticks_during(queue.put, "y")
assert ticked >= 5 and isinstance(answer, penstock.ShutDown), answer
""")


def test_join_waits_in_the_hub() -> None:
    run("""
queue = penstock.JoinableQueue()
for by in (lambda function: function(), in_child):
    queue.put("x")
    def work():
        queue.get()
        queue.task_done()
    when_ticked(by, work)
    ticked, answer = ticks_during(queue.join)
    assert ticked >= 5 and answer is None, (ticked, answer)
""")


@pytest.mark.parametrize("waits", [False, True])
def test_a_greenlet_finishes_its_own_items(waits: bool) -> None:
    """The younger one's item is done; the older one's comes back from the process that is killed.

    Also if the greenlets have slept in the hub for their items.
    """
    program = """
queue, told = penstock.JoinableQueue(), penstock.Queue()
if not waits:
    queue.put_many("ab")
def hold():
    events = [gevent.event.Event() for _ in range(2)]
    def work(event):
        item = queue.get()
        event.wait()
        if item == "b":
            queue.task_done()
    greenlets = [gevent.spawn(work, event) for event in events]
    gevent.sleep(0)
    if waits:
        for item in "ab":
            queue.put(item)
            while queue.qsize():
                gevent.sleep(0.01)
    gevent.sleep(0.01)
    for event in reversed(events):
        event.set()
    gevent.joinall(greenlets)
    told.put("done")
    penstock.Queue().get()
import gevent.event
holder = in_child(hold)
told.get()
os.kill(holder, signal.SIGKILL)
assert queue.get() == "a"
queue.task_done()
queue.join()
"""
    run(f"waits = {waits}\n{program}")


def test_a_joiner_does_not_miss_the_end_of_all_work() -> None:
    """Others are put at once, before the hub runs again."""
    run("""
queue = penstock.JoinableQueue()
queue.put("first")
joiners = [gevent.spawn(queue.join) for _ in range(3)]
start = ticks
while ticks < start + 5:
    gevent.sleep(0.01)
queue.get()
queue.task_done()
queue.put("second")
gevent.joinall(joiners, raise_error=True)
late = gevent.spawn(queue.join)
late.join(timeout=0.3)
assert not late.ready()
""")


@pytest.mark.parametrize("made", ["Queue", "JoinableQueue"])
def test_what_is_delayed_after_a_shutdown_costs_little(made: str) -> None:
    """The descriptor is readable meanwhile: the wait does not spin."""
    run(f"""
from penstock._multiprocessing import greenlets
queue = penstock.{made}()
queue.put("later", delay=0.5)
queue.shutdown()
sleeps, sleep = 0, greenlets._sleep
def count(*arguments):
    global sleeps
    sleeps += 1
    sleep(*arguments)
greenlets._sleep = count
start = time.monotonic()
assert queue.get() == "later"
assert sleeps <= 5 + (time.monotonic() - start) / 0.005, sleeps
""")


@pytest.mark.parametrize("ends", ["in order", "by a time-out", "by a kill"])
def test_a_lease_of_a_greenlet(ends: str) -> None:
    """It waits for its item while others run. A time-out of gevent is a failure, a kill is none."""
    run(
        f"""
queue = penstock.JoinableQueue(max_deliveries=5)
seen = []
def work():
    with queue.lease() as lease:
        seen.append(lease.item)
        if {ends!r} == "by a time-out":
            with gevent.Timeout(0.05):
                gevent.sleep(60)
        if {ends!r} == "by a kill":
            gevent.sleep(60)
worker = gevent.spawn(work)
start = ticks
while ticks < start + 5:
    gevent.sleep(0.01)
queue.put("item")
while not seen:
    gevent.sleep(0.01)
if {ends!r} == "by a kill":
    worker.kill()
worker.join()
if {ends!r} == "by a time-out":
    assert isinstance(worker.exception, gevent.Timeout), worker.exception
if {ends!r} != "in order":
    with queue.leases(1) as batch:
        for lease in batch:
            assert lease.deliveries == (2 if {ends!r} == "by a time-out" else 1), lease
queue.join()
assert queue.check() == []
""",
        prints=True,
    )
