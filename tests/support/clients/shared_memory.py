"""Objects whose memory is shared through descriptors, as torch's tensors are, and a DataLoader for them.

torch itself is too large to install for every run; see `torch_tensors.py`.
"""

import mmap
import os
from multiprocessing import reduction
from queue import Empty
from typing import Any

import penstock
from tests.support.clients import finish, main

TENSORS = 20
SIZE = 1 << 16  # bytes
WORKERS = 2
SAMPLES = 32


class Tensor:
    """Bytes that lie in a file without a name."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.memory = mmap.mmap(descriptor, SIZE)

    def __del__(self) -> None:
        os.close(self.descriptor)

    def __reduce__(self) -> Any:
        raise TypeError("only by what was registered")


def full(byte: int) -> Tensor:
    descriptor = os.memfd_create("tensor")
    os.ftruncate(descriptor, SIZE)
    tensor = Tensor(descriptor)
    tensor.memory[:] = bytes([byte]) * SIZE
    return tensor


def reduce_tensor(tensor: Tensor) -> Any:
    return rebuild_tensor, (reduction.DupFd(tensor.descriptor),)


def rebuild_tensor(duplicate: Any) -> Tensor:
    return Tensor(duplicate.detach())


reduction.ForkingPickler.register(Tensor, reduce_tensor)


def double(tensor: Tensor) -> None:
    """Double the tensor's numbers in place, in the memory that all processes share."""
    tensor.memory[:] = bytes([2 * tensor.memory[0]]) * SIZE


def produce(given: Tensor, tensors: Any, received: Any) -> None:
    double(given)
    for number in range(TENSORS):
        tensors.put((number, full(number)))
    # This process hands out the descriptors, so it has to live until all are received.
    received.get()


def tensors_outlive_their_producer(context: Any) -> None:
    for make in (context.Queue, context.SimpleQueue, context.JoinableQueue):
        given, tensors, received = full(21), make(), context.SimpleQueue()
        producer = context.Process(target=produce, args=(given, tensors, received))
        producer.start()
        found = [tensors.get() for _ in range(TENSORS)]
        received.put("all")
        finish(producer)
        assert given.memory[:] == bytes([42]) * SIZE
        for number, tensor in found:
            double(tensor)
            assert tensor.memory[:] == bytes([2 * number]) * SIZE


def load(indices: Any, samples: Any, done: Any) -> None:
    """Load samples as a worker of a DataLoader does."""
    while not done.is_set():
        try:
            index = indices.get(timeout=5)
        except Empty:
            continue
        if index is None:
            break
        samples.put((index, full(index)))
    samples.cancel_join_thread()
    samples.close()


def data_loader(context: Any) -> None:
    for _ in range(2):  # epochs
        samples, done = context.Queue(), context.Event()
        assert type(samples) is penstock.Queue
        all_indices = [context.Queue() for _ in range(WORKERS)]
        workers = []
        for indices in all_indices:
            indices.cancel_join_thread()
            workers.append(context.Process(target=load, args=(indices, samples, done), daemon=True))
            workers[-1].start()
        for index in range(SAMPLES):
            all_indices[index % WORKERS].put(index)
        found = dict(samples.get(timeout=60) for _ in range(SAMPLES))
        assert [found[index].memory[:] for index in range(SAMPLES)] == [
            bytes([index]) * SIZE for index in range(SAMPLES)
        ]
        done.set()
        for indices in all_indices:
            indices.put(None)
        finish(*workers)
        for queue in (samples, *all_indices):
            queue.cancel_join_thread()
            queue.close()


PROGRAMS = {program.__name__: program for program in (tensors_outlive_their_producer, data_loader)}

if __name__ == "__main__":
    main(PROGRAMS)
