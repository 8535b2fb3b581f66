"""Much of everything: 10^8 sequences, 100 configurations, hours of training, two builds at once."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from torture import jobs
from torture.large import LENGTH
from torture.tally import Tally
from vcqlib.files import read_record
from vcqlib.models.tokenizer import PRESETS, Tokenizer, TokenizerConfig
from vcqlib.study import records
from vcqlib.study.experiment import Experiment
from vcqlib.training.recipe import Recipe
from vcqlib.training.tokenizer import train_tokenizer

CONFIGURATIONS = 100
GROWTH = 48 << 20  # bytes that a process may grow by, after its first tenth


def run(tally: Tally, count: int, seed: int, folder: Path, minutes: float = 30) -> None:
    """`count` sequences (0: only the training) and `minutes` of training (0: none)."""
    jobs.warm_up()
    if minutes:
        tally.attempt("minutes of training without growth", lambda: _training(tally, minutes))
    if not count:
        return
    full = count >= 10**7
    free = shutil.disk_usage(folder).free
    if free < 2.5 * count * LENGTH:
        count = free // (4 * LENGTH)
        tally.say(f"the disk has room for {count:,} sequences only")
    large = f"{count:,} x {LENGTH} codes in 4 GiB"
    tally.attempt(large, lambda: _codes(tally, folder, count, seed))
    configurations = CONFIGURATIONS if full else 6
    study = f"study of {configurations} configurations on two processes"
    tally.attempt(study, lambda: _study(tally, folder, configurations))
    if full:
        tally.attempt("three builds at once in one checkout", lambda: _builds(folder))


def _codes(tally: Tally, folder: Path, n: int, seed: int) -> str:
    place = folder / "large"
    command = [sys.executable, "-m", "torture.large", str(place), str(n), str(seed)]
    done = subprocess.run(command, cwd=jobs.ROOT, capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    facts = read_record(place / "facts.json")
    tally.facts |= {f"{n:,} codes: {name}": value for name, value in facts.items()}
    tally.say(f"{n:,} sequences: {facts}")
    shutil.rmtree(place)
    return ""


def _study(tally: Tally, folder: Path, configurations: int) -> str:
    """`vcq study --jobs 2`: a record of each, and what it trained equal to training alone."""
    tiny = jobs.TINY.changed(tokenizer_steps=2, ar_steps=2, n_images=100)
    base = {name: value for name, value in tiny.to_dict().items() if name != "seed"}
    seeds = list(range(configurations))
    content = {"base": base, "arms": {"loglinear": {}},
               "groups": [{"name": "many", "arms": ["loglinear"], "seeds": seeds}]}  # fmt: skip
    path = folder / "many.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "vcqlib", "study", str(path), "--jobs", "2", "--results", folder],
        env=os.environ | {"VCQ_CACHE": str(folder / "study")}, cwd=jobs.ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    tally.facts[f"{configurations} configurations, seconds"] = round(time.monotonic() - start)
    if done.returncode:
        return f"exit code {done.returncode}: {done.stderr[-300:]}"
    recorded = sum(not record["stale"] for record in records.load("many", folder))
    if recorded != configurations:
        return f"{recorded} of {configurations} are recorded"
    jobs.must(jobs.stages, folder / "alone", "metrics", [tiny.changed(seed=i) for i in range(3)])
    alone, together = (jobs.finished_stages(folder / name) for name in ("alone", "study"))
    return jobs.differences(alone, {name: together[name] for name in alone if name in together})


def _training(tally: Tally, minutes: float) -> str:
    reports = jobs.FORK.Queue()
    worker = jobs.start(_train_on, minutes, reports)
    sizes = []
    while (size := reports.get(timeout=600)) is not None:
        sizes.append(size)
    worker.join()
    tally.tried["minutes of training without growth"] = max(round(minutes) - 1, 0)
    early, late = max(sizes[: max(1, len(sizes) // 10)]), max(sizes)
    tally.facts["training: rounds"] = len(sizes)
    tally.facts["training: growth, MiB"] = round((late - early) / 2**20, 1)
    return f"grew by {(late - early) >> 20} MiB" if late - early > GROWTH else ""


def _train_on(minutes: float, reports: object) -> None:
    """Rounds of training with checkpoints; the memory after each goes to `reports`."""
    images = Experiment(jobs.TINY).images.images
    config = TokenizerConfig(
        codebook_sizes=jobs.TINY.sizes, num_codes=16, image_size=8, channels=1, code_dim=8,
        balance=True, **PRESETS["mlp-tiny"],
    )  # fmt: skip
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        step = 0
        while step < 2 or time.monotonic() < end:
            model = Tokenizer(config)
            recipe = Recipe(150, 32, lr=1e-3, seed=step, checkpoint_minutes=0.005)
            train_tokenizer(model, images, recipe, Path(folder) / str(step))
            shutil.rmtree(Path(folder) / str(step))
            step += 1
            del model
            gc.collect()
            reports.put(_resident())
    reports.put(None)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _builds(folder: Path) -> str:
    """Two at once into one folder and a third beside them, pages included, against one alone."""
    arguments = ("smoke", "--only", "01", "05")
    alone = jobs.build(folder / "one", folder / "cache-one", *arguments)
    error = alone.communicate(timeout=600)[1]
    if alone.returncode:
        return f"failed alone: {error[-300:]}"
    outs = [folder / name for name in ("same", "same", "other")]
    running = [jobs.build(out, folder / "cache-all", *arguments) for out in outs]
    for build in running:
        error = build.communicate(timeout=1200)[1]
        if build.returncode:
            return f"failed beside others: {error[-300:]}"
    expected = jobs.pages(folder / "one")
    wrong = [jobs.differences(expected, jobs.pages(out)) for out in set(outs)]
    return next(filter(None, wrong), "")
