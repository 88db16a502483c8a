"""Reducers for memory that pickle cannot pickle, or copies more often than necessary.

The binding uses them after all that a program has registered, and only for protocol 5. The names of the
`_rebuild` functions are in the pickles.
"""

from __future__ import annotations

import sys
from array import array
from importlib import import_module
from pickle import PickleBuffer

from ._multiprocessing.reducers import _REGISTERED
from ._native import _reduce_ndarray as _reduce_plain_ndarray
from ._native import _unmarked

TYPE_CHECKING = False  # without `typing`, whose import takes as long as all of Penstock
if TYPE_CHECKING:
    from typing import Any, SupportsIndex, TypeAlias, cast

    _Reduced: TypeAlias = "str | tuple[Any, ...]"
else:
    _Reduced = None

    def cast(_: object, value: object) -> object:
        return value


__all__: list[str] = []

_PROTOCOL: SupportsIndex = 5
_NORMALIZING: SupportsIndex = 4  # by which NumPy writes arrays as `multiprocessing` delivers them
_OWN, _FOREIGN = "<>" if sys.byteorder == "little" else "><"
_OUT_OF_BAND = 4096  # bytes; smaller buffers are pickled inside the message


def _reduce_memoryview(view: memoryview) -> _Reduced:
    if not view.c_contiguous:
        copy = view.tobytes() if view.readonly else bytearray(view.tobytes())
        view = memoryview(copy).cast(view.format, view.shape)  # type: ignore[call-overload]
    # Raises here what the cast would raise in the receiver.
    flat = view.cast("B")
    if flat.nbytes:
        flat.cast(view.format, view.shape)  # type: ignore[call-overload]
    elif view.ndim != 1:
        raise TypeError(f"cannot pickle an empty 'memoryview' of {view.ndim} dimensions")
    return _rebuild_memoryview, (PickleBuffer(flat), view.format, view.shape)


def _rebuild_memoryview(buffer: Any, format: Any, shape: tuple[int, ...]) -> memoryview:
    flat = memoryview(buffer).cast("B")
    return flat.cast(format, shape) if flat.nbytes else flat.cast(format)


def _reduce_array(items: array[Any]) -> _Reduced:
    if len(items) * items.itemsize < _OUT_OF_BAND:
        return items.__reduce_ex__(_PROTOCOL)
    return _rebuild_array, (items.typecode, PickleBuffer(items))


def _rebuild_array(typecode: Any, buffer: Any) -> array[Any]:
    items: array[Any] = array(typecode)
    items.frombytes(buffer)
    return items


def _reduce_ndarray(items: Any) -> _Reduced:
    """For a `numpy.ndarray` whose type needs more than a short name; the binding reduces all others.

    The receiver gets what protocol 4 delivers, the default of `multiprocessing` up to Python 3.13: a writable
    array without gaps, its numbers in the machine's own byte order.
    """
    try:
        reduced = _reduce_large_ndarray(items)
    except Exception:
        reduced = None  # this NumPy lacks an attribute
    return cast(_Reduced, items.__reduce_ex__(_NORMALIZING)) if reduced is None else reduced


def _reduce_large_ndarray(items: Any) -> tuple[Any, ...] | None:
    """With its memory beside the pickle; None if that is impossible, or too small to be worth it."""
    dtype = items.dtype
    if (
        items.nbytes < _OUT_OF_BAND
        or dtype.hasobject
        or dtype.kind not in "biufcmMSUV"
        or dtype.isbuiltin == 2  # a program's own type, of which NumPy knows only the size
    ):
        return None
    if not (items.flags.c_contiguous or items.flags.f_contiguous):
        items = items.copy()
    order = "C" if items.flags.c_contiguous else "F"
    # As untyped bytes, because the buffer protocol does not have all types of NumPy.
    buffer = _unmarked(items.view(f"V{dtype.itemsize}"))
    rebuild = _rebuild_swapped if dtype.byteorder == _FOREIGN else type(items)
    return rebuild, (items.shape, dtype, buffer, 0, None, order)


def _rebuild_swapped(shape: Any, dtype: Any, buffer: Any, offset: int, strides: Any, order: str) -> Any:
    numpy: Any = import_module("numpy")
    items = numpy.ndarray(shape, dtype, buffer, offset, strides, order)
    # NumPy itself spells out the byte order of types with parameters.
    has_parameters = dtype.kind in "mMSU" or dtype.metadata is not None
    # A copy, because a swap in place would make the kernel copy the queue's pages one by one.
    return items.astype(dtype.newbyteorder(_OWN if has_parameters else "="))


def _reduce_time(time: Any) -> _Reduced:
    """For a `numpy.datetime64` or `timedelta64`, of which NumPy pickles the type anew each time."""
    try:
        name = time.dtype.str  # as in "<M8[25us]"
        if name[0] == _OWN and name[-1] == "]" and time.dtype.metadata is None:
            return type(time), (int(time.view("i8")), sys.intern(name[4:-1]))
    except Exception:
        pass  # this NumPy lacks an attribute
    return cast(_Reduced, time.__reduce_ex__(_NORMALIZING))


def _reducers_of_arrays() -> dict[type, Any]:
    """Those for the classes of a NumPy that the program has imported."""
    numpy: Any = import_module("numpy")
    reducers = {
        "ndarray": _reduce_plain_ndarray,
        "datetime64": _reduce_time,
        "timedelta64": _reduce_time,
    }
    return {getattr(numpy, name): reducer for name, reducer in reducers.items() if hasattr(numpy, name)}


def _reduce_tensor(tensor: Any) -> _Reduced:
    """For a tensor of torch: by value, as an array, unless its memory is shared already.

    The binding uses it in the place of torch's own reducer, which moves the memory to a file of the sender.
    From there the receiver has to fetch it while the sender lives.
    """
    try:
        reduced = _reduce_plain_tensor(tensor)
    except Exception:
        # This torch lacks an attribute: newer ones have no named tensors, older ones no lazy conjugates.
        reduced = None
    return cast(_Reduced, _REGISTERED[type(tensor)](tensor)) if reduced is None else reduced


def _reduce_plain_tensor(tensor: Any) -> tuple[Any, ...] | None:
    """By value. None unless the tensor is plain numbers in this process's own memory."""
    torch: Any = import_module("torch")
    if not _is_plain(tensor, torch):
        return None
    plain, dtype = tensor.detach(), None
    for resolve in ("resolve_conj", "resolve_neg"):
        plain = getattr(plain, resolve, lambda plain=plain: plain)()
    # NumPy would reorder the numbers of another layout.
    axes = None if plain.is_contiguous() else sorted(range(plain.dim()), key=plain.stride, reverse=True)
    if axes is not None:
        plain = plain.permute(axes)
    try:
        items = plain.numpy()
    except TypeError:
        # NumPy has no such numbers (bfloat16), so they travel as integers of their size.
        dtype = tensor.dtype
        items = plain.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]).numpy()
    is_parameter = type(tensor) is torch.nn.Parameter
    return _rebuild_tensor, (items, dtype, tensor.requires_grad, is_parameter, axes)


def _is_plain(tensor: Any, torch: Any) -> bool:
    if "numpy" not in sys.modules:
        from importlib.util import find_spec  # late, because hardly any process needs it

        if find_spec("numpy") is None:
            return False  # torch works without it, but shares its memory only through it
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not _attribute(tensor, "is_quantized")
        and not _attribute(tensor, "has_names")
        # Torch warns that these are not sent.
        and not _attribute(tensor, "_backward_hooks")
        # Torch raises for a tensor that was computed from others.
        and (tensor.is_leaf or not tensor.requires_grad)
        and not tensor.is_shared()
    )


def _attribute(tensor: Any, name: str) -> bool:
    """The value of an attribute or a method, or False if this torch lacks it."""
    value = getattr(tensor, name, False)
    return bool(value() if callable(value) else value)


def _rebuild_tensor(items: Any, dtype: Any, requires_grad: bool, is_parameter: bool, axes: Any) -> Any:
    torch: Any = import_module("torch")
    tensor = torch.from_numpy(items)
    if dtype is not None:
        tensor = tensor.view(dtype)
    if axes is not None:
        tensor = tensor.permute(sorted(range(len(axes)), key=axes.__getitem__))
    if is_parameter:
        return torch.nn.Parameter(tensor, requires_grad=requires_grad)
    return tensor.requires_grad_(requires_grad)


_REDUCERS: dict[type, Any] = {memoryview: _reduce_memoryview, array: _reduce_array}
