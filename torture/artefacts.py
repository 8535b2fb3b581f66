"""One small artefact of each kind that the project writes: how they are made, and read.

`python -m torture.artefacts FOLDER` writes those of the present version. tests/artefacts/ keeps the
ones of the first release: later versions have to read them, or refuse them with the way out.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from vcqlib.data.code_store import open_codes, write_codes
from vcqlib.files import load_tensors, read_record, save_tensors, write_json, write_record
from vcqlib.models.tokenizer import Tokenizer, TokenizerConfig
from vcqlib.study import cache, plan, records
from vcqlib.study.configuration import Configuration
from vcqlib.study.experiment import Experiment
from vcqlib.training.recipe import Recipe
from vcqlib.training.tokenizer import train_tokenizer

SIZES, STUDY = (2, 4, 8), "study"
CONFIG = TokenizerConfig(
    codebook_sizes=SIZES, num_codes=8, image_size=8, channels=1, code_dim=4, backbone="mlp",
    width=8, depth=1,
)  # fmt: skip


def make(folder: Path) -> None:
    """Write every artefact and expected.json, the numbers that they hold."""
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, k, 40) for k in SIZES], 1)
    write_codes(folder / "codes", codes, np.arange(40) % 3, SIZES, {"made": "for the tests"})
    write_record(folder / "record.json", {"bits": [0.5, 0.25], "name": "Ünï"})
    save_tensors(folder / "weights.safetensors", _model().state_dict(), {"about": "a tokenizer"})
    train(folder / "run", steps=2)
    study_record(folder)
    os.environ["VCQ_CACHE"] = str(folder / "cache")
    stage = cache.stage("first", {"release": 1}, lambda to: write_json(to / "x.json", [1, 2]))
    for lock in stage.parent.glob("*.lock"):
        lock.unlink()
    write_record(folder / "expected.json", read(folder))


def _model(seed: int = 0) -> Tokenizer:
    torch.manual_seed(seed)
    return Tokenizer(CONFIG)


def train(folder: Path, steps: int) -> Tokenizer:
    """A run of so many steps, of which the last checkpoint is kept."""
    images = torch.arange(32 * 64, dtype=torch.float64).mul(37).remainder(251).to(torch.uint8)
    recipe = Recipe(4, 8, lr=1e-3, checkpoint_minutes=0, keep=1)
    if steps < recipe.steps:  # stopped on the way
        stop = Recipe.lr_at

        def lr_at(self: Recipe, step: int) -> float:
            if step == steps:
                raise KeyboardInterrupt
            return stop(self, step)

        Recipe.lr_at = lr_at
        try:
            return train_tokenizer(_model(), images.reshape(32, 1, 8, 8), recipe, folder)
        except KeyboardInterrupt:
            return _model()
        finally:
            Recipe.lr_at = stop
    other = _model(seed=1)  # whose weights the checkpoint has to replace
    return train_tokenizer(other, images.reshape(32, 1, 8, 8), recipe, folder)


def study_record(folder: Path) -> None:
    """The record of a study of one tiny arm, with its sheet of samples: STUDY/RUN.json and .png."""
    tiny = Configuration.of({
        "dataset": "digits", "n_images": 100, "length": 4, "k_max": 16, "tokenizer": "mlp-tiny",
        "tokenizer_steps": 2, "ar": "nano", "ar_steps": 2, "n_samples": 50, "device": "cpu",
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["VCQ_CACHE"] = scratch
        run = records.StudyRun(STUDY, "main", "loglinear", Experiment(tiny))
        list(plan.compute([run], folder))


def readers(folder: Path) -> dict[str, tuple[Path, Callable[[], object]]]:
    """Kind -> (the file that has the format number, reading it as numbers)."""

    def codes() -> object:
        store = open_codes(folder / "codes")
        return [store.codes.sum(0).tolist(), store.labels.sum().item(), list(store.sizes)]

    def tensors() -> object:
        found, info = load_tensors(folder / "weights.safetensors")
        return [sorted(found), info, round(sum(float(t.double().sum()) for t in found.values()), 6)]

    def checkpoint() -> object:
        """Continues the run in a copy, from the step at which it was stopped."""
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(folder / "run", copy, dirs_exist_ok=True)
            model = train(Path(copy), steps=4)
        return round(float(model.quantizer.codebook.detach().double().sum()), 4)

    def stage() -> object:
        os.environ["VCQ_CACHE"] = str(folder / "cache")
        place = cache.stage("first", {"release": 1}, _must_not)
        return (place / "x.json").read_text()

    def record_of_a_study() -> object:
        found = records.read(recorded)
        numbers = {
            name: round(value, 6) for name, value in records.summary(found["measures"]).items()
        }
        return [found["arm"], found["sizes"], numbers]

    recorded = next((folder / STUDY).glob("*.json"))
    step = next((folder / "run").glob("step-*.safetensors"))
    done = next((folder / "cache").glob("*/done.json"))
    return {
        "code store": (folder / "codes" / "codes.json", codes),
        "record": (folder / "record.json", lambda: read_record(folder / "record.json")),
        "record of a study": (recorded, record_of_a_study),
        "weights": (folder / "weights.safetensors", tensors),
        "checkpoint": (step, checkpoint),
        "finished stage": (done, stage),
    }


def read(folder: Path) -> dict[str, object]:
    """Kind -> the numbers that the artefact holds."""
    return {kind: reader() for kind, (_, reader) in readers(folder).items()}


def _must_not(folder: Path) -> None:
    raise ValueError(f"{folder} is computed again, and should have been read")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
