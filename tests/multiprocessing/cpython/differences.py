"""The interpreter's own tests that cannot pass unchanged, because Penstock promises something else.

Each of them still runs, and has to fail, so that an entry does not outlive its difference. Beside it runs a
test of what Penstock does instead. docs/differences.md has the same list, and a test compares the two.
"""

import multiprocessing
import multiprocessing.reduction
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from tests.support.waiting import until

import penstock

AS_DOCUMENTED = "it differs as documented, this time"


class Difference(NamedTuple):
    """A test of the interpreter's, why it fails, and the test that takes its place.

    If it `waits` for ever, an alarm ends it, and it has failed. If it fails only when one process is faster
    than another, it `may_raise` that exception, or pass. Some fail only under certain start methods.
    """

    test: str
    reason: str
    instead: Callable[[Any], None]
    waits: bool = False
    may_raise: type[Exception] | None = None
    passes_under: tuple[str, ...] = ()  # start methods


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

    # The error leaves the queue empty: there is room for one item.
    queue = case.Queue(maxsize=1)
    with case.assertRaisesRegex(AttributeError, "cannot be pickled"):
        queue.put(_Unpicklable())
    case.assertEqual(queue.qsize(), 0)
    queue.put(True)
    case.assertEqual(queue.qsize(), 1)
    case.assertIs(queue.get(timeout=60), True)
    case.assertTrue(queue.empty())


def _send_bytes(connection: Any) -> None:
    connection.send(b"\0")


def _recv_handle_refuses_what_is_no_descriptor(case: Any) -> None:
    connection, of_child = case.Pipe(duplex=True)
    process = case.Process(target=_send_bytes, args=(of_child,))
    process.start()
    with case.assertRaises(RuntimeError):
        multiprocessing.reduction.recv_handle(connection)
    process.join()
    case.assertEqual(process.exitcode, 0)


def _send_more_than_fits(connection: Any) -> None:
    signals: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: signals.append(number))
    for _ in range(4):
        connection.send_bytes(bytes(1 << 20))
    connection.send(signals)


def _send_goes_on_after_a_signal(case: Any) -> None:
    connection: Any
    connection, of_child = multiprocessing.Pipe()
    process: Any = multiprocessing.Process(target=_send_more_than_fits, args=(of_child,))
    process.start()
    of_child.close()
    until(lambda: connection._incoming._statistics()["waiting_putters"])
    os.kill(process.pid, signal.SIGUSR1)
    for _ in range(4):
        case.assertEqual(connection.recv_bytes(), bytes(1 << 20))
    case.assertEqual(connection.recv(), [signal.SIGUSR1])
    process.join()
    case.assertEqual(process.exitcode, 0)


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


def _a_negative_timeout_is_none(case: Any) -> None:
    q = case.type2test(1)
    with case.assertRaises(queue.Empty):
        q.get(timeout=-1)
    q.put(1)
    with case.assertRaises(queue.Full):
        q.put(2, timeout=-1)


def _get_waits_for_items_in_hand(case: Any) -> None:
    q = case.type2test(2)
    got: list[str] = []

    def work() -> None:
        try:
            while True:
                got.append(q.get())
                q.task_done()
        except case.queue.ShutDown:
            got.append("")

    q.put("Y")
    q.put("D")
    q.shutdown()
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    case.assertEqual(sorted(got), ["", "", "", "D", "Y"])


def _tell_and_wait(pids: Any) -> None:
    pids.put(os.getpid())
    time.sleep(60)


def _a_killed_worker_takes_its_own_call_only(case: Any) -> None:
    pids: Any = penstock.SimpleQueue()
    lost = case.executor.submit(_tell_and_wait, pids)
    others = [case.executor.submit(pow, 2, number) for number in range(20)]
    os.kill(pids.get(), signal.SIGKILL)
    case.assertRaises(BrokenProcessPool, lost.result)
    case.assertEqual([other.result() for other in others], [2**number for number in range(20)])
    case.assertEqual(case.executor.submit(pow, 2, 8).result(), 256)


def _all_workers_start_with_the_first_call(case: Any) -> None:
    case.assertEqual(len(case.executor._processes), 0)
    case.assertEqual(case.executor.submit(pow, 2, 8).result(), 256)
    processes = case.executor._processes
    case.assertEqual(len(processes), case.executor._max_workers)
    case.executor.shutdown()
    for process in processes.values():
        process.join()


class _CannotBeRebuilt:
    def __init__(self, error: type[BaseException]) -> None:
        self._error = error

    def __reduce__(self) -> Any:
        return _raise, (self._error,)


def _raise(error: type[BaseException]) -> None:
    raise error("cannot be rebuilt")


def _what_cannot_be_rebuilt_fails_alone(case: Any) -> None:
    for error in (ValueError, SystemExit):
        for future in (
            case.executor.submit(id, _CannotBeRebuilt(error)),
            case.executor.submit(_CannotBeRebuilt, error),
        ):
            with case.assertRaisesRegex(error, "cannot be rebuilt"):
                future.result()
    case.assertEqual(case.executor.submit(pow, 2, 8).result(), 256)


_EARLY = (
    "It counts the workers that a call has started, by the private `_processes`; "
    "a pool starts all its workers with the first call, under every start method."
)
_ALONE = (
    "It wants the executor broken by an object that cannot be rebuilt; "
    "the exception is that call's own, and the others go on."
)

DIFFERENCES = [
    Difference(
        "_TestQueue.test_queue_feeder_donot_stop_onexc",
        "There is no feeder thread: put() pickles by itself and raises what pickling raises, "
        "where multiprocessing prints a traceback in the background and drops the item.",
        _put_raises_what_pickling_raises,
    ),
    Difference(
        "_TestConnection.test_missing_fd_transfer",
        "It writes to the descriptor of a connection, which is there to wait with and nothing else; "
        "what is sent and is no descriptor makes recv_handle() raise, as it wants.",
        _recv_handle_refuses_what_is_no_descriptor,
        waits=True,
    ),
    Difference(
        "TestIgnoreEINTR.test_ignore",
        "It wants one message of 16 MiB to keep its sender waiting; a connection takes it at once, "
        "so the child may have ended before it is signalled.",
        _send_goes_on_after_a_signal,
        may_raise=ProcessLookupError,
    ),
    Difference(
        "TestStartMethod.test_mixed_startmethod",
        "It wants an error when a queue of the fork context is passed to a spawned process; "
        "a Penstock queue may be passed to any process.",
        _queue_of_any_context_goes_to_any_process,
    ),
    Difference(
        "QueueTest.test_negative_timeout_raises_exception",
        "It is of `queue.Queue`, which wants a timeout of 0 or more; "
        "the queues of multiprocessing take a negative one for 0.",
        _a_negative_timeout_is_none,
    ),
    Difference(
        "QueueTestOverProcesses.test_shutdown_get",
        "Its workers never call `task_done()`, and go on living; "
        "get() waits while another process has an item in hand, which may come back.",
        _get_waits_for_items_in_hand,
        waits=True,
    ),
    Difference(
        "ProcessPoolExecutorTest.test_killed_child",
        "It wants the executor broken when a worker is killed, whichever one; "
        "only the call that it was in fails, and others are started in its place.",
        _a_killed_worker_takes_its_own_call_only,
    ),
    *(
        Difference(test, _EARLY, _all_workers_start_with_the_first_call, passes_under=("fork",))
        for test in (
            "ProcessPoolExecutorTest.test_idle_process_reuse_one",
            "ProcessPoolExecutorTest.test_idle_process_reuse_multiple",
            "ProcessPoolShutdownTest.test_processes_terminate",
        )
    ),
    *(
        Difference(f"ExecutorDeadlockTest.{test}", _ALONE, _what_cannot_be_rebuilt_fails_alone)
        for test in (
            "test_error_at_task_unpickle",
            "test_exit_at_task_unpickle",
            "test_error_during_result_unpickle_in_result_handler",
            "test_exit_during_result_unpickle_in_result_handler",
        )
    ),
]
