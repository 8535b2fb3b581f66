"""What was tried and what was lost, and what counts as a proper refusal."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

OURS = (ValueError, TypeError, OSError, MemoryError, FloatingPointError)  # with one clear line
LONGEST = 700  # characters of a line that is still one
HANG = 60  # seconds
Check = Callable[[np.random.Generator, Path], str]


class Hang(BaseException):
    """It took too long."""


class Tally:
    """The outcome of one part."""

    def __init__(self, part: str) -> None:
        self.part, self.started = part, time.monotonic()
        self.tried: Counter[str] = Counter()
        self.lost: list[str] = []
        self.facts: dict[str, Any] = {}

    def count(self, what: str, problem: str = "") -> None:
        """One attempt at `what`; a problem is a loss."""
        self.tried[what] += 1
        if problem:
            self.lost.append(f"{what}: {problem}")
            self.say(f"LOST {what}: {problem}")

    def attempt(self, what: str, check: Callable[[], str | None]) -> None:
        """Count `check()`, which returns what is wrong, if anything; its own failure is a loss."""
        try:
            problem = check() or ""
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        self.count(what, problem)

    def kinds(
        self, kinds: Mapping[str, tuple[float, Check]], count: int, seed: int, folder: Path
    ) -> None:
        """Of each kind, `share` tenths of `count` cases: `check(rng, place)` says what is wrong.

        At least one, if the share is no less. Each case has a seed and an empty folder of its own;
        a loss says which it was.
        """
        for what, (share, check) in kinds.items():
            for case in range(max(share >= 1, int(count * share / 10))):
                rng = np.random.default_rng([seed, case, zlib.crc32(what.encode())])
                place = folder / "case"
                place.mkdir()
                try:
                    with no_hang(5 * HANG):
                        problem = check(rng, place)
                except (Exception, Hang) as error:
                    problem = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
                self.count(what, problem and f"case {case} of seed {seed}: {problem}")
                shutil.rmtree(place)
            self.say(what)

    def say(self, line: str) -> None:
        seconds = time.monotonic() - self.started
        print(f"{self.part:>12} {seconds:6.1f} s  {line}", file=sys.stderr, flush=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


@contextlib.contextmanager
def no_hang(limit: int = HANG) -> Iterator[None]:
    """Raise Hang in what takes longer than `limit` seconds."""

    def ring(*_: object) -> None:
        raise Hang(f"longer than {limit} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(limit)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refusal(call: Callable[[], Any], *names: str) -> str:
    """What is wrong with how `call` refuses: "" if by an error of ours that has all `names`."""
    try:
        call()
    except OURS as error:
        return unclear(str(error), *names)
    except Exception as error:
        return f"bare {type(error).__name__}: {str(error)[:200]}"
    return "accepted"


def unclear(message: str, *names: str) -> str:
    """Why a message is not one clear line that holds `names`; "" if it is."""
    message = message.strip()
    if not message:
        return "an empty message"
    if "\n" in message or len(message) > LONGEST:
        return f"not one line: {message[:200]!r}"
    missing = [name for name in names if name not in message]
    return f"does not name {missing[0]!r}: {message[:200]}" if missing else ""
