"""loguru with `enqueue=True`: messages of all processes reach the sink's thread through a SimpleQueue."""

import tempfile
from pathlib import Path
from typing import Any

from loguru import logger

import penstock
from tests.support.clients import finish, is_the_default, main

WORKERS = 3
MESSAGES = 200


def write(given: Any, worker: int) -> None:
    # Fork does not need the argument; programs for all start methods pass it.
    for number in range(MESSAGES):
        given.bind(worker=worker).info("{} of {}", number, worker)
    try:
        raise LookupError("not there")
    except LookupError:
        given.exception("failed")
    given.complete()


def the_queue_of(sink: int) -> Any:
    return logger._core.handlers[sink]._queue  # type: ignore[attr-defined]


def write_and_read(processes: Any, path: Path, **options: Any) -> None:
    sink = logger.add(path, enqueue=True, format="{process} {message}", backtrace=False, **options)
    assert type(the_queue_of(sink)) is penstock.SimpleQueue
    workers = [processes.Process(target=write, args=(logger, worker)) for worker in range(WORKERS)]
    for worker in workers:
        worker.start()
    logger.info("from the parent")
    pids = [worker.pid for worker in workers]
    finish(*workers)
    logger.remove(sink)
    lines = path.read_text().splitlines()
    for worker, pid in enumerate(pids):
        own = [line for line in lines if line.startswith(f"{pid} ")]
        assert own == [f"{pid} {number} of {worker}" for number in range(MESSAGES)] + [f"{pid} failed"]
    assert lines.count("LookupError: not there") == WORKERS
    assert sum(line.endswith(" from the parent") for line in lines) == 1


def several_processes_write_to_a_file(context: Any) -> None:
    logger.remove()
    with tempfile.TemporaryDirectory() as folder:
        write_and_read(context, Path(folder, "with a context"), context=context)
        if is_the_default(context):
            write_and_read(context, Path(folder, "without"))


def serialized_records(context: Any) -> None:
    logger.remove()
    records: list[Any] = []
    sink = logger.add(records.append, enqueue=True, context=context, serialize=True)
    worker = context.Process(target=write, args=(logger, 0))
    worker.start()
    pid = worker.pid
    finish(worker)
    logger.complete()
    assert [record.record["process"].id for record in records] == [pid] * (MESSAGES + 1)
    assert [record.record["extra"] for record in records[:-1]] == [{"worker": 0}] * MESSAGES
    logger.remove(sink)


PROGRAMS = {program.__name__: program for program in (several_processes_write_to_a_file, serialized_records)}

if __name__ == "__main__":
    main(PROGRAMS)
