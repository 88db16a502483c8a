"""The interpreter's own tests of `asyncio.Queue` that cannot pass, because a process queue is another thing.

Each of them still runs, and has to fail, so that an entry does not outlive its difference. Beside it runs a
test of what Penstock does instead. docs/differences.md has the same list, and a test compares the two.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple


class Difference(NamedTuple):
    """A test of the interpreter's, why it fails, and the test that takes its place."""

    test: str
    reason: str
    instead: Callable[[Any], Coroutine[Any, Any, None]]


async def _figures_tell_what_waits(case: Any) -> None:
    queue: Any = asyncio.Queue(maxsize=1)
    await queue.put(1)
    for text in (repr(queue), str(queue)):
        case.assertIn(type(queue).__qualname__, text)
        case.assertIn(hex(id(queue)), text)
    now = queue.statistics()
    case.assertEqual((queue.qsize(), now.queued, now.unfinished), (1, 1, 1))


async def _a_get_lets_the_next_put_go_on(case: Any) -> None:
    queue: Any = asyncio.Queue(1)
    await queue.put(1)
    putter = asyncio.create_task(queue.put(2))
    await asyncio.sleep(0)
    case.assertFalse(putter.done())
    case.assertEqual(await queue.get(), 1)
    await putter
    case.assertEqual(await queue.get(), 2)


async def _a_float_is_no_maxsize(case: Any) -> None:
    with case.assertRaisesRegex(TypeError, "maxsize"):
        asyncio.Queue(maxsize=1.3)  # type: ignore[arg-type]


async def _an_attribute_tells_of_the_shutdown(case: Any) -> None:
    queue: Any = asyncio.Queue()
    case.assertFalse(queue.is_shutdown)
    queue.shutdown()
    case.assertTrue(queue.is_shutdown)


_FORMAT = "It asks a private method for the text of a queue."
_REPR = (
    "It wants the items and the number of waiting tasks in the text of a queue; "
    "they are not this process's alone."
)

DIFFERENCES = [
    Difference("QueueBasicTests.test_repr", _REPR, _figures_tell_what_waits),
    Difference("QueueBasicTests.test_str", _REPR, _figures_tell_what_waits),
    Difference(
        "QueueGetTests.test_get_with_putters",
        "It puts a future of its own into a private list of waiting tasks.",
        _a_get_lets_the_next_put_go_on,
    ),
    Difference(
        "QueuePutTests.test_float_maxsize",
        "It wants a `maxsize` of 1.3 to mean 2; "
        "a process queue takes whole numbers, as that of multiprocessing does.",
        _a_float_is_no_maxsize,
    ),
    Difference(
        "QueueJoinTests.test_format",
        _FORMAT,
        _figures_tell_what_waits,
    ),
    Difference("QueueShutdownTests.test_format", _FORMAT, _an_attribute_tells_of_the_shutdown),
]
