"""Standard output that ends no command, whatever the terminal lacks or its reader does."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from ..checks import naming
from ..files import atomic_path


def table(columns: Mapping[str, Sequence[str]], head: int, tail: int = 0) -> list[str]:
    """Lines of columns, flush right, under their names; … between the first and last rows shown."""
    rows = [*zip(*columns.values(), strict=True)]
    if len(rows) > head + tail:
        rows[head : len(rows) - tail] = [("…", *[""] * (len(columns) - 1))]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (tuple(columns), *rows)
    ]


def after(last: int, length: int) -> str:
    """The positions after `last`, as the first cell of a table's last line."""
    return f"{f'{last + 1}–{length}' if last + 1 < length else length:>8}"


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format of the suffix; ValueError names the file if there is none."""
    with naming(path), atomic_path(path) as temporary:
        figure.savefig(temporary)


@contextmanager
def forgiving_output() -> Iterator[None]:
    """Inside, letters that a terminal lacks become "?", and a closed pipe swallows what follows.

    A full disk is an OSError on standard output; on standard error nobody could be told.
    """
    before = sys.stdout, sys.stderr
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    sys.stdout = before[0] and _Forgiving(before[0], BrokenPipeError)
    sys.stderr = before[1] and _Forgiving(before[1], OSError)
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with suppress(OSError):
                stream.flush()
        sys.stdout, sys.stderr = before


class _Forgiving:
    """A stream that goes on into nothing when its reader has gone away: `vcq … | head -1`."""

    def __init__(self, stream: TextIO, forgiven: type[OSError]) -> None:
        self._stream, self._forgiven = stream, forgiven

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._going_on():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._going_on():
            self._stream.flush()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            if not isinstance(error, self._forgiven):
                raise OSError(f"standard output: {error.strerror}") from None
