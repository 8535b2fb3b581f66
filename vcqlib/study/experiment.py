"""One run and its stages, each computed or read from the cache when it is first asked for.

Any chapter, in any order and in parallel, asks for the stage it needs and trains or reuses. What
is loaded once stays loaded: pass the experiment, not its settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..data.batches import open_images
from ..data.code_store import CodeStore, open_codes
from ..data.image_folder import folder_digest
from ..data.image_sets import ImageSet, load_images, own_files, to_uint8
from ..data.vendored import manifest
from ..models.autoregressive import ARModel
from ..models.tokenizer import Tokenizer
from ..progress import bar
from ..training.inference import decode
from . import cache, stages
from .configuration import Configuration
from .folder import read_log, weights_digest
from .samples import Samples, draw, read_samples, write_samples
from .stages import ARRun

HELD_OUT = 10_000  # held-out images that are split into validation and test, at most


_train_images = lru_cache(maxsize=4)(open_images)  # the arms of a study share them
_test_images = lru_cache(maxsize=2)(load_images)
_files = lru_cache(folder_digest)  # a folder of a million images is listed once


class Experiment:
    """A configuration with its images, tokenizer, codes, AR model and samples."""

    def __init__(self, configuration: Configuration | None = None) -> None:
        self.configuration = self.c = configuration or Configuration()
        self._samples: dict[int, Samples] = {}

    def __repr__(self) -> str:
        return f"Experiment({self.c})"

    def arm(self, schedule: str | tuple[int, ...], **changes: Any) -> Experiment:
        """The same experiment with another schedule, and other settings by their flat names."""
        return Experiment(self.c.changed(schedule=schedule, **changes))

    @property
    def sizes(self) -> tuple[int, ...]:
        """K_1 … K_T as the AR model sees them."""
        return self.c.sizes

    @property
    def device(self) -> torch.device:
        return self.c.torch_device

    # ------------------------------------------------------------------------ images

    @property
    def images(self) -> ImageSet:
        """The N training images."""
        d = self.c.data
        return _train_images(d.dataset, d.n_images, d.image_size, False, d.channels)

    @property
    def validation(self) -> ImageSet:
        """Half of the held-out images, balanced: to choose by."""
        return self._held_out.part("validation")

    @property
    def test(self) -> ImageSet:
        """The other half: only to report on."""
        return self._held_out.part("test")

    @property
    def _held_out(self) -> ImageSet:
        d = self.c.data
        drawn = d.dataset.startswith("synthetic")
        at_most = 2 * d.n_images if drawn and d.n_images else HELD_OUT
        like = {"image_size": d.image_size, "channels": d.channels}
        return _test_images(d.dataset, "test", at_most=at_most, **like)

    def _data(self) -> dict:
        """What the settings cannot say of the images: their content."""
        dataset = self.c.data.dataset
        found = {k: v["sha256"] for k, v in manifest().items() if k.startswith(dataset)}
        if own := own_files(dataset):  # the user's own files may change under the same name
            found["files"] = _files(own)
        return {"data": found, "held_out": [HELD_OUT, "halves"]}

    # --------------------------------------------------------------------- tokenizer

    def _inputs(self, stage: str) -> dict:
        """What a stage depends on, beside code: settings, content of the data, place."""
        place = {"device": self.device.type, "torch": torch.__version__}
        return self.c.identity(stage) | self._data() | place

    @cached_property
    def tokenizer_folder(self) -> Path:
        """Folder of the finished tokenizer, shared by a reversed arm and what it flips."""
        inputs = self._inputs("tokenizer")

        def build(folder: Path) -> None:
            d = self.c.data
            n = inputs["n_images"]
            images = _train_images(d.dataset, n, d.image_size, d.augment, d.channels)
            stages.train_tokenizer(self.c, images, folder, self.device)

        return cache.stage("tokenizer", inputs, build)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The trained tokenizer, in eval mode."""
        return Tokenizer.from_pretrained(self.tokenizer_folder, self.device)

    @property
    def tokenizer_curve(self) -> list[dict]:
        """The tokenizer's training log: `step`, and of its batch `mse` and `quantizer` (loss)."""
        return read_log(self.tokenizer_folder)

    # ------------------------------------------------------------------------- codes

    def _codes(self, split: Literal["train", "validation", "test"]) -> CodeStore:
        splits = {"train": self.images, "validation": self.validation, "test": self.test}
        images = splits[split]
        inputs = {"tokenizer": self.tokenizer_folder.name, "split": split, "images": len(images)}
        inputs |= self._data() | {"flipped": self.c.flipped}

        def build(folder: Path) -> None:
            info = {"tokenizer": weights_digest(self.tokenizer_folder), "data": self.c.data.dataset,
                    "split": split}  # fmt: skip
            stages.encode(self.c, self.tokenizer, images, folder, info)

        return open_codes(cache.stage("codes", inputs, build), verify=False)

    @cached_property
    def codes(self) -> CodeStore:
        """Codes [N, T] of the training images."""
        return self._codes("train")

    @cached_property
    def validation_codes(self) -> CodeStore:
        """Codes of the validation images."""
        return self._codes("validation")

    @cached_property
    def test_codes(self) -> CodeStore:
        """Codes of the test images."""
        return self._codes("test")

    # ---------------------------------------------------------------------- AR model

    @cached_property
    def ar(self) -> ARRun:
        """The trained AR model, with its curve of train and held-out cross-entropy."""

        def build(folder: Path) -> None:
            stages.train_ar(self.c, self.codes, folder, self.device, self.validation_codes)

        folder = cache.stage("ar", self._inputs("ar"), build)
        return stages.read_ar(folder, self.device)

    # ----------------------------------------------------------------------- samples

    def decode(self, codes: Tensor) -> Tensor:
        """uint8 images of codes [N, m] in the AR model's order."""
        return to_uint8(decode(self.tokenizer, codes.flip(1) if self.c.flipped else codes))

    def draw(self, model: ARModel, n: int | None = None, seed: int = 0, **sampling: Any) -> Samples:
        """n samples, the classes in turn; `sampling` goes to `ARModel.generate`."""
        labels = torch.arange(n or self.c.sampling.n_samples) % model.config.classes
        parts = [
            draw(model, self.tokenizer, some, seed, 1000 * i, self.c.flipped, **sampling)
            for i, some in enumerate(bar(labels.split(1000), "sampling"))
        ]
        images, codes, labels = zip(*((p.images, p.codes, p.labels) for p in parts), strict=True)
        return Samples(torch.cat(images), torch.cat(codes), torch.cat(labels))

    def samples(self, step: int | None = None) -> Samples:
        """The samples that are judged, of the last step or of a snapshot; a stage of its own."""
        step = step or self.ar.steps[-1]

        def build(folder: Path) -> None:
            s = self.c.sampling
            how = {f.name: getattr(s, f.name) for f in fields(s) if f.name != "n_samples"}
            write_samples(folder / "samples.npz", self.ar.at(step), self.tokenizer, s.n_samples,
                          flipped=self.c.flipped, **how)  # fmt: skip

        if step not in self._samples:
            folder = cache.stage("samples", self._inputs("samples") | {"step": step}, build)
            self._samples[step] = read_samples(folder / "samples.npz")
        return self._samples[step]

    def marginal_codes(self, n: int, seed: int = 0) -> Tensor:
        """Codes [n, T] whose positions are drawn independently from the training codes: a floor."""
        rows, rng = self.codes.codes, np.random.default_rng(seed)
        columns = [rng.choice(rows[:, t], n) for t in range(rows.shape[1])]
        return torch.from_numpy(np.stack(columns, 1).astype(np.int64))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that the results depend on, but for code, versions and device."""
        text = json.dumps(self.c.identity("samples") | self._data(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def finished(self) -> list[str]:
        """Names of the trainings that are in the cache."""
        makers = {"tokenizer": Experiment.tokenizer_folder.func, "ar": Experiment.ar.func}
        return [name for name, f in makers.items() if cache.has(name, self._inputs(name), f)]


def prepare(experiments: Iterable[Experiment], stage: Callable[[Experiment], object]) -> None:
    """Compute a stage for many experiments, sharing the work with other processes.

    stage: asks for it, for instance `lambda e: e.ar`.
    """
    cache.share([lambda e=e: stage(e) for e in experiments])
