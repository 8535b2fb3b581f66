"""A study: arms × seeds × settings from a YAML file, computed by several processes into records.

A study file holds `about`, `base` (settings by flat name), `arms` (name: settings that make it)
and `groups`, each with a name, its arms, its seeds (and `ar_seeds`, where an AR model is trained
several times on one tokenizer), further settings under `set`, and `sweeps: true` where
temperatures, guidance and probes are measured too.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from ..checks import unknown_name
from ..settings import flat
from . import cache, records
from .configuration import Configuration
from .experiment import Experiment
from .judge import check_samples
from .measures import measure


@dataclass(frozen=True)
class Run:
    """One arm at one seed and setting: one record."""

    study: str
    group: str
    arm: str
    experiment: Experiment
    sweeps: bool = False

    @property
    def name(self) -> str:
        c = self.experiment.c
        again = "" if c.ar_seed is None else f"-a{c.ar_seed}"
        return f"{self.group}-{self.arm}-s{c.seed}{again}"


@dataclass(frozen=True)
class Study:
    """A list of validated runs."""

    name: str
    about: str
    runs: tuple[Run, ...]


def load_study(path: str | Path) -> Study:
    """Read and validate a study file; every run's configuration is built, nothing is computed.

    Raises:
        ValueError: an unknown key, arm or field, a value that `Experiment` refuses, or two runs of
            one name; the message names the file and the entry.
    """
    import yaml

    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    _keys(content, {"about", "base", "arms", "groups"}, f"{path}")
    arms = content.get("arms") or {}
    _keys(arms, set(arms), f"{path}, arms")
    for arm, values in arms.items():
        if other := sorted(values.keys() - set(records.ARM) & flat(Configuration).keys()):
            raise ValueError(
                f"{path}, arm {arm!r} sets {other[0]}: arms may differ in their codebook sizes "
                "only; what a group shares stands under `set`"
            )
    runs: dict[str, Run] = {}
    for group in content.get("groups") or []:
        _keys(group, {"name", "arms", "seeds", "ar_seeds", "set", "sweeps"}, f"{path}, a group")
        if missing := {"name", "arms"} - group.keys():
            raise ValueError(f"{path}, a group has no {' and no '.join(sorted(missing))}: {group}")
        where = f"{path}, group {group['name']!r}"
        chosen = product(group.get("seeds", [0]), group.get("ar_seeds", [None]), group["arms"])
        for seed, ar_seed, arm in chosen:
            if arm not in arms:
                raise ValueError(f"{where}: {unknown_name('arm', str(arm), arms)}")
            values = (content.get("base") or {}) | group.get("set", {}) | arms[arm]
            _keys(values, flat(Configuration).keys(), f"{where}, arm {arm!r}")
            try:
                seeds = {"seed": seed, "ar_seed": ar_seed}
                e = Experiment(Configuration.of(values | seeds))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{where}, arm {arm!r}: {error}") from None
            run = Run(path.stem, group["name"], arm, e, bool(group.get("sweeps")))
            if run.name in runs:
                raise ValueError(f"{where}: two runs are called {run.name}")
            runs[run.name] = run
    if not runs:
        raise ValueError(f"{path} has no groups: nothing to run")
    return Study(path.stem, content.get("about", ""), tuple(runs.values()))


def _keys(values: object, known: Collection[str], where: str) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected a mapping, got {values!r}")
    for key in values:
        if key not in known:
            raise ValueError(f"{where}: {unknown_name('key', str(key), known)}")


def compute(runs: Iterable[Run], results: Path) -> Iterator[Run]:
    """Compute and record the runs, sharing the work with other processes; yields each when done.

    Runs of which another process holds a stage are put off to the end, then waited for. One that
    fails is named at once and does not keep the others from being computed.

    Raises:
        ValueError: after all others, with the names of the runs that failed.
    """
    waiting = list(runs)  # in order of importance, as the file lists them
    failed: list[str] = []
    for patience in (cache.without_waiting, nullcontext):
        busy = []
        for run in waiting:
            try:
                with patience():
                    _record(run, results)
            except cache.Busy:
                busy.append(run)
            except (ValueError, ArithmeticError, MemoryError, ImportError, OSError) as error:
                print(f"{run.name} failed: {error}", file=sys.stderr, flush=True)
                failed.append(run.name)
            else:
                yield run
        waiting = busy
    if failed:
        raise ValueError(f"runs that failed, for the reasons above: {', '.join(failed)}")


def _record(run: Run, results: Path) -> None:
    if not records.current(results, run):
        check_samples(run.experiment)
        records.write(results, run, measure(run.experiment, run.sweeps))


def start_workers(path: Path, results: Path, jobs: int) -> list[subprocess.Popen]:
    """Start `jobs` processes that share a study's runs, each with its part of the cores."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    command = [sys.executable, "-m", "vcqlib", "study", str(path), "--results", str(results)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    quiet = subprocess.DEVNULL  # what is done shows in the records; errors go to stderr
    return [subprocess.Popen(command, env=environment, stdout=quiet) for _ in range(jobs)]


def submit(path: Path, results: Path, runs: int, options: str = "") -> str:
    """Submit a study to Slurm as an array of one task a run; returns what sbatch answered.

    Raises:
        ValueError: sbatch is not there or refused.
    """
    task = [sys.executable, "-m", "vcqlib", "study", str(path), "--results", str(results)]
    command = shlex.join(task) + " --only $SLURM_ARRAY_TASK_ID"
    name = f"--job-name=vcq-{path.stem}"
    sbatch = ["sbatch", f"--array=0-{runs - 1}", name, *shlex.split(options), "--wrap", command]
    try:
        done = subprocess.run(sbatch, capture_output=True, text=True)
    except FileNotFoundError:
        raise ValueError("sbatch not found: --slurm needs a Slurm cluster") from None
    if done.returncode:
        raise ValueError(f"sbatch refused: {done.stderr.strip()}")
    return done.stdout.strip()
