"""torch: tensors by value and in memory that is shared already, and the workers of a DataLoader."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.utils.data

import penstock
from tests.support.clients import finish, main

# With any queue, a child forked after torch has used several threads would wait for them for ever.
torch.set_num_threads(1)

TENSORS = 20
SIZE = 100_000  # numbers
SAMPLES = 64


def produce(tensors: Any) -> None:
    for number in range(TENSORS):
        tensors.put((number, torch.full((SIZE,), number, dtype=torch.int64)))


def tensors_outlive_their_producer(context: Any) -> None:
    for make in (context.Queue, context.JoinableQueue):
        tensors = make()
        producer = context.Process(target=produce, args=(tensors,))
        producer.start()
        finish(producer)
        found = [tensors.get() for _ in range(TENSORS)]
        for number, tensor in found:
            assert tensor.tolist() == [number] * SIZE
            tensor.add_(1)
            assert tensor.tolist() == [number + 1] * SIZE


def all_kinds() -> list[Any]:
    numbers = torch.arange(24).reshape(2, 3, 4)
    return [
        numbers,
        numbers[:, 1],
        numbers.permute(2, 0, 1),
        torch.tensor(7),
        torch.empty(0, 3),
        torch.rand(1000, 10),
        torch.rand(3000).to(torch.bfloat16),
        torch.rand(3000).to(torch.float16),
        torch.rand(100) > 0.5,
        torch.view_as_complex(torch.rand(10, 2)),
        torch.view_as_complex(torch.rand(10, 2)).conj(),
        torch.ones(2000, requires_grad=True),
        torch.nn.Parameter(torch.ones(3, 4)),
        torch.nn.Parameter(torch.ones(2000), requires_grad=False),
        torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.rand(20, 30, 40, 5).to(torch.bfloat16).to(memory_format=torch.channels_last),
        torch.zeros(3).expand(2, 3),
        torch.from_numpy(np.arange(3)),
    ]


def is_dense(tensor: Any) -> bool:
    """Whether a tensor has no gaps, for any order of its axes."""
    axes = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return bool(tensor.permute(axes).is_contiguous())


def every_kind_of_tensor_arrives(context: Any) -> None:
    tensors = context.Queue()
    for sent in all_kinds():
        tensors.put(sent)
        received = tensors.get()
        assert type(received) is type(sent)
        assert (received.dtype, received.shape, received.layout) == (sent.dtype, sent.shape, sent.layout)
        assert (received.requires_grad, received.is_leaf) == (sent.requires_grad, True)
        assert torch.equal(received, sent)
        assert received.stride() == sent.stride() or not is_dense(sent)
        tensors.put({"a": [sent, np.arange(3)], "b": sent})
        together = tensors.get()
        assert torch.equal(together["a"][0], sent)
        assert together["b"] is together["a"][0]
    computed = torch.ones(3, requires_grad=True) * 2
    with pytest.raises(RuntimeError, match="requires_grad"):
        tensors.put(computed)
    model = torch.nn.Linear(3, 2)
    tensors.put(model)
    assert tensors.get()(torch.ones(3)).tolist() == model(torch.ones(3)).tolist()


class Tagged(torch.Tensor):
    """A subclass, as libraries make them."""


def others_go_their_own_way(context: Any) -> None:
    tensors = context.Queue()
    torch.sparse.check_sparse_tensor_invariants.enable()  # without it torch warns
    for sent in (
        torch.eye(3).to_sparse(),
        torch.ones(3, device="meta"),
        torch.ones(3).as_subclass(Tagged),
    ):
        tensors.put(sent)
        received = tensors.get()
        assert type(received) is type(sent)
        assert (received.shape, received.layout, received.device) == (sent.shape, sent.layout, sent.device)


def mapping_of(tensor: Any) -> str:
    """The line of /proc/self/maps for the memory of the tensor's numbers."""
    address = tensor.data_ptr()
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            if start <= address < end:
                return line
    raise AssertionError(f"nothing is mapped at {address:#x}")


def a_large_tensor_is_not_copied_out(context: Any) -> None:
    tensors = context.Queue()
    sent = torch.arange(125_000, dtype=torch.float64)  # 1 MB
    tensors.put(sent)
    received = tensors.get()
    assert "penstock-" in mapping_of(received)
    assert "penstock-" not in mapping_of(sent)
    assert torch.equal(received, sent)


def without_a_numpy_that_torch_can_use(context: Any) -> None:
    tensors = context.Queue()
    for dtype in (torch.float64, torch.bfloat16):
        sent = torch.arange(SIZE).to(dtype)
        with mock.patch.object(torch.Tensor, "numpy", side_effect=RuntimeError("Numpy is not available")):
            tensors.put(sent)
        assert sent.is_shared(), "it went torch's way"
        assert torch.equal(tensors.get(), sent)


def double(shared: Any, done: Any) -> None:
    shared.get().mul_(2)
    done.put("doubled")


def shared_memory_stays_shared(context: Any) -> None:
    shared, done = context.Queue(), context.Queue()
    tensor = torch.arange(1000).share_memory_()
    worker = context.Process(target=double, args=(shared, done))
    worker.start()
    shared.put(tensor)
    assert done.get() == "doubled"
    finish(worker)
    assert tensor.tolist() == list(range(0, 2000, 2))


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


PROGRAMS = {
    program.__name__: program
    for program in (
        tensors_outlive_their_producer,
        every_kind_of_tensor_arrives,
        others_go_their_own_way,
        a_large_tensor_is_not_copied_out,
        without_a_numpy_that_torch_can_use,
        shared_memory_stays_shared,
        data_loader,
    )
}

if __name__ == "__main__":
    main(PROGRAMS)
