"""One progress bar, and one way to say a line, for terminals, logs and notebooks.

In a terminal the bar goes to stderr. Inside a notebook kernel it must not reach a cell, where it
would make the page differ from run to run: there it goes to the file named by VCQ_PROGRESS (the
book's runner reads it) or nowhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from tqdm import tqdm


class _LastLine:
    """A file that keeps only the bar's last line."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line:
            with open(self.path, "w", encoding="utf-8") as file:
                file.write(line)

    def flush(self) -> None: ...


def bar(iterable: Iterable | None = None, desc: str = "", **options: Any) -> tqdm:
    """A tqdm bar (same arguments) that never writes into a notebook cell."""
    path = os.environ.get("VCQ_PROGRESS")
    if path:
        return tqdm(iterable, desc=desc, file=_LastLine(path), mininterval=1.0, **options)
    in_kernel = "ipykernel" in sys.modules
    options.setdefault("disable", True if in_kernel else None)  # None: silent unless a terminal
    return tqdm(iterable, desc=desc, leave=False, dynamic_ncols=True, **options)


@lru_cache
def say(line: str) -> None:
    """Print a line to stderr, once in a process, above any bar; never into a notebook's cell."""
    if "ipykernel" not in sys.modules:
        tqdm.write(line, file=sys.stderr)
