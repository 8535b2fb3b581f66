"""One bit flipped, anywhere in an artefact: the next reader refuses it and names the file."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from runner.profiles import Profile
from runner.report import Run
from torture import jobs
from torture.artefacts import CONFIG
from torture.tally import Tally, refusal
from vcqlib.data.code_store import open_codes, write_codes
from vcqlib.data.vendored import data_root, read_vendored
from vcqlib.files import load_tensors, read_record
from vcqlib.models.saved import WEIGHTS
from vcqlib.models.tokenizer import Tokenizer
from vcqlib.study import records
from vcqlib.study.experiment import Experiment
from vcqlib.study.folder import run_folder

EDGE = 12  # bytes at the start, after a header's length, and at the end that are always tried
VENDORED = ("fashion-mnist/t10k-labels-idx1-ubyte.gz", "gpt2/vocab.bpe.gz",
            "extractors/fashion_classifier.safetensors")  # fmt: skip


def run(tally: Tally, count: int, seed: int, folder: Path) -> None:
    """`count` random positions in each artefact, and its edges."""
    jobs.warm_up()
    rng = random.Random(seed)

    def flip(what: str, path: Path, read: Callable[[], object], name: str = "") -> None:
        _flips(tally, what, path, read, name or path.name, count, rng)

    _vendored(flip, folder)
    _codes(flip, folder)
    _stages(flip, folder)
    _records(flip, folder)
    _run_folder(flip, folder)
    _notebooks(flip, folder)
    _resumed(tally, rng, folder)


def _flips(
    tally: Tally, what: str, path: Path, read: Callable[[], object], name: str, count: int,
    rng: random.Random,
) -> None:  # fmt: skip
    whole = path.read_bytes()
    size = len(whole)
    places = {*range(min(EDGE, size)), *range(max(0, size - EDGE), size)}
    places |= set(rng.sample(range(size), min(count, size)))
    read()  # whole: it is read
    for place in sorted(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        problem = refusal(read, name)
        tally.count(f"flip in {what}", problem and f"byte {place} of {size}: {problem}")
    path.write_bytes(whole)
    read()


def _vendored(flip: Callable[..., None], folder: Path) -> None:
    data = folder / "data"
    for name in VENDORED:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data_root() / name, data / name)
    shutil.copy(data_root() / "MANIFEST.json", data)
    before = os.environ.get("VCQ_DATA")
    os.environ["VCQ_DATA"] = str(data)
    try:
        for name in VENDORED:
            flip("vendored data", data / name, lambda name=name: read_vendored(name))
    finally:
        os.environ.pop("VCQ_DATA")
        if before is not None:
            os.environ["VCQ_DATA"] = before


def _codes(flip: Callable[..., None], folder: Path) -> None:
    rng = np.random.default_rng(0)
    write_codes(
        folder / "store", rng.integers(0, 9, (500, 3)), np.zeros(500, int), [9, 9, 300], {"a": 1}
    )
    for name in sorted(path.name for path in (folder / "store").iterdir()):
        flip("code store", folder / "store" / name, lambda: open_codes(folder / "store"))


def _stages(flip: Callable[..., None], folder: Path) -> None:
    jobs.must(jobs.stages_of, folder / "cache", "metrics")
    os.environ["VCQ_CACHE"] = str(folder / "cache")
    for stage, read in jobs.READ.items():
        for done in (folder / "cache").glob(f"{stage}-*/done.json"):
            record = json.loads(done.read_text())
            if record["inputs"].get("split", "train") != "train":
                continue
            if "step" in record["inputs"]:
                read = lambda e, step=record["inputs"]["step"]: e.samples(step)  # noqa: E731
            for path in [done, *(done.parent / name for name in record["files"])]:
                flip(f"finished stage ({stage})", path,
                     lambda read=read: read(Experiment(jobs.TINY)))  # fmt: skip


def _records(flip: Callable[..., None], folder: Path) -> None:
    for path in sorted((data_root() / "results").rglob("*.json"))[:8]:
        copy = folder / path.name
        shutil.copy(path, copy)
        flip("record of data/results", copy, lambda copy=copy: read_record(copy))
    record = data_root() / "results" / "smoke" / "main-uniform-s0.json"
    for path in (record, record.with_suffix(".png")):
        shutil.copy(path, folder)
    for path in (folder / record.name, (folder / record.name).with_suffix(".png")):
        flip("record of a study", path, lambda: records.read(folder / record.name), path.name)


def _run_folder(flip: Callable[..., None], folder: Path) -> None:
    """What `vcq train` leaves."""
    about, cpu = {"model": CONFIG.to_dict()}, torch.device("cpu")
    with (
        contextlib.redirect_stdout(io.StringIO()),
        run_folder(folder / "run", Tokenizer, about, cpu) as finish,
    ):
        finish(Tokenizer(CONFIG))
    for name in ("config.json", WEIGHTS):
        flip("run folder", folder / "run" / name,
             lambda: Tokenizer.from_pretrained(folder / "run", cpu))  # fmt: skip


def _notebooks(flip: Callable[..., None], folder: Path) -> None:
    """The runner takes a changed notebook, or a changed run.json, as not executed."""
    out = folder / "out"
    (out / "notebooks").mkdir(parents=True)
    notebook = out / "notebooks" / "01_cliff.ipynb"
    shutil.copy(jobs.ROOT / "book" / "01_cliff.ipynb", notebook)
    profile = Profile("smoke", 1, 1)
    Run(out, profile).note("01_cliff", "key", {}, 1.0)

    def read() -> None:
        if not Run(out, profile).current("01_cliff", "key"):
            raise ValueError(f"{notebook}, {out / 'run.json'}: executed again")

    flip("executed notebook", notebook, read)
    flip("run.json of a build", out / "run.json", read)


def _resumed(tally: Tally, rng: random.Random, folder: Path) -> None:
    """A run whose newest checkpoint has a flipped byte goes on from the one before."""
    reference = jobs.finished_stages(folder / "cache")
    victim = jobs.start(jobs.stages_of, folder / "broken", "tokenizer")
    found: list[Path] = []
    while victim.is_alive() and len(found) < 2:
        found = sorted((folder / "broken").glob("tokenizer-*/step-*.safetensors"))
    victim.kill()
    victim.join()
    found = sorted((folder / "broken").glob("tokenizer-*/step-*.safetensors"))
    if len(found) < 2:
        tally.count("flip in a checkpoint", "the run ended before it could be stopped")
        return
    whole = found[-1].read_bytes()
    _flips(tally, "checkpoint", found[-1], lambda: load_tensors(found[-1], None), found[-1].name,
           30, rng)  # fmt: skip
    damaged = bytearray(whole)
    damaged[rng.randrange(len(whole) // 2, len(whole))] ^= 1
    found[-1].write_bytes(damaged)
    message = jobs.message_of(jobs.warned_stages_of, folder / "broken", "tokenizer")
    ended = jobs.finished_stages(folder / "broken")
    expected = {name: digest for name, digest in reference.items() if name in ended}
    problem = message or jobs.differences(expected, ended)
    tally.count("run resumed past a flipped checkpoint, compared", problem or "")
