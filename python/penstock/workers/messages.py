"""What travels between the pool and its workers: calls, and what became of them.

Messages consist of numbers, texts, bytes and buffers, so taking one out of a queue never runs code of the
program. What the program's objects need to be rebuilt is run when the call has begun, and the call's own
failure if it fails.

    call    (number, function, kind, data, retries)
    result  (number, index, kind, data)

A function is its pickle, an int (its place in the store), or None if it is in the data.
"""

from __future__ import annotations

import io
import pickle
import threading
from concurrent.futures.process import _RemoteTraceback
from multiprocessing import reduction
from traceback import format_exception
from types import BuiltinFunctionType, FunctionType, ModuleType

from .errors import RemoteError

__all__ = ["Pickler", "are_plain", "decode", "failure", "failure_of", "is_plain"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TypeAlias

    Pickled: TypeAlias = tuple[bytes, list[Any]]
    """The pickle, and the buffers beside it."""

# Kinds of calls. Of a chunk the data is a list: of arguments, or of the pickles of each item's.
ONE, ARGUMENTS, PICKLED, WHOLE, CHUNK, PICKLED_CHUNK = range(6)

# Kinds of results. VALUES are those of a part of a chunk. DROPPED: the call was cancelled, and will not run.
VALUE, PICKLED_VALUE, ERROR, REMOTE_ERROR, VALUES, DROPPED = range(6)

# Numbers of messages that are no results.
INITIALIZER_FAILED = -1

# Objects of exactly these types are rebuilt without running any code of the program.
PLAIN = frozenset((int, float, str, bytes, bool, type(None)))


def is_plain(obj: object) -> bool:
    """Whether the object travels as it is."""
    return type(obj) in PLAIN


def are_plain(objects: Iterable[object]) -> bool:
    """Whether all of them do."""
    return set(map(type, objects)) <= PLAIN


class Pickler:
    """Pickles as `multiprocessing` does, large buffers beside the pickle; cloudpickle for the rest, if asked.

    `serializer` is "pickle", or "cloudpickle" for what pickle refuses, and for functions, which it pickles by
    value if a new interpreter could not import them: those of a notebook, for example.
    """

    def __init__(self, serializer: str = "pickle") -> None:
        if serializer not in ("pickle", "cloudpickle"):
            raise ValueError(f'serializer must be "pickle" or "cloudpickle", not {serializer!r}')
        self.serializer = serializer
        if serializer == "cloudpickle":
            import cloudpickle  # type: ignore[import-untyped, import-not-found, unused-ignore]

            self._cloudpickle = cloudpickle

    def dumps(self, obj: object) -> Pickled:
        """Return the object's pickle, and its buffers."""
        buffers: list[Any] = []
        file = io.BytesIO()
        try:
            reduction.ForkingPickler(file, 5, True, buffers.append).dump(obj)
        except (pickle.PicklingError, AttributeError, TypeError):
            if self.serializer != "cloudpickle":
                raise
            return self.dumps_by_value(obj)
        return file.getvalue(), buffers

    def dumps_by_value(self, obj: object) -> Pickled:
        """Return the object's pickle by cloudpickle, and its buffers."""
        buffers: list[Any] = []
        return self._cloudpickle.dumps(obj, protocol=5, buffer_callback=buffers.append), buffers

    def dumps_function(self, function: object) -> Pickled:
        """Return the pickle of what is to be called, and its buffers."""
        if self.serializer == "cloudpickle":
            return self.dumps_by_value(function)
        return self.dumps(function)

    def __reduce__(self) -> tuple[Any, ...]:
        return Pickler, (self.serializer,)


def decode(data: Pickled) -> Any:
    """Rebuild the object. Runs what the program's objects need for that."""
    pickled, buffers = data
    return pickle.loads(pickled, buffers=buffers)


def decode_name(name: bytes) -> Any:
    """Return the function whose pickle this is."""
    return pickle.loads(name)


def is_named(function: object) -> bool:
    """Whether the object is a function that pickle writes as a name, so that its pickle never changes."""
    if isinstance(function, FunctionType):
        return True
    return isinstance(function, BuiltinFunctionType) and isinstance(
        function.__self__, (ModuleType, type(None))
    )


def failure(error: BaseException, pickler: Pickler) -> tuple[int, Any]:
    """Return the kind and the data that tell the pool of an exception."""
    text = "".join(format_exception(error))
    try:
        pickled = pickler.dumps(error)
        if type(decode(pickled)) is not type(error):
            raise TypeError("another exception was rebuilt")
    except BaseException as trouble:
        if isinstance(trouble, KeyboardInterrupt):
            raise  # Ctrl-C: it becomes the call's
        return REMOTE_ERROR, (type(error).__qualname__, _said(error), text)
    return ERROR, (pickled, text)


def _said(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def failure_of(kind: int, data: Any) -> BaseException:
    """Rebuild the exception of which a worker has told, with the worker's traceback as its cause."""
    error: BaseException
    if kind == ERROR:
        pickled, text = data
        try:
            error = decode(pickled)
            if not isinstance(error, BaseException):
                raise TypeError("no exception was rebuilt")
        except BaseException as trouble:
            if isinstance(trouble, KeyboardInterrupt) and is_main_thread():
                raise  # Ctrl-C: another thread delivers it
            error = RemoteError(type(trouble).__qualname__, f"cannot rebuild an exception: {trouble}", text)
    else:
        name, said, text = data
        error = RemoteError(name, said, text)
    cause = _RemoteTraceback(f'\n"""\n{text}"""')
    try:
        error.__cause__ = cause  # type: ignore[assignment]
        error.__traceback__ = None
    except Exception:  # its class refuses attributes
        error = RemoteError(type(error).__qualname__, _said(error), text)
        error.__cause__ = cause  # type: ignore[assignment]
    return error


def is_main_thread() -> bool:
    """Whether Ctrl-C can raise here."""
    return threading.current_thread() is threading.main_thread()
