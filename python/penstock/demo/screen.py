"""What the demo shows: a progress bar and a table on a terminal, lines of plain text elsewhere."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

try:
    import rich.box
    import rich.console
    import rich.progress
    import rich.table
    import rich.text
except ImportError:
    _HAS_RICH = False
else:
    _HAS_RICH = True

# The bars of all stages begin in the same column.
_WIDEST_TITLE = len("Hashing")

# The longest and the shortest time between two lines of progress.
_MOST_SECONDS_BETWEEN_LINES = 10.0
_LEAST_SECONDS_BETWEEN_LINES = 1.0


class Progress(Protocol):
    """Work measured in bytes, while it is done."""

    def advance(self, size: int) -> None:
        """Show that `size` more bytes are done."""

    def refresh(self) -> None:
        """Show that time has passed."""

    def note(self, text: str) -> None:
        """Write a line of text."""


class Screen:
    """Standard output that is not a terminal: plain text, line by line."""

    def line(self, text: str = "") -> None:
        """Write a line of text."""
        print(_printable(text), flush=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table whose first column is text and the others numbers."""
        widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
        for cells in [head, ["-" * width for width in widths], *rows]:
            numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
            self.line("  ".join([cells[0].ljust(widths[0]), *numbers]))

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Progress]:
        """Show the progress of work of `total` bytes."""
        lines = _Lines(self, title, total)
        yield lines
        lines.end()


class _Lines:
    """Progress as lines: at a tenth if the last line is a second old, and ten seconds after the last line."""

    def __init__(self, screen: Screen, title: str, total: int) -> None:
        self._screen = screen
        self._title = title
        self._total = total
        self._done = 0
        self._begin = self._last = time.monotonic()

    def advance(self, size: int) -> None:
        tenths = self._done * 10 // max(1, self._total)
        self._done += size
        has_new_tenth = self._done * 10 // max(1, self._total) > tenths
        if has_new_tenth and self._done < self._total and self._waited() >= _LEAST_SECONDS_BETWEEN_LINES:
            self._write()

    def refresh(self) -> None:
        if self._waited() >= _MOST_SECONDS_BETWEEN_LINES:
            self._write()

    def end(self) -> None:
        """Write the last line."""
        seconds = time.monotonic() - self._begin
        rate = self._done / max(1e-6, seconds)
        self.note(f"{self._percent():3} %, {size_text(self._done)} in {seconds:.2f} s, {size_text(rate)}/s")

    def _percent(self) -> int:
        return self._done * 100 // self._total if self._total else 100

    def _waited(self) -> float:
        return time.monotonic() - self._last

    def note(self, text: str) -> None:
        self._screen.line(f"{self._title}: {text}")

    def _write(self) -> None:
        self._last = time.monotonic()
        rate = self._done / max(1e-6, self._last - self._begin)
        left = f", {(self._total - self._done) / rate:.0f} s left" if rate else ""
        self.note(
            f"{self._percent():3} %, {size_text(self._done)} of {size_text(self._total)}, "
            f"{size_text(rate)}/s{left}"
        )


class _Terminal(Screen):
    """A terminal, with the tables and bars of `rich`."""

    def __init__(self) -> None:
        self._console = rich.console.Console(highlight=False)

    def line(self, text: str = "") -> None:
        self._console.print(rich.text.Text(_printable(text)), soft_wrap=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        for column, title in enumerate(head):
            table.add_column(title, justify="right" if column else "left")
        for row in rows:
            table.add_row(*(rich.text.Text(_printable(cell)) for cell in row))
        self._console.print(table)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Progress]:
        columns = [
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TaskProgressColumn(),
            rich.progress.DownloadColumn(),
            rich.progress.TransferSpeedColumn(),
            rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
        ]
        # Without the thread that refreshes it, because this process may fork workers.
        bar = rich.progress.Progress(
            *columns, console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        with bar as progress:
            yield _Bar(self, progress, progress.add_task(f"{title:{_WIDEST_TITLE}}", total=total))
            progress.refresh()


class _Bar:
    """Progress as a bar."""

    def __init__(
        self, screen: Screen, progress: "rich.progress.Progress", task: "rich.progress.TaskID"
    ) -> None:
        self._screen = screen
        self._progress = progress
        self._task = task
        self._last = 0.0

    def advance(self, size: int) -> None:
        self._progress.advance(self._task, size)

    def refresh(self) -> None:
        now = time.monotonic()
        if now - self._last > 0.1:
            self._last = now
            self._progress.refresh()

    def note(self, text: str) -> None:
        self._screen.line(text)


def open_screen() -> Screen:
    """Return the screen that suits standard output."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return Screen()
    if not _HAS_RICH:
        screen = Screen()
        screen.line("For a progress bar install rich: pip install 'penstock[cli]'")
        return screen
    return _Terminal()


def size_text(size: float) -> str:
    """Return a number of bytes as people read it, such as '98.4 MB'."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _printable(text: str) -> str:
    """Return text in which what controls a terminal or cannot be encoded, as in file names, is escaped."""
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return shown.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding)
