"""The record of all runs, data/results/torture.json, and the page of the appendix made from it.

`python -m torture.report` writes the page anew.
"""

from __future__ import annotations

import os
import platform
import re
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
    """The page of the appendix, with the latest numbers of each kind, whatever came before.

    In its text `{part}` and `{part: kind}` stand for how often that was tried; kinds that it does
    not name are listed by part where `<!-- rest -->` stands.

    Raises:
        KeyError: the text names a kind that the record does not have.
    """
    content = read_record(record)
    latest = {(run["part"], what): run for run in content["runs"] for what in run["tried"]}
    tried = {(part, what): run["tried"][what] for (part, what), run in latest.items()}
    lost = [line for (_, what), run in latest.items() for line in run["lost"]
            if line.startswith(f"{what}: ")]  # fmt: skip
    text, named = PAGE.read_text(encoding="utf-8"), set[tuple[str, str]]()

    def number(found: re.Match) -> str:
        part, _, what = found[1].partition(": ")
        kinds = [key for key in tried if key == (part, what)] if what else [
            key for key in tried if key[0] == part]  # fmt: skip
        if not kinds:
            return "not yet"  # a kind that the recorded run left out
        named.update(kinds if what else ())
        return f"{sum(tried[key] for key in kinds):,}"

    text = re.sub(r"\{([a-z]+(?:: [^{}\n]+)?)\}", number, text)
    rest: dict[str, list[str]] = {}
    for (part, what), times in sorted(tried.items()):
        if (part, what) not in named:
            rest.setdefault(part, []).append(f"{what} ({times:,})")
    lines = [
        f"In the latest run of each kind, {sum(tried.values()):,} inputs, kills and flips. "
        f"Lost: **{len(lost) or 'nothing'}**.",
        *(f"- **lost**: {line}" for line in lost),
    ]
    runs = [run for run in content["runs"] if any(run is last for last in latest.values())]
    table = ["| run | took | seed | at commit | on |", "|---|--:|--:|---|---|"]
    for run in runs:
        where = f"{run['date']}, {run['machine']}, torch {run['versions']['torch']}"
        took = f"{run['seconds']} s | {run['seed']} | `{run['commit']}`"
        table.append(f"| {run['part']} | {took} | {where} |")
    facts = {what: value for run in runs for what, value in run["facts"].items()}
    if facts:
        table += ["", "Noted on the way:", "", *(f"- {what}: {v}" for what, v in facts.items())]
    also = [f"- {part}: {', '.join(kinds)}" for part, kinds in rest.items()]
    for mark, shown in (("result", lines), ("rest", also), ("runs", table)):
        text = text.replace(f"<!-- {mark} -->", "\n".join(shown))
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
