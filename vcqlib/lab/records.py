"""Records of the lab: one JSON file a trial, computed in any number of processes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from ..files import read_record, rounded, write_record
from ..settings import fold
from ..study.origin import Comparison, commit, default_results, elsewhere, hardware, versions
from .measure import run as measured
from .models import Shape
from .plan import Lab, LabRun, blocks, runs
from .trial import SOURCES, Trial

CPU = torch.device("cpu")
# Relative tolerances of a recomputation. On the processor and versions of the record everything is
# equal; elsewhere another rounding grows over some thousand steps, to what another seed does.
TOLERANCE = {"mse": 0.1, "train": 0.05, "test": 0.05, "to_truth": 0.5, "to_reconstructions": 0.5}


def compute(
    lab: Lab, results: Path, jobs: int = 1, done: Callable[[Sequence[LabRun]], Any] | None = None
) -> None:
    """Compute every trial that has no current record, in `jobs` processes of one thread each."""
    waiting = list(blocks(run for run in runs(lab) if not current(results, run)))
    if jobs == 1:
        for block in waiting:
            record(results, block)
            if done:
                done(block)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _worker) as pool:
        futures = {pool.submit(record, results, block): block for block in waiting}
        try:
            for future in as_completed(futures):
                future.result()
                if done:
                    done(futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _worker() -> None:
    """One thread, and no life of its own once the process that started it has ended."""
    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def record(results: Path, block: Sequence[LabRun]) -> None:
    """Compute trials side by side and write a record of each, with its share of their time."""
    origin = {"hardware": hardware(CPU), "versions": versions(), "commit": commit()}
    clocks = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}  # of all threads
    start = {name: clock() for name, clock in clocks.items()}
    found = measured([run.trial for run in block])
    origin |= {name: round((clock() - start[name]) / len(block), 2)
               for name, clock in clocks.items()}  # fmt: skip
    for run, arms in zip(block, found, strict=True):
        content = {"group": run.group, "trial": _described(run.trial), "arms": _short(arms)}
        write_record(results / f"{run.name}.json", content | origin)


def _described(trial: Trial) -> dict[str, Any]:
    arms = {name: list(sizes) for name, sizes in trial.arms.items()}
    named = {name: getattr(trial, name) for name in SOURCES}
    passes, chosen = list(trial.passes), trial.tokenizer_points
    return fold(trial) | named | {"arms": arms, "passes": passes, "tokenizer_points": chosen}


def trial_of(record: Mapping[str, Any]) -> Trial:
    """The trial that a record is of."""
    values = dict(record["trial"])
    names = fold(Shape())
    shape = Shape(**{name: values.pop(name) for name in names})
    return Trial(**values, shape=shape)


def _short(arms: dict[str, dict]) -> dict[str, dict]:
    """The bits of a position at the last point only, sums elsewhere; four digits of everything."""
    for arm in arms.values():
        for point in arm["curve"]:
            for split in ("train", "validation", "test"):
                if point is arm["curve"][-1] and split != "validation":
                    arm[f"{split}_bits"] = point[split]
                point[split] = math.fsum(point[split])
    return rounded(arms, 4)


def read(path: str | Path) -> dict:
    """Read one record; ValueError if it is none, or a byte of it changed."""
    found = read_record(path)
    if not found.keys() >= {"group", "trial", "arms", "hardware", "versions", "commit"}:
        raise ValueError(f"{path} is not a record of the lab")
    return found


def current(results: Path, run: LabRun) -> bool:
    """Whether a record of exactly this trial is there."""
    try:
        return read(results / f"{run.name}.json")["trial"] == _described(run.trial)
    except (OSError, ValueError):
        return False


def load(results: str | Path | None = None) -> list[dict]:
    """All records of a folder, default data/results/lab of the clone."""
    folder = Path(results or default_results() / "lab")
    found = [read(path) for path in sorted(folder.glob("*.json"))]
    if not found:
        raise ValueError(f"no records in {folder}; compute them: vcq lab book/studies/lab.yaml")
    return found


def reproduce(path: str | Path) -> Comparison:
    """Compute a record anew with the code as it is and compare within the stated tolerance."""
    found = read(path)
    new = _short(measured([trial_of(found)])[0])
    rows = []
    for arm, old in found["arms"].items():
        for name, tolerance in TOLERANCE.items():
            a, b = (m[name] if name == "mse" else m["curve"][-1][name] for m in (old, new[arm]))
            rows.append((f"{arm} {name}", a, b, tolerance))
    return Comparison(tuple(rows), elsewhere(found, CPU))
