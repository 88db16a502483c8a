"""Which tensors travel by value, and that torch itself passes all others.

A stand-in for torch has the attributes that Penstock reads of a tensor. Some of them can be missing, or fail.
`make test-torch` tries the real torch (test_clients.py).
"""

import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import penstock

STRIDED = object()


class Parts:
    """Attributes that every torch has had so far."""

    device = SimpleNamespace(type="cpu")
    layout = STRIDED
    requires_grad = False
    is_leaf = True
    way = "made here"

    def __init__(self, items: Any) -> None:
        self.items = items

    def is_shared(self) -> bool:
        return False

    def detach(self) -> Any:
        return self

    def is_contiguous(self) -> bool:
        return bool(self.items.flags.c_contiguous)

    def dim(self) -> int:
        return int(self.items.ndim)

    def stride(self, axis: int) -> int:
        return int(self.items.strides[axis])

    def permute(self, axes: Any) -> Any:
        return from_numpy(self.items.transpose(axes))

    def numpy(self) -> Any:
        return self.items

    def requires_grad_(self, requires_grad: bool) -> Any:
        self.requires_grad = requires_grad
        return self


# Attributes that some versions of torch do not have.
OPTIONAL: dict[str, Any] = {
    "has_names": lambda self: False,
    "is_quantized": False,
    "resolve_conj": lambda self: self,
    "resolve_neg": lambda self: self,
    "_backward_hooks": None,
}
REQUIRED = ("device", "layout", "requires_grad", "is_leaf", "is_shared", "detach", "is_contiguous", "numpy")


class Tensor(Parts):
    """The tensor of the stand-in. The tests add the optional attributes."""


class Parameter(Tensor):
    pass


def from_numpy(items: Any) -> Any:
    tensor = Tensor(items)
    tensor.way = "by value"
    return tensor


def rebuild_by_torch(numbers: list[Any]) -> Any:
    tensor = Tensor(np.array(numbers))
    tensor.way = "torch's own"
    return tensor


def reduce_tensor(tensor: Any) -> Any:
    return rebuild_by_torch, (vars(tensor)["items"].tolist(),)


reduce_tensor.__module__ = "torch.multiprocessing.reductions"


@pytest.fixture(autouse=True)
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    torch = SimpleNamespace(Tensor=Tensor, strided=STRIDED, from_numpy=from_numpy)
    torch.nn = SimpleNamespace(Parameter=Parameter)
    monkeypatch.setitem(sys.modules, "torch", torch)
    reducers = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    monkeypatch.setitem(reducers, Tensor, reduce_tensor)
    for name, part in OPTIONAL.items():
        monkeypatch.setattr(Tensor, name, part, raising=False)
    return torch


def way_of(make: Callable[[], Any] = lambda: Tensor(np.arange(6.0).reshape(2, 3))) -> str:
    """The way in which a tensor arrives."""
    q = penstock.Queue[Any]()
    for message in (make(), [make()]):
        q.put(message)
        received = q.get()
        received = received[0] if isinstance(message, list) else received
        assert received.items.tolist() == make().items.tolist()
    way: str = received.way
    return way


def test_by_value() -> None:
    assert way_of() == "by value"
    assert way_of(lambda: Tensor(np.arange(100_000))) == "by value"


def test_axes_keep_their_order() -> None:
    q = penstock.Queue[Any]()
    for size in (2, 100):
        sent = Tensor(np.arange(24 * size).reshape(2, 3, -1).transpose(2, 0, 1))
        q.put(sent)
        received = q.get()
        assert received.items.strides == sent.items.strides
        assert (received.items == sent.items).all()


@pytest.mark.parametrize("missing", [*([name] for name in OPTIONAL), list(OPTIONAL)], ids=str)
def test_without_parts_that_older_or_newer_ones_lack(
    missing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in missing:
        monkeypatch.delattr(Tensor, name)
    assert way_of() == "by value"


@pytest.mark.parametrize("missing", REQUIRED)
def test_without_a_part_that_is_needed(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Parts, missing)
    assert way_of() == "torch's own"


@pytest.mark.parametrize("missing", ["strided", "nn", "Tensor", "from_numpy"])
def test_without_a_part_of_the_module(missing: str, torch: Any) -> None:
    part = vars(torch).pop(missing)
    if missing == "from_numpy":  # the receiver needs it
        q = penstock.Queue[Any]()
        q.put(Tensor(np.arange(3)))
        torch.from_numpy = part
        assert q.get().way == "by value"
    else:
        assert way_of() == "torch's own"


@pytest.mark.parametrize(
    "error", [AttributeError, RuntimeError, NotImplementedError, ZeroDivisionError, Warning]
)
@pytest.mark.parametrize("name", [*OPTIONAL, *REQUIRED])
def test_a_question_that_fails(name: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> Any:
        raise error("not in this version")

    is_method = callable(vars(Parts).get(name, OPTIONAL.get(name)))
    monkeypatch.setattr(Tensor, name, fail if is_method else property(fail), raising=False)
    is_missing = error is AttributeError and name in OPTIONAL and not is_method
    assert way_of() == ("by value" if is_missing else "torch's own")


ANSWERS: dict[str, Any] = {
    "device": SimpleNamespace(type="cuda"),
    "layout": object(),
    "is_shared": lambda self: True,
    "has_names": lambda self: True,
    "is_quantized": True,
    "_backward_hooks": {1: print},
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_more_than_numbers_goes_torchs_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, name, ANSWERS[name])
    assert way_of() == "torch's own"


def test_one_that_was_computed_goes_torchs_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "is_leaf", False)
    assert way_of() == "by value"
    monkeypatch.setattr(Tensor, "requires_grad", True)
    assert way_of() == "torch's own"


def test_a_program_that_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Tensor, "is_shared", interrupt)
    q = penstock.Queue[Any]()
    with pytest.raises(KeyboardInterrupt):
        q.put(Tensor(np.arange(3)))
    assert q.empty()


def test_a_reducer_of_the_program_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    reducers = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
    monkeypatch.setitem(reducers, Tensor, lambda tensor: (str, ("the program's",)))
    q = penstock.Queue[Any]()
    q.put(Tensor(np.arange(3)))
    assert q.get() == "the program's"
