"""`python -m torture [--only PART …] [--count N] [--seed S] [--minutes M] [--record FILE]`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / name) for name in (".", "book", "tests")]  # whose cases are fuzzed too
os.environ.setdefault("OMP_NUM_THREADS", "1")
# part -> how often, in full
PARTS = {
    "kills": 50, "disk": 1, "flips": 40, "determinism": 0, "fuzz": 300, "hostile": 1, "load": 10**8,
    "continuity": 1, "statistics": 300, "readers": 300, "walks": 300, "works": 100, "outputs": 100,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="torture", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=", ".join(PARTS))  # fmt: skip
    parser.add_argument("--count", type=int, help="how often (load: rows); default: in full")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=30, help="of the part `load`'s training")
    parser.add_argument("--record", type=Path, help="default: data/results/torture.json")
    options = parser.parse_args(argv)
    from torture.report import RECORD, append, write_page
    from torture.tally import Tally

    lost = 0
    for name in options.only:
        part, tally = importlib.import_module(f"torture.{name}"), Tally(name)
        with tempfile.TemporaryDirectory(prefix="torture-") as folder:
            count = PARTS[name] if options.count is None else options.count
            more = {"minutes": options.minutes} if name == "load" else {}
            try:
                part.run(tally, count, options.seed, Path(folder), **more)
            except KeyboardInterrupt:  # what was tried until now is recorded
                tally.facts[f"{name}: stopped after"] = f"{tally.seconds:.0f} s"
            except Exception as error:
                tally.count("the part itself", f"{type(error).__name__}: {error}")
        append(options.record or RECORD, tally, options.seed)
        tally.say(f"{sum(tally.tried.values())} attempts, {len(tally.lost)} lost")
        lost += len(tally.lost)
    if options.record is None:
        write_page()
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
