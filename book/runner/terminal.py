"""What the runner says meanwhile: one moving line in a terminal, plain lines in a log."""

from __future__ import annotations

import shutil
import sys

from runner.execute import Running
from runner.profiles import Profile


class Status:
    """Counts finished chapters and shows the running ones."""

    def __init__(self, profile: Profile, stale: int, chapters: int) -> None:
        self.profile, self.stale, self.count = profile, stale, 0
        self.live = sys.stderr.isatty()
        print(f"{profile.name}: {stale} of {chapters} chapters to execute", flush=True)

    def show(self, running: list[Running]) -> None:
        """`[2/11] 05_tokenizer 4/17 tokenizer 340/2000 | 03_language 9/22`, redrawn in place."""
        if not self.live:
            return
        parts = []
        for task in running:
            cell, total, stage = task.progress()
            parts.append(f"{task.chapter.name} {cell}/{total} {stage}".strip())
        width = shutil.get_terminal_size().columns - 1
        line = f"[{self.count}/{self.stale}] " + " | ".join(parts) if parts else ""
        print(f"\r\x1b[K{line[:width]}", end="", file=sys.stderr, flush=True)

    def finished(self, name: str, seconds: float) -> None:
        self.count += 1
        budget = self.profile.budget(name)
        note = f" (over its budget of {budget:g} s)" if budget and seconds > budget else ""
        start = "\r\x1b[K" if self.live else ""
        print(f"{start}[{self.count}/{self.stale}] {name}: {seconds:.1f} s{note}", flush=True)
