"""How memory travels that pickle cannot pickle, or would copy more often than it must.

The binding asks for these reducers after all that a program has registered, and only for protocol 5.
"""

from __future__ import annotations

import sys
from array import array
from copyreg import dispatch_table
from importlib import import_module
from pickle import PickleBuffer

from .reducers import _REGISTERED

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


def _reduce_array(items: array[Any]) -> _Reduced:
    if len(items) * items.itemsize < _OUT_OF_BAND:
        return items.__reduce_ex__(_PROTOCOL)
    return _rebuild_array, (items.typecode, PickleBuffer(items))


def _rebuild_array(typecode: Any, buffer: Any) -> array[Any]:
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


def _reduce_tensor(tensor: Any) -> _Reduced:
    """For a tensor of torch: as an array is sent, if nobody shares its memory yet.

    The binding asks for it in the place of torch's own reducer, which moves the memory to a file of the
    sender, from whom the receiver has to fetch it while that process lives.
    """
    torch: Any = import_module("torch")
    if not _is_plain(tensor, torch):
        return cast(_Reduced, torch.multiprocessing.reductions.reduce_tensor(tensor))
    plain, dtype = tensor.detach().resolve_conj().resolve_neg(), None
    try:
        items = plain.numpy()
    except TypeError:
        # NumPy has no such numbers (bfloat16), so they travel as integers of their size.
        dtype = tensor.dtype
        items = plain.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]).numpy()
    except RuntimeError:
        # This torch was built without NumPy, or for another major version of it than is installed.
        return cast(_Reduced, torch.multiprocessing.reductions.reduce_tensor(tensor))
    return _rebuild_tensor, (items, dtype, tensor.requires_grad, type(tensor) is torch.nn.Parameter)


def _is_plain(tensor: Any, torch: Any) -> bool:
    if "numpy" not in sys.modules:
        from importlib.util import find_spec  # late, because hardly any process needs it

        if find_spec("numpy") is None:
            return False  # torch does without, but lends its memory through it
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and not tensor.has_names()
        # Of one that was computed from others, torch says that it cannot be sent.
        and (tensor.is_leaf or not tensor.requires_grad)
        and not tensor.is_shared()
    )


def _rebuild_tensor(items: Any, dtype: Any, requires_grad: bool, is_parameter: bool) -> Any:
    torch: Any = import_module("torch")
    tensor = torch.from_numpy(items)
    if dtype is not None:
        tensor = tensor.view(dtype)
    if is_parameter:
        return torch.nn.Parameter(tensor, requires_grad=requires_grad)
    return tensor.requires_grad_(requires_grad)


_REDUCERS: dict[type, Any] = {memoryview: _reduce_memoryview, array: _reduce_array}
