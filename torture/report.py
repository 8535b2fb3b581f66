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
    """The page of the appendix: the latest attempts of each kind, whatever came before."""
    content = read_record(record)
    latest = {(run["part"], what): run for run in content["runs"] for what in run["tried"]}
    tried = sum(run["tried"][what] for (_, what), run in latest.items())
    lost = {
        key: [line for line in run["lost"] if line.startswith(f"{key[1]}: ")]
        for key, run in latest.items()
    }
    losses = sum(map(len, lost.values()))
    lines = [f"In the latest run of each kind, {tried:,} attempts. Lost: "
             f"**{losses or 'nothing'}**.", "",
             "| part | what was tried | times | lost |", "|---|---|--:|--:|"]  # fmt: skip
    for (part, what), run in sorted(latest.items()):
        shown = len(lost[part, what]) or "nothing"
        lines.append(f"| {part} | {what} | {run['tried'][what]:,} | {shown} |")
    runs = [run for run in content["runs"] if any(run is last for last in latest.values())]
    lines += ["", "| run | took | seed | at commit | on |", "|---|--:|--:|---|---|"]
    for run in runs:
        where = f"{run['date']}, {run['machine']}, torch {run['versions']['torch']}"
        took = f"{run['seconds']} s | {run['seed']} | `{run['commit']}`"
        lines.append(f"| {run['part']} | {took} | {where} |")
    facts = {what: value for run in runs for what, value in run["facts"].items()}
    if facts:
        lines += ["", "Noted on the way:", ""]
        lines += [f"- {what}: {value}" for what, value in facts.items()]
    lines += [f"- **lost**: {line}" for found in lost.values() for line in found]
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
