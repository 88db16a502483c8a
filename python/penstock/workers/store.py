"""The store: a file in memory for what is sent to the workers once, and not with every call.

It has the `shared` objects of a pool, and functions with large pickles, such as a `partial` with a model in
it. An object's buffers lie beside its pickle. Workers map those of the shared objects: all use the same
pages, until one writes to its own copy.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import threading

__all__ = ["Store"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Pickled = tuple[bytes, list[Any]]  # the pickle, and the buffers beside it

_HEAD = struct.Struct("<QQ")  # the number of parts, and the bytes of all that belongs to the object
_ALIGNMENT = mmap.ALLOCATIONGRANULARITY


class Store:
    """The file, in the pool's process and in each worker."""

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("penstock-store", os.MFD_CLOEXEC)
        self.descriptor = descriptor
        self._lock = threading.Lock()
        self._users: dict[int, int] = {}  # the bytes of each object, by its place
        self._end = 0

    def add(self, pickled: Pickled) -> int:
        """Write an object, and return its place. Raises OSError if there is no memory."""
        parts = [memoryview(pickled[0]), *(buffer.raw() for buffer in pickled[1])]
        sizes = struct.pack(f"<{len(parts)}Q", *(part.nbytes for part in parts))
        begin = _HEAD.size + len(sizes)
        bytes_ = _round_up(begin, 64) + sum(_round_up(part.nbytes, 64) for part in parts)
        with self._lock:
            place = self._end
            offset = place + _round_up(begin, 64)
            _write(self.descriptor, memoryview(_HEAD.pack(len(parts), bytes_) + sizes), place)
            for part in parts:
                _write(self.descriptor, part, offset)
                offset += _round_up(part.nbytes, 64)
            os.truncate(self.descriptor, _round_up(place + bytes_, _ALIGNMENT))
            self._end = _round_up(place + bytes_, _ALIGNMENT)
            self._users[place] = bytes_
        return place

    def remove(self, place: int) -> None:
        """Give the object's memory back, as far as nothing lies behind it."""
        with self._lock:
            self._users.pop(place, None)
            end = max((_round_up(at + size, _ALIGNMENT) for at, size in self._users.items()), default=0)
            if end < self._end:
                self._end = end
                os.truncate(self.descriptor, end)

    def read(self, place: int, is_kept: bool) -> Any:
        """Rebuild an object.

        One that is kept until the pool ends has its buffers in the file, private to this process as far as it
        writes to them. The memory of another one may be given back or used again, so its buffers are copies.
        """
        count, bytes_ = _HEAD.unpack(os.pread(self.descriptor, _HEAD.size, place))
        if is_kept:
            whole = memoryview(mmap.mmap(self.descriptor, bytes_, access=mmap.ACCESS_COPY, offset=place))
        else:
            whole = memoryview(bytearray(os.pread(self.descriptor, bytes_, place)))
        sizes = struct.unpack_from(f"<{count}Q", whole, _HEAD.size)
        offset = _round_up(_HEAD.size + 8 * count, 64)
        parts = []
        for size in sizes:
            parts.append(whole[offset : offset + size])
            offset += _round_up(size, 64)
        return pickle.loads(parts[0], buffers=parts[1:])

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def _write(descriptor: int, part: memoryview, offset: int) -> None:
    while part.nbytes:
        written = os.pwrite(descriptor, part, offset)
        part, offset = part[written:], offset + written
