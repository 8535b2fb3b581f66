"""The same book twice from nothing: equal metrics, notebooks and pages, byte for byte."""

from __future__ import annotations

from pathlib import Path

from torture import jobs
from torture.tally import Tally


def run(tally: Tally, count: int, seed: int, folder: Path) -> None:
    """`count` chapters (0: the whole smoke book), executed and built twice from clean caches."""
    only = ("--only", *("05", "01", "02", "07")[:count]) if count else ()
    listings = []
    for turn in ("first", "second"):
        out, cache = folder / turn, folder / f"{turn}-cache"
        build = jobs.build(out, cache, "smoke", *only)
        error = build.communicate(timeout=3600)[1]
        if build.returncode:
            tally.count("build", f"failed: {error[-300:]}")
            return
        tally.say(f"{turn} build done")
        listings.append((jobs.pages(out), jobs.finished_stages(cache)))
    for what, kind in (("executed notebooks", "notebooks/"), ("files of the pages", "html/")):
        a, b = ({k: v for k, v in pages.items() if k.startswith(kind)} for pages, _ in listings)
        _compare(tally, what, a, b)
    _compare(tally, "files of stages (weights, codes, metrics)", listings[0][1], listings[1][1])


def _compare(tally: Tally, what: str, a: dict[str, str], b: dict[str, str]) -> None:
    for name in sorted(a.keys() | b.keys()):
        tally.count(what, "" if a.get(name) == b.get(name) else f"{name} differs")
    if not a:
        tally.count(what, "there are none")
