"""A folder's files as tasks, and what workers find in them."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

# A task ends with the file that reaches one of these. It is small enough that all workers are busy to the
# end, and that a lost task costs little.
_FILES_IN_TASK = 32
_BYTES_IN_TASK = 2 << 20

_BYTES_AT_ONCE = 1 << 20
_DIGEST_BYTES = 32

_NO_FILE = "neither a file nor a folder"


class Task(NamedTuple):
    """Files to examine, named relative to `folder`. `size` is their bytes when they were listed."""

    number: int
    folder: str
    names: tuple[str, ...]
    size: int


class Unreadable(NamedTuple):
    """Something that could not be read, named relative to the folder, and the reason."""

    name: str
    reason: str


class Count(NamedTuple):
    """Totals of some files."""

    files: int
    bytes: int
    lines: int

    def plus(self, other: "Count") -> "Count":
        """Return the sum of both."""
        return Count(self.files + other.files, self.bytes + other.bytes, self.lines + other.lines)


@dataclass
class Findings:
    """What was found in files: totals by suffix, a digest that does not depend on order, unreadable files."""

    counts: dict[str, Count] = field(default_factory=dict)
    digest: int = 0
    unreadable: set[Unreadable] = field(default_factory=set)

    def add(self, other: "Findings") -> None:
        """Add the findings of other files."""
        for suffix, count in other.counts.items():
            self.counts[suffix] = self.counts.get(suffix, Count(0, 0, 0)).plus(count)
        # A sum, because in an exclusive or a file counted twice would cancel itself.
        self.digest = (self.digest + other.digest) % (1 << 8 * _DIGEST_BYTES)
        self.unreadable |= other.unreadable

    def total(self) -> Count:
        """Return the counts of all suffixes together."""
        total = Count(0, 0, 0)
        for count in self.counts.values():
            total = total.plus(count)
        return total


def survey(folder: str) -> tuple[list[Task], list[Unreadable]]:
    """Split the files under `folder` into tasks, and list what cannot be part of one.

    Links to files count as files, links to folders are not followed. Only folders are opened.
    """
    unreadable: list[Unreadable] = []
    tasks: list[Task] = []
    names: list[str] = []
    size = 0
    for name, bytes_in_file in _files(folder, unreadable):
        names.append(name)
        size += bytes_in_file
        if len(names) >= _FILES_IN_TASK or size >= _BYTES_IN_TASK:
            tasks.append(Task(len(tasks), folder, tuple(names), size))
            names, size = [], 0
    if names:
        tasks.append(Task(len(tasks), folder, tuple(names), size))
    return tasks, unreadable


def _files(folder: str, unreadable: list[Unreadable]) -> Iterator[tuple[str, int]]:
    folders = [""]
    while folders:
        inside = folders.pop()
        try:
            with os.scandir(os.path.join(folder, inside)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            unreadable.append(Unreadable(inside or ".", _reason(error)))
            continue
        for entry in entries:
            name = os.path.join(inside, entry.name)
            try:
                information = entry.stat()
            except OSError as error:
                reason = "dangling link" if entry.is_symlink() else _reason(error)
                unreadable.append(Unreadable(name, reason))
                continue
            if stat.S_ISREG(information.st_mode):
                yield name, information.st_size
            elif not stat.S_ISDIR(information.st_mode):
                unreadable.append(Unreadable(name, _NO_FILE))
            elif not entry.is_symlink():
                folders.append(name)


def examine(task: Task) -> Findings:
    """Examine the files of a task. One that cannot be read, or no longer, is in `unreadable`."""
    findings = Findings()
    for name in task.names:
        try:
            findings.add(_examine_file(task.folder, name))
        except OSError as error:
            findings.unreadable.add(Unreadable(name, _reason(error)))
    return findings


def read(task: Task) -> None:
    """Read the files of a task, so that the system has them in memory. Skip those that cannot be read."""
    for name in task.names:
        try:
            for _ in _parts(task.folder, name):
                pass
        except OSError:
            continue  # `examine` reports it


def _parts(folder: str, name: str) -> Iterator[bytes]:
    """Read a file in parts."""
    # Does not block if a named pipe has taken the file's place since the survey.
    descriptor = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(_NO_FILE)
        while part := os.read(descriptor, _BYTES_AT_ONCE):
            yield part
    finally:
        os.close(descriptor)


def _examine_file(folder: str, name: str) -> Findings:
    size = lines = 0
    last = b"\n"
    content = blake2b(digest_size=_DIGEST_BYTES)
    for part in _parts(folder, name):
        content.update(part)
        size += len(part)
        lines += part.count(b"\n")
        last = part[-1:]
    lines += last != b"\n"  # a last line without an end is a line
    named = blake2b(os.fsencode(name) + b"\0" + content.digest(), digest_size=_DIGEST_BYTES)
    suffix = os.path.splitext(name)[1].lower() or "(none)"
    return Findings({suffix: Count(1, size, lines)}, int.from_bytes(named.digest()))


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
