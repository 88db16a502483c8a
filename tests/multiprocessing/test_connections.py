"""`Pipe`: its calls behave as the standard library's, connections travel, and waits end."""

import array
import asyncio
import contextlib
import datetime
import decimal
import functools
import gc
import math
import multiprocessing
import os
import pathlib
import pickle
import resource
import select
import signal
import socket
import threading
import uuid
from collections import Counter, OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from multiprocessing import BufferTooShort, connection, reduction, resource_sharer
from multiprocessing.forkserver import MAXFDS_TO_SEND
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

import penstock
from tests.support import processes
from tests.support.children import Child, fork
from tests.support.programs import METHODS, PLAIN, run, write
from tests.support.waiting import until

KIB = 1024
MIB = 1024 * KIB
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def sharer() -> Iterator[None]:
    """Stops the thread of `multiprocessing` that hands out descriptors of sent connections."""
    yield
    resource_sharer.stop()


def finish(process: BaseProcess) -> None:
    process.join()
    assert process.exitcode == 0
    process.close()


def what_is_raised(call: Callable[[], Any]) -> str:
    """The name of an exception's class, or "nothing"."""
    try:
        call()
    except BaseException as error:
        return type(error).__name__
    return "nothing"


# The same as `multiprocessing`, call by call. A scenario gets a factory, and returns its calls' outcomes.

Pipe: TypeAlias = Callable[..., tuple[Any, Any]]
scenarios: list[Callable[[Pipe], Any]] = []


def scenario(play: Callable[[Pipe], Any]) -> Callable[[Pipe], Any]:
    scenarios.append(play)
    return play


def tried(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """The result of a call, or its exception; of a TypeError the type, whose text is the interpreter's."""
    try:
        return call(*arguments, **named)
    except TypeError:
        return TypeError
    except Exception as error:
        return type(error), str(error)


def taken(receiver: Any) -> list[bytes]:
    """All messages that are ready."""
    return [receiver.recv_bytes() for _ in iter(receiver.poll, False)]


Point = namedtuple("Point", "x y")


class Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Named({self.name!r})"

    def hello(self) -> str:
        return f"hello, {self.name}"


class RefusesToPickle:
    def __reduce__(self) -> Any:
        raise KeyError("cannot be pickled")


class RefusesToUnpickle:
    def __reduce__(self) -> Any:
        return int, ("no number",)


OBJECTS = [
    *(None, True, -1, 1 << 200, 2.5, math.inf, 1j, "", "a\N{SNOWMAN}\0", b"", b"\xfe\xff", bytearray(b"ab")),
    *((), (1, (2, "3")), [1, [2, {}]], {"a": {1: None}}, {1}, frozenset({1}), range(3), slice(1, 2)),
    *(OrderedDict(a=1), Counter("aab"), Point(1, y=2), Named("a"), Named("a").hello, KeyError("a"), int, len),
    *(
        functools.partial(int, base=2),
        array.array("d", [1.5, 2.5]),
        decimal.Decimal("1.50"),
        uuid.UUID(int=1),
    ),
    *(datetime.datetime(2024, 2, 29, 1, 2, 3, 4, datetime.UTC), pathlib.PurePosixPath("/a/b")),
    *(
        np.arange(12).reshape(3, 4),
        np.arange(12)[::2],
        np.float32(1.5),
        np.dtype("int16"),
        np.array(["a", None]),
    ),
]


@scenario
def objects(pipe: Pipe) -> Any:
    a, b = pipe()
    received = []
    for sent in OBJECTS:
        assert a.send(sent) is None
        received.append(b.recv())
    # Only addresses in some texts differ.
    return [(type(each), repr(each).partition(" at 0x")[0]) for each in received]


@scenario
def objects_that_occur_twice(pipe: Pipe) -> Any:
    a, b = pipe()
    one = [1]
    a.send([one, one])
    circle: list[Any] = []
    circle.append(circle)
    a.send(circle)
    pair, received = b.recv(), b.recv()
    return pair[0] is pair[1], received[0] is received


@scenario
def objects_that_cannot_be_sent(pipe: Pipe) -> Any:
    a, b = pipe()
    bad = [RefusesToPickle(), threading.Lock(), multiprocessing.Lock(), (name for name in "a")]
    answers: list[Any] = [tried(a.send, each) for each in bad]
    assert not b.poll()
    a.send(RefusesToUnpickle())
    a.send("after")
    return [*answers, tried(b.recv), b.recv()]


@scenario
def bytes_with_offset_and_size(pipe: Pipe) -> Any:
    a, b = pipe()
    answers = []
    buffers = (
        b"abcdef",
        bytearray(b"abcdef"),
        memoryview(b"abcdef"),
        array.array("i", [1, 2, 3]),
        b"",
        "no",
        None,
    )
    places = [
        (),
        (2,),
        (6,),
        (7,),
        (-1,),
        (0, 6),
        (1, 2),
        (1, 0),
        (6, 0),
        (1, -1),
        (1, 9),
        (1, None),
        ("1",),
        (1.5,),
    ]
    for buffer in (*buffers, array.array("h"), np.arange(4, dtype=np.int16), np.float64(1.5)):
        for place in places:
            answers.append((tried(a.send_bytes, buffer, *place), taken(b)))
    return answers


@scenario
def bytes_of_every_length(pipe: Pipe) -> Any:
    a, b = pipe()
    lengths = [*range(300), 4095, 4096, 4097, 16383, 16384, 16385, 65535]
    received = []
    for length in lengths:
        a.send_bytes(bytes([length % 251]) * length)
        received.append(b.recv_bytes())
    return [(len(each), set(each)) for each in received]


@scenario
def bytes_up_to_a_length(pipe: Pipe) -> Any:
    answers: list[Any] = []
    for most in (None, 0, 3, 4, 10, True, 3.5, 4.5, math.inf, 1 << 80, np.int64(5), -1, "4"):
        for duplex in (True, False):
            b, a = pipe(duplex)
            a.send_bytes(b"abcd")
            answers.append((tried(b.recv_bytes, most), b.closed, b.readable, b.writable))
            answers.append(
                (tried(b.poll), tried(b.recv_bytes) if b.readable and not b.closed and b.poll() else None)
            )
            answers.append(tried(a.send, 1) if b.closed else None)
    return answers


@scenario
def bytes_into_a_buffer(pipe: Pipe) -> Any:
    a, b = pipe()
    answers: list[Any] = []
    makers: list[Callable[[], Any]] = [
        *(lambda: bytearray(10), lambda: bytearray(4), lambda: bytearray(3), lambda: b"read only"),
        *(lambda: array.array("i", [0] * 3), lambda: array.array("h", [0]), lambda: np.zeros(8, np.uint8)),
        *(lambda: memoryview(bytearray(8))[2:7], lambda: "no buffer", lambda: None),
    ]
    for make in makers:
        for place in [(), (0,), (2,), (4,), (8,), (10,), (11,), (-1,), ("1",), (None,)]:
            buffer = make()
            a.send_bytes(b"abcd")
            answers.append((tried(b.recv_bytes_into, buffer, *place), taken(b)))
            if buffer is not None and not isinstance(buffer, str):
                answers.append(bytes(buffer))
    return answers


@scenario
def bytes_into_a_buffer_that_is_too_short(pipe: Pipe) -> Any:
    a, b = pipe()
    answers = []
    for message in (b"abcd", bytes(10_000)):
        a.send_bytes(message)
        with pytest.raises(BufferTooShort) as raised:
            b.recv_bytes_into(bytearray(5), 2)
        answers.append(raised.value.args == (message,))
    a.send_bytes(b"after")
    return [*answers, b.recv_bytes()]


@scenario
def objects_read_as_bytes_and_bytes_read_as_objects(pipe: Pipe) -> Any:
    a, b = pipe()
    answers: list[Any] = []
    for sent in (None, "a", b"\xfe", (1, 2.5), {"a": [1]}, bytearray(5000), np.arange(300), Named("a")):
        a.send(sent)
        answers.append(repr(pickle.loads(b.recv_bytes())))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            a.send_bytes(pickle.dumps(sent, protocol))
            answers.append(repr(b.recv()))
    a.send("into a buffer")
    into = bytearray(1000)
    return [*answers, pickle.loads(into[: b.recv_bytes_into(into)])]


@scenario
def bytes_that_are_no_pickle(pipe: Pipe) -> Any:
    a, b = pipe()
    answers = []
    for wrong in (
        b"",
        b"no pickle",
        b"\x80\x05.",
        b"\x80\x7f",
        b"\xfe",
        b"\xff",
        b"\xff\xfe" * 9,
        b"cno\nmodule\n.",
    ):
        a.send_bytes(wrong)
        a.send("after")
        answers += [what_is_raised(b.recv), b.recv()]
    return answers


@scenario
def polling(pipe: Pipe) -> Any:
    a, b = pipe()
    timeouts = (0, 0.0, -1, 0.001, False, 1e-9)
    answers: list[Any] = [
        [tried(b.poll, timeout) for timeout in timeouts],
        tried(b.poll),
        tried(b.poll, timeout=0),
    ]
    a.send(1)
    answers += [[tried(b.poll, timeout) for timeout in (*timeouts, None, 5, True)], b.recv(), b.poll()]
    answers += [tried(b.poll, "1"), tried(b.poll, [])]
    a.close()
    return [*answers, b.poll(), b.poll(None), b.poll(5), tried(b.recv), b.poll()]


@scenario
def arguments_by_place_and_by_name(pipe: Pipe) -> Any:
    a, b = pipe()
    calls = [
        tried(a.send),
        tried(a.send, 1, 2),
        tried(b.recv, 1),
        tried(b.poll, 1, 2),
        tried(b.recv_bytes, 1, 2),
    ]
    a.send(obj=1)
    a.send_bytes(buf=b"abc", offset=1, size=1)
    a.send_bytes(b"abc")
    into = bytearray(4)
    received = b.recv(), b.recv_bytes(maxlength=1), b.recv_bytes_into(buf=into, offset=1), bytes(into)
    return calls, received, b.poll(timeout=0)


@scenario
def directions(pipe: Pipe) -> Any:
    answers: list[Any] = []
    for sides in (pipe(), pipe(True), pipe(duplex=True), pipe(False), pipe(duplex=0)):
        for side in sides:
            answers.append((side.readable, side.writable, side.closed))
    receiver, sender = pipe(duplex=False)
    answers += [tried(receiver.send, 1), tried(receiver.send_bytes, b"a"), tried(receiver.send_bytes, "no")]
    answers += [tried(sender.recv), tried(sender.recv_bytes), tried(sender.recv_bytes_into, bytearray(1))]
    answers += [
        tried(sender.poll),
        tried(sender.poll, 1),
        type(sender.fileno()),
        tried(sender.recv_bytes, -1),
    ]
    sender.send(1)
    return [*answers, receiver.recv()]


@scenario
def both_ways_at_once(pipe: Pipe) -> Any:
    a, b = pipe()
    for number in range(10):
        a.send(number)
        b.send(-number)
    return [(a.recv(), b.recv()) for _ in range(10)], a.poll(), b.poll()


@scenario
def closed(pipe: Pipe) -> Any:
    a, _b = pipe()
    assert not a.closed
    answers: list[Any] = [a.close(), a.close(), a.closed, a.readable, a.writable]
    calls: list[Callable[[], Any]] = [
        *(
            lambda: a.send(1),
            lambda: a.send_bytes(b"a"),
            lambda: a.send_bytes("no"),
            lambda: a.send_bytes(b"a", 2),
        ),
        *(a.recv, a.recv_bytes, lambda: a.recv_bytes(-1), lambda: a.recv_bytes_into(bytearray(1))),
        *(
            a.poll,
            lambda: a.poll(1),
            a.fileno,
            lambda: connection.wait([a], 0),
            lambda: ForkingPickler.dumps(a),
        ),
    ]
    with a as entered:
        answers.append(entered is a)
    return answers + [tried(call) for call in calls]


@scenario
def used_in_a_with_statement(pipe: Pipe) -> Any:
    a, b = pipe()
    with a as entered:
        a.send(1)
    with contextlib.suppress(LookupError), b:
        received = b.recv()
        raise LookupError
    return entered is a, a.closed, received, b.closed


@scenario
def the_other_side_is_closed(pipe: Pipe) -> Any:
    a, b = pipe()
    b.send("last")
    b.close()
    answers: list[Any] = [a.poll(), tried(a.send, 1), a.recv(), a.poll(), a.poll(None)]
    answers += [
        tried(a.recv),
        tried(a.recv_bytes),
        tried(a.recv_bytes, 1),
        tried(a.recv_bytes_into, bytearray(1)),
    ]
    answers += [
        tried(a.send, 1),
        tried(a.send_bytes, b"a"),
        tried(a.send_bytes, b""),
        tried(a.send, RefusesToPickle()),
    ]
    return [*answers, a.closed, a.readable, a.writable]


@scenario
def the_other_side_of_one_way_is_closed(pipe: Pipe) -> Any:
    receiver, sender = pipe(False)
    sender.send("lost")
    receiver.close()
    answers = [tried(sender.send, 1), tried(sender.send_bytes, b"a")]
    receiver, sender = pipe(False)
    sender.send("last")
    sender.close()
    return [*answers, receiver.recv(), tried(receiver.recv), tried(receiver.recv_bytes)]


@scenario
def the_other_side_is_let_go_of(pipe: Pipe) -> Any:
    a, b = pipe()
    b.send("last")
    del b
    gc.collect()
    return a.recv(), tried(a.recv)


@scenario
def waited_for_with_others(pipe: Pipe) -> Any:
    sides = [*pipe(), *pipe(False)]
    a, b, receiver, sender = sides

    def ready(*timeout: float) -> list[int]:
        return [sides.index(each) for each in connection.wait([a, b, receiver], *timeout)]

    answers: list[Any] = [ready(0), ready(0.001)]
    a.send(1)
    answers += [ready(), ready(0), b.poll(), ready()]
    sender.send(2)
    answers += [ready(), b.recv(), ready(), receiver.recv(), ready(0)]
    sender.close()
    answers += [ready(), tried(receiver.recv), ready()]
    b.close()
    return [*answers, tried(connection.wait, [b], 0), tried(connection.wait, [], 0)]


def events_of(*sides: Any) -> list[int]:
    """What `poll` and `epoll` report of each side."""
    seen = []
    for side in sides:
        polled, epoll = select.poll(), select.epoll()
        with epoll:
            polled.register(side, select.POLLIN | select.POLLOUT)
            epoll.register(side, select.EPOLLIN | select.EPOLLOUT)
            seen += [dict(each.poll(0)).get(side.fileno(), 0) for each in (polled, epoll)]
    return seen


@scenario
def events(pipe: Pipe) -> Any:
    answers: list[Any] = []
    for duplex in (True, False):
        a, b = pipe(duplex)
        answers.append(events_of(a, b))
        for number in range(2):
            b.send(number)
            answers.append(events_of(a, b))
        if duplex:
            a.send("and back")
            answers += [events_of(a, b), b.recv(), events_of(a, b)]
        for _ in range(2):
            answers += [a.recv(), events_of(a, b)]
        b.send("last")
        b.close()
        answers += [events_of(a), a.recv(), events_of(a), tried(a.recv), events_of(a)]
        a, b = pipe(duplex)
        a.close()
        answers.append(events_of(b))
        b.close()
    return answers


def edges_of(epoll: Any) -> list[int]:
    """What an edge-triggered `epoll` reports until it reports nothing."""
    return [event for seen in iter(lambda: epoll.poll(0), []) for _, event in seen]


@scenario
def edges(pipe: Pipe) -> Any:
    answers: list[Any] = []
    for duplex in (True, False):
        a, b = pipe(duplex)
        with select.epoll() as epoll:
            epoll.register(a, select.EPOLLIN | select.EPOLLET)
            for number in range(3):
                answers.append(edges_of(epoll))
                b.send(number)
                answers += [edges_of(epoll), a.recv(), edges_of(epoll)]
            b.close()
            answers += [edges_of(epoll), tried(a.recv), edges_of(epoll)]
    return answers


@scenario
def identity(pipe: Pipe) -> Any:
    a, b = pipe()
    kinds = [isinstance(side, connection.Connection) for side in (a, b)]
    return kinds, a == b, a == a, len({a, b, a}), type(pipe()), tried(pipe, 1, 2), type(a.fileno())


@pytest.mark.slow
@pytest.mark.parametrize("play", scenarios, ids=lambda play: play.__name__)
def test_as_multiprocessing(play: Callable[[Pipe], Any]) -> None:
    expected = play(multiprocessing.Pipe)
    assert play(penstock.Pipe) == expected


def test_every_public_name_is_there() -> None:
    def public(side: object) -> set[str]:
        return {name for name in dir(side) if not name.startswith("_")}

    for standard, ours in zip(multiprocessing.Pipe(), penstock.Pipe(), strict=True):
        assert public(standard) == public(ours)


# Differences from `multiprocessing`.


@pytest.mark.parametrize(
    ("pipe", "first"), [(multiprocessing.Pipe, "ConnectionResetError"), (penstock.Pipe, "EOFError")]
)
def test_the_other_side_is_closed_with_messages_unread(pipe: Pipe, first: str) -> None:
    a, b = pipe()
    a.send("not read")
    b.send("last")
    b.close()
    assert a.recv() == "last"
    assert what_is_raised(a.recv) == first
    assert what_is_raised(a.recv) == "EOFError"
    assert what_is_raised(lambda: a.send(1)) == "BrokenPipeError"


def test_memory_that_is_not_contiguous() -> None:
    scattered = memoryview(bytes(100_000))[::2]
    a, b = multiprocessing.Pipe()
    assert what_is_raised(lambda: a.send_bytes(scattered[:10])) == "TypeError"
    assert not b.poll()
    assert what_is_raised(lambda: a.send_bytes(scattered)) == "BufferError"
    assert b.poll()  # an incomplete message
    a, b = penstock.Pipe()
    for size in (10, len(scattered)):
        with pytest.raises(BufferError, match="not C-contiguous"):
            a.send_bytes(scattered[:size])
    assert not b.poll()


def test_where_a_send_begins_to_wait() -> None:
    receiver: Any
    receiver, sender = penstock.Pipe(False)
    # A message of any size is sent at once; the next send waits while 1 MiB or more is queued.
    sender.send_bytes(bytes(20 * MIB))
    with fork(sender.send_bytes, b"next") as child:
        until(lambda: receiver._incoming._statistics()["waiting_putters"])
        assert receiver.recv_bytes() == bytes(20 * MIB)
        child.result()
    assert receiver.recv_bytes() == b"next"
    for _ in range(10):
        sender.send_bytes(bytes(100 * KIB))


@pytest.mark.parametrize("timeout", [math.inf, 1e300])
def test_a_timeout_beyond_every_clock(timeout: float) -> None:
    a, b = multiprocessing.Pipe()
    with pytest.raises((OverflowError, ValueError)):
        a.poll(timeout)
    a, b = penstock.Pipe()
    with fork(lambda: a.poll(timeout)) as child:
        b.send(1)
        assert child.result()


def test_a_timeout_that_is_none() -> None:
    with pytest.raises(ValueError, match="NaN"):
        penstock.Pipe()[0].poll(math.nan)


def test_memoryviews_arrive() -> None:
    a, b = penstock.Pipe()
    a.send([memoryview(b"abc")])
    assert b.recv() == [b"abc"]


def test_the_descriptor_is_there_to_wait_with() -> None:
    a, b = penstock.Pipe()
    b.send_bytes(b"message")
    # The descriptor only says that a message is ready. The message is in shared memory.
    assert os.read(a.fileno(), 100) == b"\1"
    assert a.recv_bytes() == b"message"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("duplex", [True, False])
def test_descriptors_of_a_pipe(duplex: bool) -> None:
    for pipe, expected in ((multiprocessing.Pipe, (2, 1)), (penstock.Pipe, (3, 2))):
        before = descriptors()
        first, second = pipe(duplex)
        with_both = descriptors() - before
        second.send(1)
        assert first.recv() == 1
        for side in (first, second):
            assert side.fileno() >= 0
        assert descriptors() - before == with_both
        first.close()
        with_one = descriptors() - before
        assert (with_both, with_one) == expected
        second.close()
        del first, second
        assert descriptors() == before


def count_descriptors(side: Any, others: list[Any]) -> int:
    """Use a side, and count the descriptors that it takes. Runs in a child."""
    for other in others:
        other.close()
    if side.writable:
        side.send(1)
    if side.readable:
        side.poll(0.01)
    connection.wait([side], 0)
    with_it = descriptors()
    side.close()
    others.clear()
    gc.collect()
    return with_it - descriptors()


@pytest.mark.parametrize("duplex", [True, False])
def test_descriptors_of_a_process_with_one_side(duplex: bool) -> None:
    for which in (0, 1):
        sides = list(penstock.Pipe(duplex))
        mine = sides.pop(which)
        with fork(lambda mine=mine, sides=sides: count_descriptors(mine, sides)) as child:
            assert child.result() <= 2


def test_many_pipes_to_many_processes() -> None:
    """As many as an environment of reinforcement learning has workers, with the usual limit."""

    def use_all() -> int:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        pipes = [penstock.Pipe() for _ in range(300)]
        for here, _ in pipes:
            here.send(1)
        total = sum(there.recv() for _, there in pipes)
        return total + len(connection.wait([here for here, _ in pipes], 0))

    with fork(use_all) as child:
        assert child.result() == 300


def receive_from(*receivers: Any) -> None:
    for number, receiver in enumerate(receivers):
        assert receiver.recv() == number


@pytest.mark.slow
@pytest.mark.parametrize(("duplex", "most"), [(True, 124), (False, 124)])
def test_how_many_fit_into_the_arguments_of_a_forkserver_process(duplex: bool, most: int) -> None:
    assert most * 2 == MAXFDS_TO_SEND - 8  # the kernel takes 3 fewer than the constant
    pipes = [penstock.Pipe(duplex) for _ in range(most)]
    process = multiprocessing.get_context("forkserver").Process(
        target=receive_from, args=[r for r, _ in pipes]
    )
    process.start()
    for number, (_, sender) in enumerate(pipes):
        sender.send(number)
    finish(process)


# The process with the other side ends.


def greet_and_end(there: Any, stay: Any, way: str) -> None:
    there.send("last")
    if way == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "closes":
        there.close()
        stay.recv()
    if way == "raises":
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        raise LookupError


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("way", ["closes", "returns", "raises", "is killed"])
def test_the_other_process(method: str, way: str) -> None:
    here, there = penstock.Pipe()
    stay_here, stay_there = penstock.Pipe()
    process = multiprocessing.get_context(method).Process(target=greet_and_end, args=(there, stay_there, way))
    process.start()
    there.close()
    assert here.recv() == "last"
    for _ in range(2):
        assert what_is_raised(here.recv) == what_is_raised(here.recv_bytes) == "EOFError"
        assert here.poll(None)
        assert what_is_raised(lambda: here.send(1)) == "BrokenPipeError"
        assert what_is_raised(lambda: here.send_bytes(bytes(2 * MIB))) == "BrokenPipeError"
    stay_here.send(None)
    process.join()
    assert process.exitcode == {"raises": 1, "is killed": -signal.SIGKILL}.get(way, 0)
    process.close()


def send_for_ever(side: Any) -> None:
    while True:
        side.send_bytes(bytes(100 * KIB))


WAITS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "recv": (lambda side: side.recv(), "EOFError"),
    "recv_bytes": (lambda side: side.recv_bytes(), "EOFError"),
    "recv_bytes_into": (lambda side: side.recv_bytes_into(bytearray(1)), "EOFError"),
    "poll and recv": (lambda side: side.poll(None) and side.recv(), "EOFError"),
    "wait and recv": (lambda side: connection.wait([side]) and side.recv(), "EOFError"),
    "send": (send_for_ever, "BrokenPipeError"),
}
every_wait = pytest.mark.parametrize("wait", WAITS)


def sleeps(child: Child) -> bool:
    return processes.state(child.pid) == "S"


@pytest.mark.slow
@every_wait
@pytest.mark.parametrize("duplex", [True, False])
def test_a_wait_ends_when_the_other_process_is_killed(wait: str, duplex: bool) -> None:
    call, expected = WAITS[wait]
    receiver, sender = penstock.Pipe(duplex)
    mine, other = (sender, receiver) if wait == "send" else (receiver, sender)

    def hold() -> None:
        mine.close()
        signal.pause()

    def wait_for_it() -> str:
        other.close()
        return what_is_raised(lambda: call(mine))

    with fork(hold) as holder, fork(wait_for_it) as waiting:
        mine.close()
        other.close()
        until(lambda: sleeps(waiting) and sleeps(holder))
        assert not waiting.has_ended()
        holder.kill()
        assert waiting.result() == expected


def test_only_the_last_process_of_a_side_ends_it() -> None:
    here, there = penstock.Pipe()
    with fork(there.send, 1) as first, fork(there.send, 2) as second:
        first.result()
        second.result()
        assert sorted([here.recv(), here.recv()]) == [1, 2]
        assert not here.poll()
        here.send(3)
        there.close()
        assert what_is_raised(here.recv) == "EOFError"


def test_a_child_that_inherits_both_sides_and_closes_them() -> None:
    a, b = penstock.Pipe()

    def close_both() -> tuple[str, str]:
        a.close()
        b.close()
        return what_is_raised(a.recv), what_is_raised(lambda: b.send(1))

    with fork(close_both) as child:
        assert child.result() == ("OSError", "OSError")
    a.send(1)
    assert b.recv() == 1
    b.close()
    assert what_is_raised(a.recv) == "EOFError"


def test_a_child_that_keeps_an_inherited_side_keeps_it_open() -> None:
    a, b = penstock.Pipe()
    with fork(signal.pause) as child:
        b.close()
        a.send("to whom it may concern")
        assert not a.poll(0.01)
        child.kill()
        assert what_is_raised(a.recv) == "EOFError"


SENT: list[Any] = [0, "a" * 100, b"b" * 10_000, list(range(1000)), np.arange(MIB // 8)]


@pytest.mark.parametrize("is_large", [False, True])
def test_what_was_sent_arrives_although_the_sender_was_killed(is_large: bool) -> None:
    receiver, sender = penstock.Pipe(False)

    def send_and_die() -> None:
        for sent in SENT if is_large else SENT[:-1] * 5:
            sender.send(sent)
        os.kill(os.getpid(), signal.SIGKILL)

    with fork(send_and_die) as child:
        sender.close()
        assert child.wait() == -signal.SIGKILL
        for sent in SENT if is_large else SENT[:-1] * 5:
            assert np.array_equal(receiver.recv(), sent)
    assert what_is_raised(receiver.recv) == "EOFError"


def test_a_receiver_that_is_killed_harms_no_other() -> None:
    receiver, sender = penstock.Pipe(False)
    idle = [fork(receiver.recv) for _ in range(3)]
    until(lambda: all(map(sleeps, idle)))
    for child in idle:
        child.kill()
        child.wait()
        child.close()
    sender.send("to another")
    assert receiver.recv() == "to another"


# Many senders, receivers and connections.


def receive_all(receiver: Any) -> list[Any]:
    received = []
    with contextlib.suppress(EOFError):
        while True:
            received.append(receiver.recv())
    return received


@pytest.mark.slow
def test_several_senders_and_receivers() -> None:
    receiver, sender = penstock.Pipe(False)
    each = 300

    def send(who: int) -> None:
        receiver.close()
        for number in range(each):
            sender.send((who, number, bytes(number)))

    def receive() -> list[Any]:
        sender.close()
        return receive_all(receiver)

    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(fork(send, who)) for who in range(3)]
        receivers = [stack.enter_context(fork(receive)) for _ in range(3)]
        sender.close()
        for child in senders:
            child.result()
        received = [child.result() for child in receivers]
    for messages in received:
        for who in range(3):  # the messages of each sender come in their order
            numbers = [number for sent_by, number, _ in messages if sent_by == who]
            assert numbers == sorted(numbers)
    together = sorted(message for messages in received for message in messages)
    assert together == [(who, number, bytes(number)) for who in range(3) for number in range(each)]


@pytest.mark.parametrize("duplex", [True, False])
def test_threads_use_a_connection_while_another_closes_it(duplex: bool) -> None:
    """Other files get the numbers of its descriptors, and are left alone."""
    for which in (0, 1) * 25:
        sides = penstock.Pipe(duplex)
        receiver, sender = sides
        ready = threading.Barrier(5)
        seen: list[str] = []

        def run(call: Callable[[], object], ready: Any = ready, seen: Any = seen) -> None:
            ready.wait()
            try:
                while True:
                    call()
            except (OSError, EOFError) as error:
                seen.append(type(error).__name__)

        calls = [receiver.recv, lambda side=receiver: side.poll(None), sender.fileno]
        calls.append(lambda side=sender: side.send("x"))
        threads = [threading.Thread(target=run, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        ready.wait()
        sides[which].close()
        pairs = [socket.socketpair() for _ in range(10)]
        for first, second in pairs:
            first.send(b"1")
            second.send(b"2")
        sides[1 - which].close()
        for thread in threads:
            thread.join()
        assert len(seen) == len(calls)
        for first, second in pairs:
            with first, second:
                assert (first.recv(10), second.recv(10)) == (b"2", b"1")


@pytest.mark.parametrize("wait", ["recv", "recv_bytes", "poll and recv", "send"])
def test_a_wait_while_another_thread_closes_the_connection(wait: str) -> None:
    """The wait ends with its slice, and the other side is told then."""
    a, b = penstock.Pipe()
    raised: list[str] = []
    waiting = threading.Thread(target=lambda: raised.append(what_is_raised(lambda: WAITS[wait][0](a))))
    waiting.start()
    until(lambda: processes.state(waiting.native_id or 0) == "S")
    a.close()
    assert a.closed
    waiting.join()
    assert raised == ["OSError"]
    while tried(b.recv_bytes) != (EOFError, ""):
        pass
    assert tried(b.send, 1) == (BrokenPipeError, "[Errno 32] Broken pipe")


def test_several_threads_send_and_receive() -> None:
    receiver, sender = penstock.Pipe(False)
    received: list[Any] = []
    each = 300

    def send(who: int) -> None:
        for number in range(each):
            sender.send((who, number))

    receivers = [threading.Thread(target=lambda: received.extend(receive_all(receiver))) for _ in range(3)]
    senders = [threading.Thread(target=send, args=(who,)) for who in range(3)]
    for thread in receivers + senders:
        thread.start()
    for thread in senders:
        thread.join()
    sender.close()
    for thread in receivers:
        thread.join()
    assert sorted(received) == [(who, number) for who in range(3) for number in range(each)]


def echo(side: Any) -> None:
    while (message := side.recv()) is not None:
        side.send(message)


def echo_bytes(side: Any) -> None:
    for message in iter(side.recv_bytes, b"end"):
        side.send_bytes(message)


def with_a_process(method: str, target: Callable[[Any], None]) -> tuple[Any, BaseProcess]:
    """One side of a pipe, and the process that has the other side."""
    here, there = penstock.Pipe()
    process = multiprocessing.get_context(method).Process(target=target, args=(there,))
    process.start()
    there.close()
    return here, process


@pytest.mark.slow
@every_method
def test_large_messages_there_and_back(method: str) -> None:
    here, process = with_a_process(method, echo_bytes)
    for size in (64 * KIB, MIB, 20 * MIB + 1):
        message = bytes([1, 2, 254, 255]) * (size // 4)
        here.send_bytes(message)
        assert here.recv_bytes() == message
        into = bytearray(len(message))
        here.send_bytes(message)
        assert here.recv_bytes_into(into) == len(message)
        assert into == message
    here.send_bytes(b"end")
    finish(process)


@pytest.mark.slow
@every_method
def test_arrays_there_and_back(method: str) -> None:
    here, process = with_a_process(method, echo)
    for shape in ((10,), (KIB, KIB // 8), (3, MIB)):
        sent = np.arange(math.prod(shape)).reshape(shape)
        for message in (sent, {"one": sent, "other": sent[:1]}):
            here.send(message)
            received = here.recv()
            for got in (received,) if message is sent else received.values():
                assert np.array_equal(got, sent[: len(got)])
                got[:] = 0  # a private copy of the receiver
        assert sent.any()
    here.send(None)
    finish(process)


# 0xfe and 0xff mark messages of Penstock's own formats. Bytes of a program are never taken for one.
@pytest.mark.slow
@pytest.mark.parametrize(
    "first", [b"\xfe", b"\xff", b"\xfe\xfe", b"\xff\xff", b"\xfe\xff", b"\xff\xfe", b"\x80", b"\0"]
)
@pytest.mark.parametrize("size", [0, 1, 7, 100, 5000, 300 * KIB])
def test_bytes_that_begin_like_marks(first: bytes, size: int) -> None:
    a, b = penstock.Pipe()
    message = first + bytes(size)
    a.send_bytes(message)
    assert b.recv_bytes() == message
    a.send_bytes(message)
    into = bytearray(len(message))
    assert b.recv_bytes_into(into) == len(message)
    assert into == message
    a.send_bytes(message)
    with pytest.raises((pickle.UnpicklingError, ValueError, EOFError)):
        b.recv()
    a.send(message)
    assert b.recv() == message


@pytest.mark.parametrize("size", [10, 5 * KIB, 100 * KIB, 2 * MIB])
def test_buffers_sent_as_an_object_and_read_as_bytes(size: int) -> None:
    a, b = penstock.Pipe()
    for sent in (np.ones(size, np.uint8), [np.ones(size, np.uint8), 1], bytearray(size), bytes(size)):
        a.send(sent)
        received = pickle.loads(b.recv_bytes())
        assert type(received) is type(sent)
        assert repr(received) == repr(sent)
        a.send_bytes(ForkingPickler.dumps(sent))
        assert repr(b.recv()) == repr(sent)
        a.send(sent)
        with pytest.raises(OSError, match="bad message length"):
            b.recv_bytes(5)
        a, b = penstock.Pipe()


# How connections travel.


def double(side: Any) -> None:
    """Send back the double of each number. Runs in a child."""
    for number in iter(side.recv, None):
        side.send(2 * number)
    side.close()


def use(side: Any) -> None:
    """Use the other side of `double`, and end it."""
    for number in range(3):
        side.send(number)
        assert side.recv() == 2 * number
    side.send(None)
    assert what_is_raised(side.recv) == "EOFError"


@pytest.mark.slow
@every_method
def test_as_an_argument_and_closed_at_once(method: str) -> None:
    here, there = penstock.Pipe()
    process = multiprocessing.get_context(method).Process(target=double, args=(there,))
    process.start()
    there.close()
    use(here)
    finish(process)


def double_in_one_way(receiver: Any, sender: Any) -> None:
    for number in iter(receiver.recv, None):
        sender.send(2 * number)


@pytest.mark.slow
@every_method
def test_one_way_sides_as_arguments(method: str) -> None:
    receiver, answer = penstock.Pipe(False)
    question, sender = penstock.Pipe(duplex=False)
    process = multiprocessing.get_context(method).Process(target=double_in_one_way, args=(question, answer))
    process.start()
    question.close()
    answer.close()
    for number in range(3):
        sender.send(number)
        assert receiver.recv() == 2 * number
    sender.send(None)
    assert what_is_raised(receiver.recv) == "EOFError"
    finish(process)


def use_both_sides(sides: tuple[Any, Any], again: Any) -> None:
    a, b = sides
    assert again is a
    a.send("from one")
    assert b.recv() == "from one"
    b.send("from the other")
    assert a.recv() == "from the other"
    b.send("to whoever is quicker")
    b.close()


@pytest.mark.slow
@every_method
def test_both_sides_as_arguments(method: str) -> None:
    a, b = penstock.Pipe()
    process = multiprocessing.get_context(method).Process(target=use_both_sides, args=((a, b), a))
    process.start()
    finish(process)
    assert a.recv() == "to whoever is quicker"
    a.send("still open")
    assert b.recv() == "still open"


@pytest.mark.slow
@every_method
def test_one_side_as_an_argument_of_several_processes(method: str) -> None:
    receiver, sender = penstock.Pipe(False)
    context = multiprocessing.get_context(method)
    started = [context.Process(target=send_pid, args=(sender,)) for _ in range(3)]
    for process in started:
        process.start()
    sender.close()
    assert sorted(receive_all(receiver)) == sorted(process.pid for process in started)
    for process in started:
        finish(process)


def send_pid(sender: Any) -> None:
    sender.send(os.getpid())


def start_another(method: str, sender: Any) -> None:
    process = multiprocessing.get_context(method).Process(target=send_pid, args=(sender,))
    process.start()
    sender.send(process.pid)
    finish(process)


@pytest.mark.slow
@every_method
def test_from_a_child_to_a_grandchild(method: str) -> None:
    receiver, sender = penstock.Pipe(False)
    # A forked child cannot use a fork server that its parent has started.
    below = "spawn" if method == "fork" else method
    process = multiprocessing.get_context(method).Process(target=start_another, args=(below, sender))
    process.start()
    sender.close()
    one, other = receive_all(receiver)
    assert one == other
    finish(process)


def double_through(messages: Any) -> None:
    double((messages.recv if hasattr(messages, "recv") else messages.get)())


@pytest.mark.slow
@every_method
@pytest.mark.parametrize(
    "carrier", ["Pipe", "standard Pipe", "Queue", "SimpleQueue", "JoinableQueue", "standard Queue"]
)
@pytest.mark.usefixtures("sharer")
def test_inside_a_message(method: str, carrier: str) -> None:
    context = multiprocessing.get_context(method)
    if carrier.endswith("Pipe"):
        receiver, sender = (penstock if carrier == "Pipe" else multiprocessing).Pipe(False)
        send: Callable[[Any], None] = sender.send
    else:
        receiver = context.Queue() if carrier == "standard Queue" else getattr(penstock, carrier)()
        send = receiver.put
    process = context.Process(target=double_through, args=(receiver,))
    process.start()
    here, there = penstock.Pipe()
    send(there)
    if carrier == "standard Queue":  # its thread may not have pickled the connection yet
        receiver.close()
        receiver.join_thread()
    there.close()
    use(here)
    finish(process)


@pytest.mark.usefixtures("sharer")
def test_messages_travel_with_their_connection() -> None:
    carrier_in, carrier_out = penstock.Pipe(False)
    a, b = penstock.Pipe()
    a.send("sent before")
    b.send("sent before, too")
    carrier_out.send([b])
    b.close()
    assert a.recv() == "sent before, too"
    a.send("sent on the way")
    [received] = carrier_in.recv()
    assert [received.recv(), received.recv()] == ["sent before", "sent on the way"]
    received.close()
    assert what_is_raised(a.recv) == "EOFError"


@pytest.mark.usefixtures("sharer")
def test_a_connection_that_carries_its_own_sides() -> None:
    a, b = penstock.Pipe()
    a.send((a, b))
    also_a, also_b = b.recv()
    a.close()
    b.close()
    also_a.send("through copies")
    assert also_b.recv() == "through copies"
    also_b.close()
    assert what_is_raised(also_a.recv) == "EOFError"


@pytest.mark.usefixtures("sharer")
def test_standard_connections_and_sockets_inside_messages() -> None:
    here, there = penstock.Pipe()
    with fork(lambda: [there.recv().send("received") for _ in range(2)]) as child:
        receiver, sender = multiprocessing.Pipe(False)
        here.send(sender)
        assert receiver.recv() == "received"
        receiver, sender = penstock.Pipe(False)
        here.send(sender)
        assert receiver.recv() == "received"
        child.result()
    one, other = socket.socketpair()
    with one, other:
        here.send(one)
        with there.recv() as received:
            received.sendall(b"a")
            assert other.recv(1) == b"a"


@pytest.fixture
def patched() -> Iterator[None]:
    penstock.patch()
    yield
    penstock.unpatch()


def write_to_received(side: Any) -> None:
    with open(reduction.recv_handle(side), "wb") as file:  # type: ignore[attr-defined]
        file.write(b"from the child")


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("pipe", [penstock.Pipe, connection.Pipe], ids=["ours", "standard"])
@pytest.mark.usefixtures("sharer", "patched")
def test_handles_while_multiprocessing_is_patched(method: str, pipe: Pipe) -> None:
    here, there = pipe()
    process = multiprocessing.get_context(method).Process(target=write_to_received, args=(there,))
    process.start()
    reader, writer = os.pipe()
    reduction.send_handle(here, writer, process.pid)  # type: ignore[attr-defined]
    os.close(writer)
    with open(reader, "rb") as file:
        assert file.read() == b"from the child"
    finish(process)


def answer_from_queue(side: Any) -> None:
    questions, answers = side.recv()
    for question in iter(questions.get, None):
        answers.put(2 * question)


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "JoinableQueue"])
def test_queues_inside_a_message(method: str, kind: str) -> None:
    here, there = penstock.Pipe()
    process = multiprocessing.get_context(method).Process(target=answer_from_queue, args=(there,))
    process.start()
    questions, answers = getattr(penstock, kind)(), getattr(penstock, kind)()
    here.send((questions, answers))
    for number in range(3):
        questions.put(number)
        assert answers.get() == 2 * number
    questions.put(None)
    finish(process)


def test_the_sender_may_drop_a_queue_at_once() -> None:
    receiver, sender = penstock.Pipe(False)
    queue = penstock.Queue[str]()
    queue.put("inside")
    sender.send(queue)
    del queue
    gc.collect()
    assert receiver.recv().get() == "inside"


def test_a_connection_of_a_context_of_ours() -> None:
    for method in METHODS:
        here, there = penstock.get_context(method).Pipe()
        assert type(here) is type(there) is penstock.connections.Connection
        receiver, _sender = penstock.get_context(method).Pipe(duplex=False)
        assert not receiver.writable


# Signals.


class Alarm(Exception):
    pass


def ring(number: int, frame: object) -> None:
    raise Alarm


@every_wait
def test_an_alarm_and_ctrl_c_end_a_wait(wait: str) -> None:
    a, b = penstock.Pipe()
    announce, announced = penstock.Pipe()

    def ring_and_wait() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        WAITS[wait][0](a)

    def say_so_and_wait() -> None:
        announce.send("it rang")
        WAITS[wait][0](a)

    def twice() -> tuple[str, str]:
        signal.signal(signal.SIGALRM, ring)
        return what_is_raised(ring_and_wait), what_is_raised(say_so_and_wait)

    with fork(twice) as child:
        assert announced.recv() == "it rang"
        until(lambda: sleeps(child))
        child.kill(signal.SIGINT)
        assert child.result() == ("Alarm", "KeyboardInterrupt")
    # The connection is still usable.
    while b.poll():
        b.recv_bytes()
    b.send("after")
    assert a.recv() == "after"


@every_wait
def test_a_wait_goes_on_after_a_signal_that_was_handled(wait: str) -> None:
    a, b = penstock.Pipe()
    handled, handling = penstock.Pipe()

    def wait_through_a_signal() -> str:
        signal.signal(signal.SIGUSR1, lambda number, frame: handling.send("handled"))
        handling.send("ready")
        b.close()
        return what_is_raised(lambda: WAITS[wait][0](a))

    with fork(wait_through_a_signal) as child:
        assert handled.recv() == "ready"
        until(lambda: sleeps(child))
        child.kill(signal.SIGUSR1)
        assert handled.recv() == "handled"
        a.close()
        assert not child.has_ended()
        b.close()
        assert child.result() == WAITS[wait][1]


# Waiting with `select` and its like.


def test_the_descriptor_is_readable_while_recv_would_not_wait() -> None:
    a, b = penstock.Pipe()

    def is_readable() -> bool:
        return bool(select.select([a], [], [], 0)[0])

    assert not is_readable()
    for _ in range(3):
        for number in range(3):
            b.send(number)
        with fork(a.recv) as child:  # its read may take bytes of several messages
            assert child.result() == 0
        assert is_readable()
        assert a.recv() == 1
        assert is_readable()
        assert a.recv() == 2
        assert not is_readable()
    b.close()
    assert is_readable()


@pytest.mark.parametrize("duplex", [True, False])
def test_the_descriptor_is_writable_while_send_would_not_wait(duplex: bool) -> None:
    a, b = penstock.Pipe(duplex)
    with select.epoll() as epoll:
        epoll.register(b, select.EPOLLOUT | select.EPOLLET)
        assert edges_of(epoll) == [select.EPOLLOUT]
        for _ in range(3):
            b.send_bytes(bytes(MIB // 2))
            assert select.select([], [b], [], 0)[1] == [b]
            b.send_bytes(bytes(MIB // 2))
            assert select.select([], [b], [], 0)[1] == []
            assert select.select([a], [], [], 0)[0] == [a]
            edges_of(epoll)
            assert len(a.recv_bytes()) == MIB // 2
            assert select.select([], [b], [], 0)[1] == [b]
            assert edges_of(epoll) == [select.EPOLLOUT]
            assert len(a.recv_bytes()) == MIB // 2
            assert select.select([a], [], [], 0)[0] == []
        # The death of the receivers makes it writable, whose send raises.
        b.send_bytes(bytes(MIB))
        a.close()
        assert select.select([], [b], [], 0)[1] == [b] or not duplex
        assert what_is_raised(lambda: b.send(1)) == "BrokenPipeError"


def test_a_program_that_polls_is_told_of_the_end() -> None:
    a, b = penstock.Pipe()
    b.send(1)
    b.close()
    polled = select.poll()
    polled.register(a, select.POLLIN)
    for expected in ("nothing", "EOFError"):
        assert polled.poll(0)[0][1] & select.POLLIN
        assert what_is_raised(a.recv) == expected


@pytest.mark.parametrize("duplex", [True, False])
@pytest.mark.parametrize("way", ["dies", "closes"])
def test_a_descriptor_given_out_before_a_fork(duplex: bool, way: str) -> None:
    """The selector is made before the worker is forked, and the parent's connection is gone then."""
    a, b = penstock.Pipe(duplex)
    told = multiprocessing.Pipe(False)

    def work(selector: Any) -> None:
        b.close()
        received: list[Any] = []
        for _ in range(3):
            assert selector.poll(20)
            received.append(a.recv())
            assert not selector.poll(0)
        told[1].send(received)
        assert selector.poll(20)
        told[1].send(what_is_raised(a.recv))

    def daemonise() -> None:
        selector = select.epoll()
        selector.register(a, select.EPOLLIN)
        worker = fork(work, selector)
        del worker
        if way == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        a.close()

    with fork(daemonise) as parent:
        parent.wait()
    a.close()
    for number in range(3):
        b.send(number)
        until(lambda: b._outgoing._statistics()["queued"] == 0)
    assert told[0].recv() == [0, 1, 2]
    b.close()
    assert told[0].recv() == "EOFError"


def test_an_event_loop() -> None:
    a, b = penstock.Pipe()

    async def receive() -> list[Any]:
        loop = asyncio.get_running_loop()
        is_over = loop.create_future()
        received: list[Any] = []

        def take() -> None:
            try:
                received.append(a.recv())
            except EOFError:
                is_over.set_result(None)

        loop.add_reader(a, take)
        try:
            await is_over
        finally:
            loop.remove_reader(a)
        return received

    def send() -> None:
        for number in range(100):
            b.send(number)

    with fork(send) as child:
        b.close()
        assert asyncio.run(receive()) == list(range(100))
        child.result()


# Failures, and the end.


@pytest.mark.slow
def test_a_pipe_that_cannot_be_made_leaves_no_descriptor() -> None:
    def fail_at_every_place() -> list[tuple[str, int]]:
        answers = []
        highest = max(map(int, os.listdir("/proc/self/fd")))
        while (lowest_free := os.dup(0)) <= highest:
            pass  # fills the gaps among the descriptors' numbers
        os.close(lowest_free)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = descriptors()
        for more in range(9):
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + more, most[1]))
            raised = what_is_raised(penstock.Pipe)
            resource.setrlimit(resource.RLIMIT_NOFILE, most)
            gc.collect()
            answers.append((raised, descriptors() - before))
        return answers

    with fork(fail_at_every_place) as child:
        answers = child.result()
    assert answers[:3] == [("OSError", 0)] * 3  # the file, and two ends
    assert answers[8] == ("nothing", 0)
    assert all(left == 0 for _, left in answers)


@pytest.mark.slow
@every_method
def test_a_program_that_closes_nothing(method: str, tmp_path: Path) -> None:
    program = """
import multiprocessing, penstock

def work(side):
    for number in iter(side.recv, None):
        side.send(number * number)

if __name__ == "__main__":
    here, there = penstock.Pipe()
    process = multiprocessing.get_context(METHOD).Process(target=work, args=(there,))
    process.start()
    for number in range(10):
        here.send(number)
    here.send(None)
    print([here.recv() for _ in range(10)])
"""
    write(tmp_path, {"program.py": program.replace("METHOD", repr(method))})
    done = run(PLAIN, ["program.py"], folder=tmp_path)
    assert (done.stdout, done.stderr) == (b"[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]\n", b"")
