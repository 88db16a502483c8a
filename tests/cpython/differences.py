"""The interpreter's own tests that cannot pass as they are, because Penstock promises something else.

Each of them is run all the same and has to fail, so that none stays here longer than needed; beside it runs
a test of what Penstock does instead. docs/differences.md tells users the same, and a test compares the two.
"""

import multiprocessing
from collections.abc import Callable
from typing import Any, NamedTuple


class Difference(NamedTuple):
    """A test of the interpreter's, why it fails, and the test that takes its place."""

    test: str
    reason: str
    instead: Callable[[Any], None]


class _Unpicklable:
    def __reduce__(self) -> str:
        raise AttributeError("cannot be pickled")


def _put_raises_what_pickling_raises(case: Any) -> None:
    queue = case.Queue()
    with case.assertRaisesRegex(AttributeError, "cannot be pickled"):
        queue.put(_Unpicklable())
    queue.put(True)
    case.assertIs(queue.get(timeout=60), True)
    queue.close()
    queue.join_thread()

    # The size of the queue is right after the error: there is room for one.
    queue = case.Queue(maxsize=1)
    with case.assertRaisesRegex(AttributeError, "cannot be pickled"):
        queue.put(_Unpicklable())
    case.assertEqual(queue.qsize(), 0)
    queue.put(True)
    case.assertEqual(queue.qsize(), 1)
    case.assertIs(queue.get(timeout=60), True)
    case.assertTrue(queue.empty())


def _closed_simple_queue_raises(case: Any) -> None:
    queue = multiprocessing.SimpleQueue()
    queue.close()
    for use in (queue.empty, queue.get, lambda: queue.put(1)):
        with case.assertRaisesRegex(OSError, "is closed"):
            use()


def _put_one(queue: Any) -> None:
    queue.put(multiprocessing.get_start_method())


def _queue_of_any_context_goes_to_any_process(case: Any) -> None:
    for queue_method in multiprocessing.get_all_start_methods():
        for process_method in multiprocessing.get_all_start_methods():
            queue = multiprocessing.get_context(queue_method).Queue()
            process = multiprocessing.get_context(process_method).Process(target=_put_one, args=(queue,))
            process.start()
            case.assertEqual(queue.get(timeout=60), process_method)
            process.join()
            case.assertEqual(process.exitcode, 0)


DIFFERENCES = [
    Difference(
        "_TestQueue.test_queue_feeder_donot_stop_onexc",
        "There is no feeder thread: put() pickles by itself and raises what pickling raises, "
        "where multiprocessing prints a traceback in the background and drops the item.",
        _put_raises_what_pickling_raises,
    ),
    Difference(
        "TestSimpleQueue.test_closed",
        "It looks at the private attributes _reader and _writer: there is no pipe.",
        _closed_simple_queue_raises,
    ),
    Difference(
        "TestStartMethod.test_mixed_startmethod",
        "It wants an error when a queue of the fork context is passed to a spawned process; "
        "a Penstock queue may be passed to any process.",
        _queue_of_any_context_goes_to_any_process,
    ),
]
