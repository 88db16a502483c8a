"""`logging.handlers`: records of several processes reach one listener through a queue."""

import logging
import logging.config
import logging.handlers
import os
import sys
from typing import Any

from tests.support.clients import finish, main, raised_by, since

WORKERS = 3
RECORDS = 50


class Kept(logging.Handler):
    """Keeps the records that it gets."""

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def work(queue: Any, name: str) -> None:
    logger = logging.getLogger(name)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(logging.handlers.QueueHandler(queue))
    for number in range(RECORDS):
        logger.info("number %d of %s", number, {"process": os.getpid()}, extra={"number": number})
    try:
        raise LookupError("not there")
    except LookupError:
        logger.exception("failed with %r", lambda: 0)


def listen(context: Any, queue: Any) -> None:
    kept, only_errors = Kept(), Kept(logging.ERROR)
    listener = logging.handlers.QueueListener(queue, kept, only_errors, respect_handler_level=True)
    listener.start()
    names = [f"worker {number}" for number in range(WORKERS)]
    workers = [context.Process(target=work, args=(queue, name)) for name in names]
    for worker in workers:
        worker.start()
    pids = {name: worker.pid for name, worker in zip(names, workers, strict=True)}
    finish(*workers)
    listener.stop()
    for name in names:
        *records, last = [record for record in kept.records if record.name == name]
        assert [record.number for record in records] == list(range(RECORDS))  # type: ignore[attr-defined]
        assert records[-1].getMessage() == f"number {RECORDS - 1} of {{'process': {pids[name]}}}"
        assert "LookupError: not there" in last.getMessage()
        assert {record.process for record in (*records, last)} == {pids[name]}
    assert len(kept.records) == WORKERS * (RECORDS + 1)
    assert sorted(record.name for record in only_errors.records) == names
    assert queue.empty()


def through_a_queue(context: Any) -> None:
    listen(context, context.Queue())


def through_a_queue_with_little_room(context: Any) -> None:
    queue = context.Queue(1)
    handler = logging.handlers.QueueHandler(queue)
    listen_to = Kept()
    listener = logging.handlers.QueueListener(queue, listen_to)
    handler.enqueue = queue.put  # type: ignore[method-assign]  # as in programs that wait for room
    listener.start()
    for number in range(RECORDS):
        handler.handle(logging.makeLogRecord({"msg": str(number)}))
    listener.enqueue_sentinel = lambda: queue.put(None)  # type: ignore[method-assign]
    listener.stop()
    assert [record.getMessage() for record in listen_to.records] == [str(number) for number in range(RECORDS)]


def through_a_queue_that_is_joined(context: Any) -> None:
    queue = context.JoinableQueue()
    listen(context, queue)
    queue.join()
    assert queue.statistics().unfinished == 0


def simple_queues_do_not_serve(context: Any) -> None:
    """A QueueHandler calls `put_nowait` and a QueueListener `get(True)`, which no SimpleQueue has."""
    queue = context.SimpleQueue()
    record = logging.makeLogRecord({"msg": "a"})
    refused = raised_by(logging.handlers.QueueHandler(queue).enqueue, record)
    assert isinstance(refused, AttributeError)
    assert isinstance(raised_by(logging.handlers.QueueListener(queue).dequeue, True), TypeError)
    assert queue.empty()


def configure(queue: Any) -> None:
    """Configure logging by a dictionary, in the parent and in its children."""
    # Later versions also take the queue itself, and check that it is one of `multiprocessing`'s.
    takes_queues = sys.version_info >= (3, 12, 5)
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {
                "kept": {"()": Kept},
                "queue": {
                    "class": "logging.handlers.QueueHandler",
                    "queue": queue if takes_queues else {"()": lambda: queue},
                    "listener": "logging.handlers.QueueListener",
                    "handlers": ["kept"],
                },
            },
            "loggers": {"configured": {"level": "INFO", "handlers": ["queue"], "propagate": False}},
        }
    )


def log_as_configured(queue: Any, number: int) -> None:
    configure(queue)
    logging.getLogger("configured").info("from child %d", number)


def listen_as_configured(context: Any, queue: Any, results: Any) -> None:
    configure(queue)
    handler: Any = logging.getHandlerByName("queue")
    assert handler.queue is queue
    kept: Any = logging.getHandlerByName("kept")
    handler.listener.start()
    logging.getLogger("configured").info("from the parent")
    workers = [context.Process(target=log_as_configured, args=(queue, number)) for number in range(WORKERS)]
    for worker in workers:
        worker.start()
    finish(*workers)
    handler.listener.stop()
    results.put(sorted(record.getMessage() for record in kept.records))


@since((3, 12), "dictConfig has no syntax for queues yet")
def configured_by_a_dictionary(context: Any) -> None:
    for make in (context.Queue, context.JoinableQueue):
        results = context.Queue()
        # It changes all loggers of its process.
        listening = context.Process(target=listen_as_configured, args=(context, make(), results))
        listening.start()
        expected = [*(f"from child {number}" for number in range(WORKERS)), "from the parent"]
        assert results.get() == expected
        finish(listening)


def configure_the_handler(queue: Any) -> None:
    """A program that makes its listener itself."""
    # From 3.12 on `dictConfig` has its own syntax for queues. The first of these versions take no queue, and
    # need handlers.
    takes_queues = not (3, 12) <= sys.version_info < (3, 12, 5)
    how: dict[str, Any] = (
        {"queue": queue} if takes_queues else {"queue": {"()": lambda: queue}, "handlers": []}
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {
                "queue": {"class": "logging.handlers.QueueHandler", **how},
            },
            "loggers": {"configured": {"level": "INFO", "handlers": ["queue"], "propagate": False}},
        }
    )


def log_through_the_handler(queue: Any, number: int) -> None:
    configure_the_handler(queue)
    (handler,) = logging.getLogger("configured").handlers
    assert isinstance(handler, logging.handlers.QueueHandler)
    assert handler.queue is queue
    logging.getLogger("configured").info("from child %d", number)


def handler_configured_by_a_dictionary(context: Any) -> None:
    for make in (context.Queue, context.JoinableQueue):
        queue, kept = make(), Kept()
        listener = logging.handlers.QueueListener(queue, kept)
        listener.start()
        # It changes all loggers of its process.
        workers = [
            context.Process(target=log_through_the_handler, args=(queue, number)) for number in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        finish(*workers)
        listener.stop()
        expected = [f"from child {number}" for number in range(WORKERS)]
        assert sorted(record.getMessage() for record in kept.records) == expected


PROGRAMS = {
    program.__name__: program
    for program in (
        through_a_queue,
        through_a_queue_with_little_room,
        through_a_queue_that_is_joined,
        simple_queues_do_not_serve,
        configured_by_a_dictionary,
        handler_configured_by_a_dictionary,
    )
}

if __name__ == "__main__":
    main(PROGRAMS)
