"""torch: tensors whose memory is shared through descriptors, and the workers of a DataLoader."""

from typing import Any

import torch
import torch.utils.data

import penstock
from tests.support.clients import finish, main

TENSORS = 20
SIZE = 100_000  # numbers
SAMPLES = 64


def produce(tensors: Any, received: Any) -> None:
    for number in range(TENSORS):
        tensors.put((number, torch.full((SIZE,), number, dtype=torch.int64)))
    tensors.put(torch.nn.Parameter(torch.ones(3, 4)))
    tensors.put(torch.arange(24).reshape(2, 3, 4)[:, 1])
    # A tensor's memory is asked for at the process that made it, so that has to be there until then.
    received.get()


def tensors_outlive_their_producer(context: Any) -> None:
    for make in (context.Queue, context.SimpleQueue, context.JoinableQueue):
        tensors, received = make(), context.SimpleQueue()
        producer = context.Process(target=produce, args=(tensors, received))
        producer.start()
        found = [tensors.get() for _ in range(TENSORS)]
        parameter, view = tensors.get(), tensors.get()
        received.put("all")
        finish(producer)
        for number, tensor in found:
            assert tensor.tolist() == [number] * SIZE
            tensor.add_(1)
            assert tensor.tolist() == [number + 1] * SIZE
        assert isinstance(parameter, torch.nn.Parameter)
        assert parameter.requires_grad
        assert parameter.tolist() == torch.ones(3, 4).tolist()
        assert view.tolist() == torch.arange(24).reshape(2, 3, 4)[:, 1].tolist()


class Squares(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        return torch.full((1000,), index), index * index


def data_loader(context: Any) -> None:
    for stay in (False, True):
        loader: Any = torch.utils.data.DataLoader(
            Squares(), batch_size=4, num_workers=2, multiprocessing_context=context, persistent_workers=stay
        )
        for _ in range(3):  # epochs
            batches = iter(loader)
            assert type(batches._worker_result_queue) is penstock.Queue
            samples, squares = zip(*batches, strict=True)
            assert torch.cat(samples)[:, 999].tolist() == list(range(SAMPLES))
            assert torch.cat(squares).tolist() == [number * number for number in range(SAMPLES)]
        del batches, loader


PROGRAMS = {program.__name__: program for program in (tensors_outlive_their_producer, data_loader)}

if __name__ == "__main__":
    main(PROGRAMS)
