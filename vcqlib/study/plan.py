"""A study: arms × seeds × settings from a YAML file, computed by several processes into records.

A study file holds `about`, `base` (settings by flat name), `arms` (name: settings that make it)
and `groups`, each with a name, its arms, its seeds (and `ar_seeds`, where an AR model is trained
several times on one tokenizer), further settings under `set`, and `sweeps: true` where
temperatures, guidance and probes are measured too. With `stages: tokenizer` a group trains no AR
model; it measures reconstructions, codes and probes. Several entries may share a name: their arms
are one group, and are compared.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from ..checks import naming, one_of, shown
from ..files import read_yaml
from ..settings import Flag, Whole, flat, settings
from . import cache, records
from .configuration import Configuration
from .experiment import Experiment
from .measures import Stages, measure
from .records import StudyRun

ALIKE = ("set", "sweeps", "stages", "ar_seeds")  # in all entries of one group
# what ends a run, and not its study; that memory lacks, torch says by a RuntimeError
WRONG = (ValueError, TypeError, ArithmeticError, MemoryError, ImportError, OSError, RuntimeError)


@settings
class Group:
    """One entry of `groups`."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    arms: Annotated[list[str], Field(min_length=1)]
    seeds: list[Whole] = dataclass_field(default_factory=lambda: [0])
    ar_seeds: list[Whole | None] = dataclass_field(default_factory=lambda: [None])
    set: dict[str, Any] = dataclass_field(default_factory=dict)
    sweeps: Flag = False
    stages: Stages = "all"

    def __post_init__(self) -> None:
        if self.stages == "tokenizer" and (self.sweeps or self.ar_seeds != [None]):
            which = "sweeps" if self.sweeps else "ar_seeds"
            raise ValueError(f"group {self.name!r} has {which}, which need an AR model: leave them "
                             "out, or stages: tokenizer")  # fmt: skip


@settings
class StudyFile:
    """What a study file holds."""

    arms: dict[str, dict[str, Any]]
    groups: Annotated[list[Group], Field(min_length=1)]
    base: dict[str, Any] = dataclass_field(default_factory=dict)
    about: str = ""


@dataclass(frozen=True)
class Study:
    """A list of validated runs."""

    name: str
    about: str
    runs: tuple[StudyRun, ...]


def load_study(path: str | Path) -> Study:
    """Read and validate a study file; every run's configuration is built, nothing is computed.

    Raises:
        ValueError: no such mapping, an unknown arm or setting, a value that is refused, two runs
            of one name, or a group whose arms could not be compared; the message names the file
            and the entry.
    """
    path, content = Path(path), read_yaml(path)
    with naming(path):
        file = StudyFile(**content)
    for arm, values in file.arms.items():
        if other := sorted(values.keys() & flat(Configuration).keys() - set(records.ARM)):
            raise ValueError(f"{path}, arm {arm!r} sets {other[0]}: arms may differ in their "
                             "codebook sizes only; the rest stands under `set`")  # fmt: skip
    runs: dict[str, StudyRun] = {}
    for group in file.groups:
        for seed, ar_seed, arm in product(group.seeds, group.ar_seeds, group.arms):
            where = f"{path}, group {group.name!r}, arm {arm!r}"
            with naming(where):
                one_of(file.arms, "arm", arm)
                values = file.base | group.set | file.arms[arm]
                for name in values:
                    one_of(flat(Configuration), "setting", name)
                seeds = {"seed": seed, "ar_seed": ar_seed}
                if values.get("n_images") is None:
                    raise ValueError("give n_images, which records compare")
                e = Experiment(Configuration.of(values | seeds))
            run = StudyRun(path.stem, group.name, arm, e, group.sweeps, group.stages)
            if run.name in runs:
                raise ValueError(f"{where}: two runs are called {run.name}")
            runs[run.name] = run
    with naming(path):
        _check_entries(file.groups)
        _check_seeds(runs.values())
    return Study(path.stem, file.about, tuple(runs.values()))


def _check_entries(groups: Iterable[Group]) -> None:
    first: dict[str, Group] = {}
    for group in groups:
        other = first.setdefault(group.name, group)
        for name in ALIKE:
            ours, theirs = getattr(group, name), getattr(other, name)
            if ours != theirs:
                raise ValueError(f"group {group.name!r} has {name} {shown(theirs)} in one entry, "
                                 f"{shown(ours)} in another, and its arms are compared: make them "
                                 "alike, or name a group of its own")  # fmt: skip


def _check_seeds(runs: Iterable[StudyRun]) -> None:
    """Arms of a group have equal seeds; codebooks of one size by themselves need not.

    Those are points of a curve, and no pairs of one another.
    """
    groups: dict[str, list[StudyRun]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    for name, some in groups.items():
        if all(len(set(run.experiment.sizes)) == 1 for run in some):
            continue
        seeds: dict[str, set[int]] = {}
        for run in some:
            seeds.setdefault(run.arm, set()).add(run.experiment.c.seed)
        most = max(seeds, key=lambda arm: len(seeds[arm]))
        for arm, own in seeds.items():
            if missing := seeds[most] - own:
                raise ValueError(f"group {name!r}, arm {arm!r} lacks seed {min(missing)}, which "
                                 f"{most!r} has: arms are compared seed by seed, so give all of "
                                 "them the same seeds")  # fmt: skip


def compute(runs: Iterable[StudyRun], results: Path) -> Iterator[StudyRun]:
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
            except WRONG as error:
                why = " ".join(str(error).split()) or type(error).__name__
                print(f"{run.name} failed: {why}", file=sys.stderr, flush=True)
                failed.append(run.name)
            else:
                yield run
        waiting = busy
    if failed:
        raise ValueError(f"runs that failed, for the reasons above: {', '.join(failed)}")


def _record(run: StudyRun, results: Path) -> None:
    if not records.current(results, run):
        e = Experiment(run.experiment.c)  # what it loads goes when it is done
        records.write(results, replace(run, experiment=e), measure(e, run.sweeps, run.stages))


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES calls them; none on a CPU."""
    count = torch.cuda.device_count()  # starts nothing on them
    told = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
    return told.split(",")[:count]


def start_workers(path: Path, results: Path, jobs: int) -> list[subprocess.Popen]:
    """Start `jobs` processes that share a study's runs, each with a GPU and its part of the cores.

    With more jobs than GPUs some share one.
    """
    threads, places = max(1, (os.cpu_count() or 1) // jobs), gpus()
    command = [sys.executable, "-m", "vcqlib", "study", str(path), "--results", str(results)]
    quiet = subprocess.DEVNULL  # what is done shows in the records; errors go to stderr
    workers = []
    for job in range(jobs):
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        if places:
            environment["CUDA_VISIBLE_DEVICES"] = places[job % len(places)].strip()
        workers.append(subprocess.Popen(command, env=environment, stdout=quiet))
    return workers


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
