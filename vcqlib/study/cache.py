"""Stages on disk: a result is computed once for each set of things it depends on.

A stage is a folder named by the hash of its inputs and of the code behind it (see `sources`). It is
written under a file lock and counts only when `done.json` is there, so a killed process leaves
nothing that is mistaken for a result, and two processes never do the same work.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from filelock import FileLock, Timeout

from ..data.vendored import cache_root
from ..files import read_record, sha256_file, write_record
from .sources import LIBRARY, digests

_wait: ContextVar[bool] = ContextVar("wait", default=True)


class Busy(Exception):
    """Another process is computing this stage."""


def root() -> Path:
    """Where stages live: $VCQ_CACHE, else build/cache of the clone, else of the user's cache."""
    if folder := os.environ.get("VCQ_CACHE"):
        return Path(folder).resolve()
    clone = LIBRARY.parent
    return clone / "build" / "cache" if (clone / "pyproject.toml").is_file() else cache_root()


def key(name: str, inputs: dict, build: Callable) -> str:
    """Name of the stage's folder: stage name and 16 hex digits."""
    text = json.dumps({"inputs": inputs, "sources": digests(build)}, sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _intact(folder: Path) -> bool:
    """True if the stage is finished; a finished stage with a changed file is an error."""
    if not (folder / "done.json").exists():
        return False
    try:
        files = read_record(folder / "done.json")["files"].items()
    except (ValueError, KeyError, AttributeError) as error:
        what = error if isinstance(error, ValueError) else f"{folder / 'done.json'} is damaged"
        raise ValueError(f"{what}: delete {folder} to compute it again") from None
    for name, digest in files:
        path = folder / name
        if not path.exists() or sha256_file(path) != digest:
            raise ValueError(f"{path} is missing or damaged: delete {folder} to compute it again")
    return True


def has(name: str, inputs: dict, build: Callable) -> bool:
    """Whether a stage is finished; `build` as in `stage`, or the function it stands in."""
    return (root() / key(name, inputs, build) / "done.json").exists()


def stage(name: str, inputs: dict, build: Callable[[Path], None]) -> Path:
    """Return the folder of a stage, calling `build(folder)` first if it is not there.

    inputs: everything the result depends on, as JSON. build: writes the stage's files into the
    folder; may find its own unfinished work there. The stage is another one once any code of the
    library that it can reach has changed. Raises Busy inside `without_waiting()` if another process
    holds it.
    """
    folder = root() / key(name, inputs, build)
    if _intact(folder):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"), timeout=-1 if _wait.get() else 0)
    try:
        with lock:
            if not _intact(folder):  # another process may have finished it meanwhile
                for leftover in folder.rglob(".*"):  # half-written by a killed process
                    leftover.unlink()
                start, busy = time.monotonic(), time.process_time()
                build(folder)
                files = sorted(p for p in folder.rglob("*") if p.is_file())
                record = {
                    "stage": name,
                    "inputs": inputs,
                    "seconds": round(time.monotonic() - start, 1),
                    "cpu_seconds": round(time.process_time() - busy, 1),  # of all threads
                    "files": {str(p.relative_to(folder)): sha256_file(p) for p in files},
                }
                write_record(folder / "done.json", record)
    except Timeout:
        raise Busy(name) from None
    return folder


@contextmanager
def without_waiting() -> Iterator[None]:
    """Inside the block, a stage that another process is computing raises Busy."""
    token = _wait.set(False)
    try:
        yield
    finally:
        _wait.reset(token)


def share(calls: list[Callable[[], object]]) -> None:
    """Make every call; those whose stage another process holds are put off, then waited for."""
    while calls:
        busy = []
        for call in calls:
            try:
                with without_waiting():
                    call()
            except Busy:
                busy.append(call)
        if len(busy) == len(calls):
            busy.pop(0)()
        calls = busy
