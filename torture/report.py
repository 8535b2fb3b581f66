"""The record of all runs, data/results/torture.json, and the page of the appendix made from it.

`python -m torture.report` writes the page anew.
"""

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
RECORD = ROOT / "data" / "results" / "torture.json"
PAGE = Path(__file__).with_name("page.md")


def append(path: Path, tally: Tally, seed: int) -> None:
    """Add one run of a part to the record."""
    content = read_record(path) if path.exists() else {"runs": []}
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
    write_record(path, content | {"runs": [*content["runs"], run]})


def page(record: Path = RECORD) -> str:
    """The page of the appendix: the latest run of each part."""
    content = read_record(record)
    latest = {run["part"]: run for run in content["runs"]}
    tried = sum(sum(run["tried"].values()) for run in latest.values())
    lost = [line for run in latest.values() for line in run["lost"]]
    lines = [f"In the latest run of each part, {tried:,} attempts. Lost: "
             f"**{len(lost) or 'nothing'}**.", "",
             "| part | what was tried | times | lost |", "|---|---|--:|--:|"]  # fmt: skip
    for part, run in latest.items():
        for what, times in run["tried"].items():
            losses = sum(line.startswith(f"{what}: ") for line in run["lost"])
            lines.append(f"| {part} | {what} | {times:,} | {losses or 'nothing'} |")
    lines += ["", "| part | took | seed | at commit | on |", "|---|--:|--:|---|---|"]
    for part, run in latest.items():
        where = f"{run['date']}, {run['machine']}, torch {run['versions']['torch']}"
        lines.append(
            f"| {part} | {run['seconds']} s | {run['seed']} | `{run['commit']}` | {where} |"
        )
    facts = [
        f"- {what}: {value}" for run in latest.values() for what, value in run["facts"].items()
    ]
    lines += ["", "Noted on the way:", "", *facts]
    lines += [f"- **lost** {line}" for line in lost]
    text = PAGE.read_text(encoding="utf-8").replace("<!-- result -->", "\n".join(lines))
    return text.replace("<!-- audit -->", content.get("audit", "Not checked."))


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def write_page() -> None:
    """Write the page into the book, from the record."""
    (ROOT / "book" / "appendix_trust.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write_page()
