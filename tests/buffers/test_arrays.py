"""NumPy's arrays, and objects made of them, arrive as `multiprocessing` delivers them up to Python 3.13.

From Python 3.14 on `multiprocessing` pickles by protocol 5, with which NumPy keeps read-only marks and byte
orders.
"""

import io
import mmap
import multiprocessing
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any, SupportsIndex

import numpy as np
import numpy.lib.stride_tricks
import pandas
import pyarrow as arrow
import pytest

import penstock
from penstock import _native, buffers

CLASSES = (penstock.Queue, penstock.SimpleQueue, penstock.JoinableQueue)
# Items of arrays in the pickle, beside it and copied out, and beside it and (most of them) mapped.
SIZES = [16, 2_000, 100_000]
MAPPED = 300_000  # bytes of an array that is mapped
DTYPES: list[Any] = [
    *"?bBhHiIlLqQefdgFDG",
    *(f">{code}" for code in ("i2", "u4", "i8", "f2", "f4", "f8", "c8", "c16")),
    "U2",
    ">U2",
    "S3",
    "V5",
    "M8[s]",
    "M8[25us]",
    "M8",
    ">M8[D]",
    "m8[ns]",
    "m8",
    ">m8[h]",
    [("a", "i4"), ("b", "f8")],
    [("a", ">i4"), ("b", "M8[s]"), ("c", "U3")],
    np.dtype([("a", "i1"), ("b", "f8")], align=True),
    np.dtype("f8", metadata={"unit": "m"}),
    np.dtype(">f8", metadata={"unit": "m"}),
    np.dtype("M8[s]", metadata={"unit": "m"}),
    object,
]


class Subclass(np.ndarray[Any, Any]):
    """A subclass as programs make it, with an attribute that pickling loses."""

    unit = "m"


def filled(dtype: Any, size: int) -> Any:
    """An array of that type whose items differ."""
    dtype = np.dtype(dtype)
    if dtype.hasobject:
        return np.array([[number, str(number), None][number % 3] for number in range(size)], dtype)
    if dtype.names:
        array = np.zeros(size, dtype)
        for name in dtype.names:
            array[name] = filled(dtype[name], size)
        return array
    if dtype.kind == "V":
        return np.arange(size * dtype.itemsize, dtype="u8").astype("u1").view(dtype)
    return (np.arange(size) % 100).astype(dtype)


def ways(array: Any) -> Iterator[tuple[str, Any]]:
    """The same items in arrays of every layout that programs make."""
    size = len(array)
    table = array.reshape(4, -1)
    yield "one dimension", array
    yield "two dimensions", table
    yield "by columns", np.asfortranarray(table)
    yield "transposed", table.T
    yield "axes exchanged", array.reshape(2, 4, -1).transpose(1, 0, 2)
    yield "with gaps", array[::2]
    yield "with gaps in rows", table[:, ::3]
    yield "backwards", array[::-1]
    yield "a part", array[1 : size // 2]
    yield "one item", array[:1]
    yield "no dimension", array[1].reshape(()) if isinstance(array[1], np.ndarray) else np.array(array[1])
    yield "no items", array[:0]
    yield "no items, by columns", np.asfortranarray(table[:, :0])
    yield "repeated", np.broadcast_to(array, (2, size))
    yield "windows", numpy.lib.stride_tricks.sliding_window_view(array, 3)[::2]
    read_only = array.copy()
    read_only.flags.writeable = False
    yield "read-only", read_only
    yield "read-only, by columns", np.asfortranarray(read_only.reshape(4, -1))
    yield "read-only, with gaps", read_only[::2]
    if not array.dtype.hasobject:
        unaligned = np.frombuffer(b"x" + array.tobytes(), array.dtype, offset=1)
        yield "from bytes", np.frombuffer(array.tobytes(), array.dtype)
        yield "unaligned", unaligned
        yield "unaligned, with gaps", unaligned[::2]
    yield "a subclass", array.view(Subclass)
    yield "a matrix", array.view(np.matrix)
    yield "records", array.view(np.recarray)


@dataclass
class Holder:
    """An object with an array as its attribute."""

    array: Any


WRAPS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "alone": (lambda array: array, lambda sent: sent),
    "in a list": (lambda array: [array, 1], lambda sent: sent[0]),
    "in a dict": (lambda array: {"a": ("b", array)}, lambda sent: sent["a"][1]),
    "in an instance": (Holder, lambda sent: sent.array),
}


def through_multiprocessing(value: Any) -> Any:
    """The value as `multiprocessing` delivers it up to Python 3.13, without thread and pipe."""
    stream = io.BytesIO()
    ForkingPickler(stream, 4).dump(value)
    return pickle.loads(stream.getvalue())


def look(array: Any) -> dict[str, Any]:
    """The properties of an array."""
    flags = array.flags
    return {
        "class": type(array),
        "dtype": array.dtype,
        "order of bytes": array.dtype.byteorder,
        "metadata": array.dtype.metadata,
        "shape": array.shape,
        "strides": array.strides,
        "flags": (flags.writeable, flags.c_contiguous, flags.f_contiguous, flags.aligned),
        # The padding between the fields of a structure is undefined, so it is not compared.
        "items": array.tolist() if array.dtype.hasobject or array.dtype.names else array.tobytes(),
    }


def difference(received: Any, expected: Any) -> dict[str, Any]:
    """The properties that differ, with both values."""
    ours, theirs = look(received), look(expected)
    return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}


every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=[str(number) for number in range(len(DTYPES))])


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES[:2])
@every_dtype
def test_arrays_arrive_as_multiprocessing_delivers_them(dtype: Any, size: int) -> None:
    q = penstock.Queue[Any]()
    for way, sent in ways(filled(dtype, size)):
        for name, (wrap, unwrap) in WRAPS.items():
            q.put(wrap(sent))
            received = unwrap(q.get())
            expected = unwrap(through_multiprocessing(wrap(sent)))
            assert difference(received, expected) == {}, (way, name)


@every_dtype
def test_mapped_arrays_arrive_so_too(dtype: Any) -> None:
    q = penstock.Queue[Any]()
    sent = np.tile(filled(dtype, 1_000), (-(-MAPPED // np.dtype(dtype).itemsize // 1_000), 1))
    read_only = sent.copy()
    read_only.flags.writeable = False
    for array in (sent, np.asfortranarray(sent), sent[::-1], read_only, read_only.T):
        for message in (array, [array]):
            q.put(message)
            received, expected = q.get(), through_multiprocessing(message)
            if isinstance(message, list):
                received, expected = received[0], expected[0]
            assert difference(received, expected) == {}


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="its multiprocessing pickles by protocol 5")
@pytest.mark.parametrize("make", CLASSES)
def test_beside_the_queue_of_multiprocessing(make: Callable[[], Any]) -> None:
    q, other = make(), multiprocessing.get_context("fork").SimpleQueue()
    for dtype in (">f8", ">U2", "M8[s]", "i4"):
        for _, sent in ways(filled(dtype, 600)):
            q.put(sent)
            other.put(sent)
            assert difference(q.get(), other.get()) == {}


@pytest.mark.slow
@pytest.mark.parametrize("size", [16, 100_000])
def test_frames_and_series(size: int) -> None:
    q = penstock.Queue[Any]()
    numbers = np.arange(size, dtype=">f8")
    times = pandas.date_range("2024-01-01", periods=size, freq="s", tz="Europe/Berlin")
    frame = pandas.DataFrame({"a": np.arange(size), "b": numbers.astype("f8"), "c": times, "d": ["x"] * size})
    for sent in (frame, frame["b"], frame.set_index("a"), frame.groupby("a").sum(numeric_only=True)):
        q.put(sent)
        received = q.get()
        (pandas.testing.assert_frame_equal if received.ndim == 2 else pandas.testing.assert_series_equal)(
            received, sent
        )
    q.put(frame)
    received = q.get()
    received.iloc[0, 0] = 17
    received.loc[received["a"] == 17, "b"] = 5.0
    assert received["b"].iloc[0] == 5.0
    assert frame["a"].iloc[0] == 0
    for sent in (frame.to_numpy(), frame["a"].to_numpy(), frame[["a"]].to_numpy(), frame.index.to_numpy()):
        assert difference(_there_and_back(q, sent), through_multiprocessing(sent)) == {}
    # pandas does not compute with numbers of another byte order.
    q.put(pandas.DataFrame({"a": numbers}))
    received = q.get()
    assert received["a"].dtype.isnative
    assert received.groupby("a").sum().shape == (size, 0)


def _there_and_back(q: Any, value: Any) -> Any:
    q.put(value)
    return q.get()


@pytest.mark.parametrize("size", [16, 2_000, 100_000])
def test_masked_arrays_and_mapped_files(size: int) -> None:
    q = penstock.Queue[Any]()
    for dtype in ("f8", ">f8", "M8[s]"):
        sent = np.ma.masked_array(filled(dtype, size), np.arange(size) % 2)
        received, expected = _there_and_back(q, sent), through_multiprocessing(sent)
        assert difference(received, expected) == {}
        assert difference(received.mask, expected.mask) == {}
        assert repr(received.fill_value) == repr(expected.fill_value)
    with mmap.mmap(-1, size * 8) as memory:
        mapped = np.frombuffer(memory, "f8")
        assert difference(_there_and_back(q, mapped), through_multiprocessing(mapped)) == {}
        del mapped


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["u1", "f8", ">f8", "U2", "M8[s]", [("a", "i4"), ("b", ">f4")]], ids=str)
def test_sources_stay_as_they_are(dtype: Any, size: int) -> None:
    q = penstock.Queue[Any]()
    source = filled(dtype, size).tobytes()
    sent = np.frombuffer(source, dtype)
    before = source[:]
    for message in (sent, [sent]):
        received = _there_and_back(q, message)
        received = received[0] if isinstance(received, list) else received
        received[:] = received[::-1].copy()
        received.sort() if not received.dtype.names else received.fill(0)
    assert source == before
    assert not sent.flags.writeable
    assert sent.dtype == np.dtype(dtype)


@pytest.mark.parametrize("dtype", [">f8", ">c16", ">M8[s]"])
def test_a_large_array_of_another_byte_order_is_not_kept_in_the_queue(dtype: str) -> None:
    # Swapping in place would make the kernel copy the mapped pages one by one.
    q = penstock.Queue[Any]()
    q.put(np.arange(100_000).astype(dtype))
    items = q.get()
    assert items.flags.owndata
    assert (items == np.arange(100_000).astype(items.dtype)).all()


@pytest.mark.parametrize("size", SIZES)
def test_resizing_in_place(size: int) -> None:
    q = penstock.Queue[Any]()
    received = _there_and_back(q, np.arange(size))
    with pytest.raises(ValueError, match="does not own its data"):
        received.resize(size + 1, refcheck=False)
    received = received.copy()
    received.resize(size + 1, refcheck=False)
    assert received.shape == (size + 1,)


@pytest.mark.parametrize("size", [64, 8_192, 1_000_000])
def test_other_buffers_keep_their_read_only_mark(size: int) -> None:
    q = penstock.Queue[Any]()
    data = bytes(size)
    for sent in (memoryview(data), memoryview(bytearray(data)), memoryview(np.frombuffer(data, "u1"))):
        assert memoryview(_there_and_back(q, sent)).readonly == sent.readonly
        assert memoryview(_there_and_back(q, [sent])[0]).readonly == sent.readonly
    table = arrow.table({"a": np.arange(size // 8)})
    assert not _there_and_back(q, table)["a"].chunk(0).to_numpy().flags.writeable


def test_scalars() -> None:
    q = penstock.Queue[Any]()
    scalars = [
        np.float64(1.5),
        np.float32(1.5),
        np.int8(-1),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.complex64(1j),
        np.longdouble(1) / 3,
        np.str_("text"),
        np.bytes_(b"bytes"),
        np.datetime64("2024-02-29"),
        np.datetime64("2024-02-29T12", "25us"),
        np.datetime64("NaT"),
        np.datetime64("NaT", "s"),
        np.timedelta64(5, "h"),
        np.timedelta64("NaT"),
        np.timedelta64(5),
        np.zeros(2, [("a", "i4")])[0],
        np.dtype("f8"),
        np.dtype(">f8"),
        np.dtype("M8[10s]"),
        np.dtype([("a", "i4"), ("b", ">f8", (2,))], align=True),
        np.dtype("f8", metadata={"unit": "m"}),
        np.dtype("f4").type,
        np.dtype("U7"),
    ]
    q.put(scalars)
    for received, sent, expected in zip(q.get(), scalars, through_multiprocessing(scalars), strict=True):
        assert type(received) is type(expected) is type(sent)
        assert repr(received) == repr(expected)
        dtype, wanted = (getattr(value, "dtype", value) for value in (received, expected))
        assert dtype == wanted
        for name in ("byteorder", "metadata", "isalignedstruct"):
            assert getattr(dtype, name, None) == getattr(wanted, name, None)


class Odd:
    """Has none of the attributes of NumPy's arrays."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return str, (f"its own way, by protocol {protocol}",)


class OddType(Odd):
    dtype = None
    nbytes = "many"


@pytest.mark.parametrize("make", [Odd, OddType])
def test_a_question_that_another_numpy_does_not_answer(make: Callable[[], Any]) -> None:
    for reduce in (_native._reduce_ndarray, buffers._reduce_ndarray, buffers._reduce_time):
        assert reduce(make()) == (str, ("its own way, by protocol 4",))


# The fast paths, at every size.


def get_without_pickle() -> list[bool]:
    def loads(*_: object, **__: object) -> object:
        raise AssertionError("pickle was asked")

    pickle.loads = loads
    q = penstock.Queue[Any]()
    arrives = []
    for size in (0, 1, 8, 72, 1_000, 2_040, 2_048, 4_088, 4_096, 60_000, 300_000):
        for dtype in ("u1", "f4", "U2", "S4", "M8[s]", "?"):
            sent = filled(dtype, max(size // np.dtype(dtype).itemsize, 1))[: None if size else 0]
            q.put(sent)
            arrives.append(np.array_equal(q.get(), sent))
    return arrives


@pytest.mark.slow
def test_an_array_by_itself_is_read_without_pickle() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert all(pool.apply(get_without_pickle))


def pickle_of(value: Any) -> bytes:
    """The bytes of the value's message, if no buffer travels beside it."""
    receiver, sender = penstock.Pipe(duplex=False)
    sender.send(value)
    received: bytes = receiver.recv_bytes()
    return received


@pytest.mark.parametrize("dtype", ["u1", "f8", "U2", "M8[s]"])
@pytest.mark.parametrize(
    "cut", [np.ascontiguousarray, lambda array: array[::2], np.asfortranarray], ids=["C", "gaps", "F"]
)
def test_arrays_inside_others_have_nothing_of_numpys_own_pickle(dtype: str, cut: Any) -> None:
    sent = [cut(filled(dtype, 40).reshape(4, -1)) for _ in range(200)]
    message = pickle_of(sent)
    assert b"multiarray" not in message
    assert len(message) < 200 * (sent[0].nbytes + 50)
    for received, expected in zip(pickle.loads(message), sent, strict=True):
        assert np.array_equal(received, expected)


def test_times_inside_others_have_nothing_of_numpys_own_pickle() -> None:
    sent = [np.datetime64("2024-01-01") + np.timedelta64(number, "D") for number in range(500)]
    assert len(pickle_of(sent)) < 500 * 30
    assert pickle.loads(pickle_of(sent)) == sent


def test_a_message_with_an_array_is_a_pickle() -> None:
    for size in (16, 4_000):
        for sent in (np.arange(size), filled("M8[s]", size), filled(">f8", size), filled("f8", size)[::2]):
            assert np.array_equal(pickle.loads(pickle_of(sent)), sent)


def test_reducers_of_programs_come_first() -> None:
    q = penstock.Queue[Any]()
    for value in (np.arange(3), np.arange(3_000), np.datetime64("2024-01-01"), 1j):
        for message in (value, [value]):
            ForkingPickler.register(type(value), lambda value: (str, ("the program's",)))
            try:
                assert _there_and_back(q, message) in ("the program's", ["the program's"])
            finally:
                del ForkingPickler._extra_reducers[type(value)]  # type: ignore[attr-defined]
            assert "the program's" not in str(_there_and_back(q, message))
