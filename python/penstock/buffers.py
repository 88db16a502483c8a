"""How memory travels that pickle cannot pickle, or would copy more often than it must.

The binding asks for these reducers after all that a program has registered, and only for protocol 5.
"""

from array import array
from copyreg import dispatch_table
from multiprocessing.reduction import ForkingPickler
from pickle import PickleBuffer
from typing import Any, SupportsIndex, TypeAlias, cast

__all__: list[str] = []

_Reduced: TypeAlias = "str | tuple[Any, ...]"
_PROTOCOL: SupportsIndex = 5
_REGISTERED: dict[type, Any] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
_OUT_OF_BAND = 4096  # bytes; smaller buffers are pickled inside the message


def _reduce_memoryview(view: memoryview) -> _Reduced:
    if not view.c_contiguous:
        copy = view.tobytes() if view.readonly else bytearray(view.tobytes())
        view = memoryview(copy).cast(view.format, view.shape)  # type: ignore[call-overload]
    # To cast is to find out whether the receiver can.
    flat = view.cast("B")
    if flat.nbytes:
        flat.cast(view.format, view.shape)  # type: ignore[call-overload]
    elif view.ndim != 1:
        raise TypeError(f"cannot pickle an empty 'memoryview' of {view.ndim} dimensions")
    return _rebuild_memoryview, (PickleBuffer(flat), view.format, view.shape)


def _rebuild_memoryview(buffer: Any, format: Any, shape: tuple[int, ...]) -> memoryview:
    flat = memoryview(buffer).cast("B")
    return flat.cast(format, shape) if flat.nbytes else flat.cast(format)


def _reduce_array(items: "array[Any]") -> _Reduced:
    if len(items) * items.itemsize < _OUT_OF_BAND:
        return items.__reduce_ex__(_PROTOCOL)
    return _rebuild_array, (items.typecode, PickleBuffer(items))


def _rebuild_array(typecode: Any, buffer: Any) -> "array[Any]":
    items: array[Any] = array(typecode)
    items.frombytes(buffer)
    return items


def _reduce_ndarray(items: Any) -> _Reduced:
    """For `numpy.ndarray` itself: a fifth of the time that its own way takes, whose message is another.

    The binding writes an array that is a message by itself without even this.
    """
    flags, dtype = items.flags, items.dtype
    # Large, and of plain numbers in the machine's own byte order, of which the name says all; and nobody has
    # registered another way to pickle it.
    if (
        dtype.kind in "biufc"
        and dtype.isbuiltin == 1
        and dtype.metadata is None
        and items.nbytes >= _OUT_OF_BAND
        and not any(type(dtype) in table for table in (dispatch_table, _REGISTERED))
    ):
        if flags.c_contiguous:
            return type(items), (items.shape, dtype.str, PickleBuffer(items))
        if flags.f_contiguous:
            return type(items), (items.shape, dtype.str, PickleBuffer(items), 0, None, "F")
    return cast(_Reduced, items.__reduce_ex__(_PROTOCOL))


_REDUCERS: dict[type, Any] = {memoryview: _reduce_memoryview, array: _reduce_array}
