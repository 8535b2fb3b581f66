"""The record of all runs, data/results/torture.json, and the page of the appendix made from it."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from torture.tally import Tally
from vcqlib.files import read_record, write_record

ROOT = Path(__file__).resolve().parents[1]


def append(path: Path, tally: Tally, seed: int) -> None:
    """Add one run of a part to the record."""
    runs = read_record(path)["runs"] if path.exists() else []
    run = {
        "part": tally.part,
        "tried": dict(sorted(tally.tried.items())),
        "lost": tally.lost,
        "facts": tally.facts,
        "seed": seed,
        "seconds": round(tally.seconds),
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {"Python": platform.python_version(), "torch": version("torch")},
    }
    write_record(path, {"runs": [*runs, run]})


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"
