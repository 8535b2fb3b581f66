"""`vcq study`, `vcq lab` and `vcq reproduce`."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from ..checks import integer
from ..progress import bar

if TYPE_CHECKING:
    from rich.table import Table

    from ..study.plan import StudyRun


def study(
    path: Positional[Path],
    jobs: int = 1,
    only: int | None = None,
    results: Path | None = None,
    slurm: bool = False,
    slurm_options: str = "",
) -> None:
    """Compute every run of a study that has no current record; interrupt and go on at any time.

    Trained stages lie in $VCQ_CACHE (default build/cache) and are never computed twice; each
    finished run is one record, RESULTS/STUDY/RUN.json, at seed 0 with a sheet of samples, RUN.png.

    Args:
        path: the study, for instance book/studies/fashion.yaml.
        jobs: processes that share the work on this machine, and its GPUs, in turn.
        only: compute only this run, counted from 0 (what a Slurm task does).
        results: folder of the records; default data/results.
        slurm: submit the runs as an array of Slurm tasks instead of computing them here.
        slurm_options: further options for sbatch, in one string.
    """
    from ..study import records
    from ..study.origin import default_results
    from ..study.plan import compute, load_study, submit

    loaded = load_study(path)
    results = results or default_results()
    integer(jobs, "--jobs", 1)
    if only is not None:
        integer(only, "--only", 0, len(loaded.runs) - 1)
    if (jobs > 1) + slurm + (only is not None) > 1:
        raise ValueError("--jobs, --only and --slurm do not go with one another: give one")
    if slurm:
        print(submit(path, results, len(loaded.runs), slurm_options))
        return
    runs = loaded.runs if only is None else loaded.runs[only : only + 1]
    before = [run for run in runs if records.current(results, run)]
    print(f"{loaded.name}: {len(runs)} runs, {len(before)} recorded", flush=True)
    if jobs > 1 and len(before) < len(runs):
        return _watch(path, list(runs), results, jobs)
    for count, run in enumerate(compute(runs, results), start=1):
        if run not in before:
            print(f"[{count}/{len(runs)}] {_line(run, results)}", flush=True)


def _numbers(run: StudyRun, results: Path) -> dict[str, float]:
    from ..study import records

    return records.summary(records.read(results / run.study / f"{run.name}.json")["measures"])


def _line(run: StudyRun, results: Path) -> str:
    return f"{run.name}: " + ", ".join(f"{k} {v:.4g}" for k, v in _numbers(run, results).items())


def _watch(path: Path, runs: list[StudyRun], results: Path, jobs: int) -> None:
    """Let `jobs` processes work; show a table in a terminal, a line for each record elsewhere."""
    from rich.console import Console
    from rich.live import Live

    from ..study import records
    from ..study.plan import start_workers

    def stop(*_: object) -> None:
        raise SystemExit("stopped by SIGTERM; run the same command again to go on")

    workers = start_workers(path, results, jobs)
    console, seen = Console(), set[str]()
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            while True:
                running = any(worker.poll() is None for worker in workers)
                for run in runs:
                    if run.name not in seen and records.current(results, run):
                        seen.add(run.name)
                        if not console.is_terminal:
                            print(f"[{len(seen)}/{len(runs)}] {_line(run, results)}", flush=True)
                if console.is_terminal:
                    live.update(_table(runs, results), refresh=True)
                if not running:
                    break
                time.sleep(2)
    finally:
        signal.signal(signal.SIGTERM, before)
        for worker in workers:
            worker.terminate()  # SIGTERM: a training saves a checkpoint first
    failed = [worker.wait() for worker in workers]
    if any(failed) or len(seen) < len(runs):
        raise ValueError(
            f"{len(runs) - len(seen)} of {len(runs)} runs are not recorded (see above); "
            "run the same command again to go on"
        )


def _table(runs: list[StudyRun], results: Path) -> Table:
    from rich.table import Table

    from ..study import records

    table = Table("run", "trained", "rFD", "held-out bits", "gFD", title=runs[0].study)
    for run in runs:
        if records.current(results, run):
            numbers = _numbers(run, results)
            cells = [f"{numbers[k]:.3f}" for k in ("rfd", "held_out_bits", "gfd")]
            table.add_row(run.name, "recorded", *cells)
        else:
            table.add_row(run.name, ", ".join(run.experiment.finished))
    return table


def lab(path: Positional[Path], jobs: int = 1, results: Path | None = None) -> None:
    """Compute every trial of a lab file that has no current record; go on at any time.

    Points in the plane, many small models side by side. Tokenizers lie in $VCQ_CACHE (default
    build/cache); each finished trial is one record, RESULTS/NAME.json, which `vcq reproduce`
    computes anew. Afterwards the claims of the file are judged on what is recorded.

    Args:
        path: the lab file, book/studies/lab.yaml.
        jobs: processes of one thread that share the work.
        results: folder of the records; default data/results/lab.
    """
    from ..lab import judge, records
    from ..lab.plan import load_lab, runs
    from ..study.origin import default_results

    integer(jobs, "--jobs", 1)
    loaded = load_lab(path)
    results = results or default_results() / path.stem
    every = list(runs(loaded))
    left = [run for run in every if not records.current(results, run)]
    print(f"{path.stem}: {len(every)} trials, {len(every) - len(left)} recorded", flush=True)
    with bar(total=sum(run.cost for run in left), desc="model-steps", unit_scale=True) as shown:
        records.compute(loaded, results, jobs, lambda done: shown.update(sum(r.cost for r in done)))
    table = judge.verdicts(loaded, judge.frame(records.load(results)))
    print(table.to_string(index=False, float_format="{:.3g}".format))


def reproduce(path: Positional[Path]) -> None:
    """Recompute a record and compare it with what it holds, within its stated tolerance.

    The same processor and torch give the same numbers. On others, which are named, training
    amplifies the rounding: the same seed is another run there, as far off as another seed is.

    Args:
        path: a record, for instance data/results/smoke/main-uniform-s0.json, or one of the lab.
    """
    from ..files import existing_path, read_json

    if "trial" in read_json(existing_path(path)):
        from ..lab.records import reproduce
    else:
        from ..study.records import reproduce
    comparison = reproduce(path)
    print(comparison)
    if comparison.failed:
        print(f"outside the tolerance: {', '.join(comparison.failed)}", file=sys.stderr)
        if comparison.elsewhere:
            print("on another processor or torch the same seed is another run, as far off as "
                  "another seed is", file=sys.stderr)  # fmt: skip
        raise SystemExit(1)
    print(f"{path} is reproduced")
