"""Records of finished runs: what was configured, what came out, where and by which code.

A record is one JSON file under data/results/STUDY/ and, at seed 0, one PNG beside it, of samples
or (of a tokenizer alone) of reconstructions. It is current while the configuration that the code
would build today has the same fingerprint; else it is stale, and whoever shows it must say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.image_sets import write_sheet
from ..files import read_record, rounded, sha256_file, write_record
from ..settings import flat
from ..theory.cliff import cliff_position, cumulative_capacity
from .configuration import Configuration
from .experiment import Experiment
from .instruments import rows
from .measures import Stages, measure
from .origin import Comparison, commit, default_results, elsewhere, hardware, versions

SHEET = (4, 10)  # rows and columns of the sample sheet
EDITION = 2  # of what is measured; records of the first one stay readable
DIGITS = 6  # significant, of a record's measures
FIELDS = {"study", "group", "arm", "seed", "config", "sizes", "fingerprint", "sweeps", "measures",
          "sheet", "tolerance", "hardware", "versions", "commit"}  # fmt: skip
ARM = ("schedule", "of", "ramp", "power", "k_min")  # in what two arms of a study may differ
# Relative tolerances of a recomputation. On the processor and versions of the record everything is
# equal. Elsewhere training amplifies another rounding until the same seed is another run, as far
# off as another seed is: more than is tolerated here, as a rule.
TOLERANCE = {
    "mse": 0.05, "rfd": 0.15, "entropy": 0.05, "train_bits": 0.05, "held_out_bits": 0.05,
    "gfd": 0.2, "fd_to_reconstructions": 0.3,
}  # fmt: skip


@dataclass(frozen=True)
class StudyRun:
    """One arm at one seed and setting: one record."""

    study: str
    group: str
    arm: str
    experiment: Experiment
    sweeps: bool = False
    stages: Stages = "all"

    @property
    def name(self) -> str:
        c = self.experiment.c
        again = "" if c.ar_seed is None else f"-a{c.ar_seed}"
        return f"{self.group}-{self.arm}-s{c.seed}{again}"


def write(results: Path, run: StudyRun, measures: dict) -> Path:
    """Write the record of a run, at seed 0 with a sheet of samples; returns the JSON file."""
    path, e = _path(results, run), run.experiment
    folders = {"tokenizer": e.tokenizer_folder}
    if run.stages == "all":
        folders["ar"] = e.ar.folder
    done = {stage: read_record(folder / "done.json") for stage, folder in folders.items()}
    sheet = _write_sheet(path.with_suffix(".png"), e, run.stages) if e.c.seed == 0 else None
    record = {
        "edition": EDITION, "study": run.study, "group": run.group, "arm": run.arm,
        "seed": e.c.seed, "config": e.c.to_dict(), "sizes": list(e.sizes),
        "fingerprint": e.fingerprint, "sweeps": run.sweeps, "stages": run.stages,
        "measures": rounded(measures, DIGITS), "tokenizer_curve": rounded(e.tokenizer_curve, 4),
        "sheet": sheet, "tolerance": TOLERANCE,
        "seconds": {k: v["seconds"] for k, v in done.items()},
        "cpu_seconds": {k: v.get("cpu_seconds") for k, v in done.items()},  # None: of an old cache
        "hardware": hardware(e.device), "versions": versions(), "commit": commit(),
    }  # fmt: skip
    write_record(path, record)
    return path


def read(path: str | Path) -> dict:
    """Read one record.

    Raises:
        ValueError: not a record, one of another format, a byte of it or of its sheet changed.
    """
    path = Path(path)
    record = read_record(path)
    try:
        summary(record["measures"])
        sheet, known = record["sheet"], record.keys() >= FIELDS
        known = known and isinstance(record["config"], dict)
        known = known and (sheet is None or sheet["file"] == Path(sheet["file"]).name)
        known = known and ("curve" in record["measures"]) == (_stages(record) == "all")
    except (KeyError, IndexError, TypeError, ValueError):
        known = False
    if not known:
        raise ValueError(f"{path} is not a record of a study")
    if sheet is not None:
        file = path.with_name(sheet["file"])
        if not file.is_file() or sha256_file(file) != sheet["sha256"]:
            raise ValueError(f"{file} is missing or damaged; restore it: git checkout -- {file}")
    return record


def load(study: str, results: str | Path | None = None) -> list[dict]:
    """All records of a study, each with `stale` added: True if the code would compute another.

    Args:
        study: name of the study, its folder below `results`.
        results: folder of the records; default data/results of the clone.
    """
    folder = Path(results or default_results()) / study
    found = [read(path) for path in sorted(folder.glob("*.json"))]
    if not found:
        raise ValueError(f"no records in {folder}: vcq study book/studies/{study}.yaml makes them")
    return [{"edition": 1} | record | {"stale": is_stale(record)} for record in found]


def is_stale(record: Mapping) -> bool:
    """Whether the recorded configuration gives another fingerprint, or none, with this code.

    Records of an earlier edition are read as they are, and never compared with new ones.
    """
    if record.get("edition", 1) != EDITION:
        return False
    try:
        known = record["config"].keys() <= flat(Configuration).keys()
        return not known or _experiment(record).fingerprint != record["fingerprint"]
    except (TypeError, ValueError):
        return True


def current(results: Path, run: StudyRun) -> bool:
    """Whether a record of exactly this run is there."""
    path = _path(results, run)
    if not path.is_file():
        return False
    try:
        record = read(path)
    except ValueError:
        return False  # damaged or of an older format: computed again
    ours = (run.experiment.fingerprint, run.sweeps, run.stages, EDITION)
    theirs = (record["fingerprint"], record["sweeps"], _stages(record), record.get("edition", 1))
    return theirs == ours


def frame(records: list[dict]) -> pd.DataFrame:
    """One row a record: its identity, configuration and the numbers of `summary`."""
    names = ("study", "group", "arm", "seed", "stale")
    return pd.DataFrame([
        {k: r[k] for k in names} | {"n": r["config"]["n_images"],
         "bits": float(cumulative_capacity(r["sizes"])[-1])} | summary(r["measures"])
        for r in records
    ])  # fmt: skip


def summary(measures: Mapping) -> dict[str, float]:
    """The scalars by which a recomputation is judged; bits are per image, at the last AR step.

    Of a tokenizer alone the first three.
    """
    found = {
        "mse": measures["reconstruction"]["mse"],
        "rfd": measures["rfd"],
        "entropy": float(np.sum(measures["entropy"])),
    }
    if "curve" not in measures:
        return found
    last = measures["curve"][-1]
    found["train_bits"] = float(np.sum(last["train"]))
    found["held_out_bits"] = float(np.sum(last["held_out"]))
    found["gfd"] = measures["last"]["gfd"]
    return found | {k: measures[k] for k in ("fd_to_reconstructions",) if k in measures}


def floors(record: Mapping) -> dict[str, bool]:
    """Which floors of the protocol a run clears; one that does not counts as no run."""
    m, n = record["measures"], record["config"]["n_images"]
    mse = m["reconstruction"]["mse"]
    limit = math.log2(n) * (1 + 10 ** (1 - DIGITS))  # rounding the sum's terms may add as much
    found = {
        "reconstruction better than the mean image": mse < m["mean_image_mse"],
        "entropy at most log2 N": math.fsum(m["entropy"]) <= limit,
    }
    if _stages(record) == "tokenizer":
        return found
    best = min(float(np.sum(point["held_out"])) for point in m["curve"])
    return found | {
        "held-out likelihood better than unigrams": best < float(np.sum(m["unigram"])),
        "gFD below marginals": chosen(record) < m["gfd_marginals"],
    }


def chosen(record: Mapping, measure: str = "gfd") -> float:
    """A measure at the step with the best validation likelihood: no score of test chose it."""
    return record["measures"]["best"][measure]


def past_the_cliff(record: Mapping) -> float:
    """Held-out bits an image that the AR model saves at the positions after t*: not memorised ones.

    The sum of unigram minus held-out bits there, at the step with the best likelihood of held-out
    codes; 0 if no position follows the cliff. The class, which the model is told, is part of it.

    Raises:
        ValueError: a record of a tokenizer alone, which has no AR model.
    """
    m = record["measures"]
    if "curve" not in m:
        raise ValueError(f"{record['group']}-{record['arm']} has no AR model: it stopped at codes")
    cliff = cliff_position(record["config"]["n_images"], record["sizes"])
    best = min((point["held_out"] for point in m["curve"]), key=np.sum)
    return float(np.subtract(m["unigram"], best)[cliff:].sum()) if cliff is not None else 0.0


def pairs(found: list[dict], a: str, b: str, group: str = "main") -> list[tuple[dict, dict]]:
    """Records of arm `a` and arm `b` with the same seeds, by seed.

    Raises:
        ValueError: an arm without records in the group, or arms that differ in more than K_t.
    """
    arms = {}
    for arm in (a, b):
        arms[arm] = {(r["seed"], r["config"].get("ar_seed") or 0): r for r in found
                     if (r["group"], r["arm"]) == (group, arm)}  # fmt: skip
        if not arms[arm]:
            known = sorted({r["arm"] for r in found if r["group"] == group})
            raise ValueError(f"no records of arm {arm!r} in group {group!r} (arms: {known})")
    found = [(arms[a][seed], arms[b][seed]) for seed in sorted(arms[a].keys() & arms[b].keys())]
    for x, y in found:
        if x.get("edition") != y.get("edition"):
            raise ValueError(f"arms {a!r} and {b!r} of group {group!r} are of two editions")
        if unlike := [name for name, value in _fixed(x).items() if _fixed(y)[name] != value]:
            raise ValueError(f"arms {a!r} and {b!r} of group {group!r} may differ in K_t only, and "
                             f"differ in {', '.join(unlike)}")  # fmt: skip
    return found


def _fixed(record: Mapping) -> dict:
    """What the arms of a group share: configuration, parameter counts and vocabulary."""
    shared = {k: v for k, v in record["config"].items() if k not in ARM}
    return shared | {"parameters": record["measures"]["parameters"]}


def provenance(found: list[dict]) -> str:
    """Where records were computed, in one line for a caption; says if any is stale."""
    hardware = {f"{r['hardware']['cores']} cores of {r['hardware']['processor']}"
                if "gpu" not in r["hardware"] else r["hardware"]["gpu"] for r in found}  # fmt: skip
    torch_versions = {f"torch {r['versions']['torch']}" for r in found}
    commits = {f"commit {r['commit']}" for r in found}
    stale = sum(r["stale"] for r in found)
    mark = f"; STALE: {stale} of {len(found)} are of another configuration" if stale else ""
    return "; ".join(", ".join(sorted(s)) for s in (hardware, torch_versions, commits)) + mark


def reproduce(path: str | Path) -> Comparison:
    """Recompute a record with the code as it is and compare within the record's tolerance.

    Raises:
        ValueError: not a record, or a stale one.
    """
    record = read(path)
    if (edition := record.get("edition", 1)) != EDITION:
        raise ValueError(f"{path} is of edition {edition}, whose measures this code no longer "
                         f"makes; the code of commit {record['commit']} does")  # fmt: skip
    if is_stale(record):
        raise ValueError(f"{path} is stale: its configuration no longer means what it did; run "
                         f"vcq study book/studies/{record['study']}.yaml again")  # fmt: skip
    old, e = summary(record["measures"]), _experiment(record)
    new = summary(measure(e, record["sweeps"], _stages(record)))
    rows = tuple((k, old[k], new[k], record["tolerance"][k]) for k in old)
    return Comparison(rows, elsewhere(record, e.device))


def _stages(record: Mapping) -> Stages:
    return record.get("stages", "all")


def _experiment(record: Mapping) -> Experiment:
    return Experiment(Configuration.of(record["config"]))


def _path(results: Path, run: StudyRun) -> Path:
    return results / run.study / f"{run.name}.json"


def _write_sheet(path: Path, e: Experiment, stages: Stages) -> dict[str, str]:
    """First samples, or reconstructions of the first test images, a column a class; its name."""
    most, columns = SHEET
    classes = len(e.images.classes)
    if stages == "all":
        drawn = e.samples().images[: most * classes]
    else:
        drawn = e.decode(rows(e.test_codes.codes[: most * classes]))
    drawn = drawn[: len(drawn) // classes * classes].unflatten(0, (-1, classes))
    drawn = drawn[:, :columns].flatten(0, 1)
    few = 16 if drawn.shape[1] == 1 else 128  # for the eye alone; a quarter of the bytes
    write_sheet(path, drawn, min(columns, classes), padding=1, colours=few)
    return {"file": path.name, "sha256": sha256_file(path)}
