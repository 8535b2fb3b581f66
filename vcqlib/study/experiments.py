"""From a configuration to results: tokenizer → codes → AR model → samples → metrics.

Each stage is cached by the hash of what it depends on (see `cache.py`). Any chapter, in any order
and in parallel, asks for the stage it needs and trains or reuses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..data.code_store import CodeStore, open_codes, write_codes
from ..data.image_folder import folder_digest
from ..data.image_sets import ImageSet, load_images, to_uint8
from ..data.vendored import manifest
from ..entropy.estimates import conditional_entropy
from ..files import atomic_path, read_json, write_json
from ..metrics import distances as evaluation
from ..metrics import extractors
from ..models import autoregressive
from ..models import tokenizer as tokenizers
from ..models.autoregressive import ARConfig, ARModel
from ..models.tokenizer import Tokenizer, TokenizerConfig
from ..progress import bar
from ..training import SOURCES, inference
from ..training.autoregressive import train_ar
from ..training.recipe import Recipe
from ..training.run import own_randomness
from ..training.tokenizer import train_tokenizer
from . import cache
from .ar_run import ARRun, evaluation_steps
from .configuration import Experiment

DATA_SOURCES = ("data.image_sets", "data.image_folder", "data.synthetic")
TOKENIZER_SOURCES = (
    *DATA_SOURCES,
    "models.guards",
    "models.codebook",
    "models.search",
    "models.quantizer",
    "models.transformer",
    "models.tokenizer",
    *SOURCES,
)
AR_SOURCES = (*TOKENIZER_SOURCES, "data.code_store", "models.sampler", "models.autoregressive")
METRIC_SOURCES = (
    *AR_SOURCES,
    "study.ar_run",
    "metrics.checks",
    "metrics.distances",
    "metrics.extractors",
)
HELD_OUT = 10_000  # test images used for held-out likelihood and references, at most
EVALUATED = 2000  # codes behind each point of a training curve, train and held-out


# ---------------------------------------------------------------------------- images


@lru_cache(maxsize=4)
def _load(dataset: str, split: str, n: int, seed: int, size: int | None) -> ImageSet:
    if split == "test":
        return load_images(dataset, split, seed=seed, image_size=size, at_most=n)
    return load_images(dataset, split, n, seed=seed, image_size=size)


def images(e: Experiment, split: str = "train") -> ImageSet:
    """The experiment's N training images, or the fixed held-out test images."""
    if split == "train":
        return _load(e.dataset, "train", e.n_images, 0, e.image_size)
    n = e.n_images if e.dataset.startswith("synthetic") else HELD_OUT
    # in the seed's order, which takes the classes in turn: a part of it is balanced too
    return _load(e.dataset, "test", n, 0, e.image_size)


# ------------------------------------------------------------------------- tokenizer


_files = lru_cache(folder_digest)  # a folder of a million images is listed once


def _tokenizer_recipe(e: Experiment) -> Recipe:
    return Recipe(e.tokenizer_steps, e.tokenizer_batch, lr=2e-3, seed=e.seed)


def _ar_recipe(e: Experiment) -> Recipe:
    return Recipe(
        e.ar_steps, e.ar_batch, lr=2e-3, betas=(0.9, 0.96), weight_decay=0.03, seed=e.seed
    )


# Settings of a recipe that shape the weights of an experiment; the options beside them stay off.
SHAPING = ("steps", "batch", "lr", "final_lr", "warmup", "betas", "weight_decay", "clip", "seed")


def _recipe(recipe: Recipe) -> dict:
    return {name: getattr(recipe, name) for name in SHAPING}


def _tokenizer_inputs(e: Experiment) -> dict:
    sizes = e.sizes[::-1] if e.flipped else e.sizes
    names = ("dataset", "n_images", "image_size", "seed", "code_dim", "balance", "tokenizer",
             "tokenizer_steps", "tokenizer_batch", "k_max")  # fmt: skip
    inputs = {k: getattr(e, k) for k in names}
    inputs["n_images"] = e.tokenizer_images or e.n_images
    inputs |= {"sizes": list(sizes), "device": e.torch_device.type, "torch": torch.__version__}
    inputs |= {"recipe": _recipe(_tokenizer_recipe(e)), "held_out": HELD_OUT}
    inputs["data"] = {k: v["sha256"] for k, v in manifest().items() if k.startswith(e.dataset)}
    if e.dataset.startswith("folder:"):  # the user's own files may change under the same name
        inputs["files"] = _files(e.dataset.removeprefix("folder:"))
    return inputs


def tokenizer_folder(e: Experiment) -> Path:
    """Folder of the finished tokenizer stage of an arm."""
    inputs = _tokenizer_inputs(e)

    def build(folder: Path) -> None:
        data = images(replace(e, n_images=inputs["n_images"]))
        config = TokenizerConfig(
            codebook_sizes=tuple(inputs["sizes"]), num_codes=e.k_max,
            image_size=data.images.shape[-1], channels=data.images.shape[1],
            code_dim=e.code_dim, balance=e.balance, **tokenizers.PRESETS[e.tokenizer],
        )  # fmt: skip
        with own_randomness(e.torch_device):
            torch.manual_seed(e.seed)
            model = Tokenizer(config).to(e.torch_device)
        train_tokenizer(model, data.images, _tokenizer_recipe(e), folder)
        _save(folder, model, config.to_dict())

    return cache.stage("tokenizer", inputs, TOKENIZER_SOURCES, build)


def tokenizer(e: Experiment) -> Tokenizer:
    """The trained tokenizer of an arm, in eval mode. Reversed arms share that of `of`."""
    folder = tokenizer_folder(e)
    model = Tokenizer(TokenizerConfig.from_dict(read_json(folder / "config.json")))
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.to(e.torch_device).eval()


def tokenizer_curve(e: Experiment) -> list[dict]:
    """The tokenizer's training log: `step`, and of its batch `mse` and `quantizer` (loss)."""
    lines = (tokenizer_folder(e) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _save(folder: Path, model: torch.nn.Module, config: dict) -> None:
    """Final weights and configuration; the training checkpoints are no longer needed."""
    with atomic_path(folder / "weights.safetensors") as temporary:
        save_file({k: v.contiguous().cpu() for k, v in model.state_dict().items()}, temporary)
    write_json(folder / "config.json", config)
    for old in folder.glob("step-*"):
        old.unlink()


# ----------------------------------------------------------------------------- codes


def _code_inputs(e: Experiment) -> dict:
    """The tokenizer's inputs, and the images it encodes where these are not all it has seen."""
    encoded = {"encoded": e.n_images} if e.tokenizer_images else {}
    return _tokenizer_inputs(e) | encoded


def codes(e: Experiment, split: str = "train") -> CodeStore:
    """The codes [N, T] of the arm's training (or held-out test) images."""

    def build(folder: Path) -> None:
        model, data = tokenizer(e), images(e, split)
        rows = torch.cat([c.cpu() for c in inference.encode(model, data.images)]).numpy()
        write_codes(folder, rows, data.labels.numpy(), model.config.codebook_sizes, inputs)

    inputs = _code_inputs(e) | {"split": split}
    store = open_codes(
        cache.stage("codes", inputs, (*TOKENIZER_SOURCES, "data.code_store"), build), verify=False
    )
    if e.flipped:
        store = replace(store, codes=store.codes[:, ::-1], sizes=store.sizes[::-1])
    return store


def _tensors(store: CodeStore) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(store.codes.astype(np.int64)), torch.from_numpy(store.labels)


# -------------------------------------------------------------------------- AR model


def _ar_inputs(e: Experiment) -> dict:
    inputs = {"ar": e.ar, "dropout": e.dropout, "flipped": e.flipped}
    inputs |= {"ar_recipe": _recipe(_ar_recipe(e)), "evaluated": EVALUATED}
    inputs["evaluate_at"] = evaluation_steps(e.ar_steps)
    return _code_inputs(e) | inputs


def fingerprint(e: Experiment) -> str:
    """Hash of all that the results of an arm depend on, but for code, versions and device."""
    inputs = _ar_inputs(e) | {"n_samples": e.n_samples}
    inputs |= {"shapes": [tokenizers.PRESETS[e.tokenizer], autoregressive.PRESETS[e.ar]]}
    resolved = {k: v for k, v in inputs.items() if k not in ("torch", "device")}
    text = json.dumps(resolved, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ar(e: Experiment) -> ARRun:
    """The trained AR model of an arm, with its curve of train and held-out cross-entropy."""

    def build(folder: Path) -> None:
        rows, labels = _tensors(codes(e))
        test_rows, test_labels = _tensors(codes(e, "test"))
        config = ARConfig(
            codebook_sizes=e.sizes, vocabulary=e.k_max, classes=len(images(e).classes),
            dropout=e.dropout, **autoregressive.PRESETS[e.ar],
        )  # fmt: skip
        with own_randomness(e.torch_device):
            torch.manual_seed(e.seed)
            model = ARModel(config).to(e.torch_device)

        def evaluate(model: ARModel, step: int) -> None:
            def bits(rows: Tensor, labels: Tensor, own: bool = False) -> list[float]:
                return inference.position_bits(
                    model, rows[:EVALUATED], labels[:EVALUATED], own
                ).tolist()

            point = {"step": step, "train": bits(rows, labels),
                     "held_out": bits(test_rows, test_labels),
                     "held_out_own": bits(test_rows, test_labels, own=True)}  # fmt: skip
            write_json(folder / f"point-{step:06d}.json", point)
            with atomic_path(folder / f"snapshot-{step:06d}.safetensors") as temporary:
                save_file({k: v.contiguous().cpu() for k, v in model.state_dict().items()},
                          temporary)  # fmt: skip

        grid = evaluation_steps(e.ar_steps)
        train_ar(model, rows, labels, _ar_recipe(e), folder, grid, evaluate)
        _save(folder, model, config.to_dict())

    folder = cache.stage("ar", _ar_inputs(e), AR_SOURCES, build)
    model = ARModel(ARConfig.from_dict(read_json(folder / "config.json")))
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    curve = [read_json(p) for p in sorted(folder.glob("point-*.json"))]
    return ARRun(model.to(e.torch_device).eval(), curve, folder)


# ------------------------------------------------------------------ samples and metrics


@dataclass(frozen=True)
class Samples:
    """Generated codes and the images they decode to."""

    codes: Tensor  # int64 [n, T], in the AR model's order
    labels: Tensor  # int64 [n], balanced over the classes
    images: Tensor  # uint8 [n, C, H, W]


def decode(e: Experiment, rows: Tensor) -> Tensor:
    """uint8 images from codes in the AR model's order (flipped back for the reversed arm)."""
    if e.flipped:
        rows = rows.flip(1)
    return to_uint8(inference.decode(tokenizer(e), rows.contiguous()))


def generate(
    e: Experiment, model: ARModel, n: int | None = None, seed: int = 0, **sampling
) -> Samples:
    """n samples with balanced labels; `sampling` goes to `ARModel.generate`."""
    n = n or e.n_samples
    device = model.head.weight.device
    labels = torch.arange(n) % model.config.classes
    generator = torch.Generator(device).manual_seed(seed)
    rows = [
        model.generate(part.to(device), generator=generator, **sampling).cpu()
        for part in bar(labels.split(1000), desc="sampling")
    ]
    rows = torch.cat(rows)
    return Samples(rows, labels, decode(e, rows))


def marginal_codes(e: Experiment, n: int, seed: int = 0) -> Tensor:
    """Codes [n, T] whose positions are drawn independently from the training codes: a floor."""
    store, rng = codes(e), np.random.default_rng(seed)
    columns = [rng.choice(store.codes[:, t], n) for t in range(e.length)]
    return torch.from_numpy(np.stack(columns, 1).astype(np.int64))


def features(e: Experiment, split: str, name: str) -> np.ndarray:
    """Features [N, d] of the images of a split, which all arms share."""
    names = ("dataset", "n_images", "image_size", "device")
    return _features(Experiment(**{k: getattr(e, k) for k in names}), split, name)


@lru_cache(maxsize=4)
def _features(e: Experiment, split: str, name: str) -> np.ndarray:
    return extractor(e, name)(images(e, split).images)


def extractor(e: Experiment, name: str) -> extractors.BatchedExtractor:
    """An extractor on the experiment's device."""
    return extractors.load_extractor(name, e.torch_device.type)


def check_samples(e: Experiment) -> None:
    """Refuse, before anything is trained, what is too small for the features it is judged by.

    Raises:
        ValueError: no more samples, training or held-out images than the extractor has features.
        ImportError: the extractor of this data set is not installed.
    """
    name = extractors.default_extractor(e.dataset)
    held_out, width = features(e, "test", name).shape
    counts = {"n_samples": e.n_samples, "n_images": e.n_images, "held-out images": held_out}
    for what, count in counts.items():
        if count <= width:
            raise ValueError(
                f"{what} must be above {width}, the features of the extractor {name!r} by which "
                f"{e.dataset} is judged, got {count}"
            )


def metrics(e: Experiment) -> dict:
    """What a study reports of one arm: reconstruction, entropy, likelihood, generation, floors.

    gFD is against the held-out test images, at T = 1 without guidance, at the last step and at
    the step with the best held-out likelihood; `gfd_train` is against the training images.
    """
    name = extractors.default_extractor(e.dataset)
    weights = {k: v["sha256"] for k, v in manifest().items() if k.startswith("extractors/")}
    inputs = _ar_inputs(e) | {"n_samples": e.n_samples, "extractor": name, "weights": weights}

    def build(folder: Path) -> None:
        write_json(folder / "metrics.json", _measure(e, name))

    folder = cache.stage(
        "metrics", inputs, (*METRIC_SOURCES, "entropy.estimates", "study.experiments"), build
    )
    return read_json(folder / "metrics.json")


def _measure(e: Experiment, name: str) -> dict:
    check_samples(e)
    extract, test = extractor(e, name), images(e, "test")
    reference, train = features(e, "test", name), features(e, "train", name)
    store, held_out, run = codes(e), codes(e, "test"), ar(e)

    rebuilt = decode(e, _tensors(held_out)[0])
    result: dict = {
        "extractor": extract.label, "n_samples": e.n_samples, "n_reference": len(reference),
        "reconstruction": evaluation.reconstruction(test.images, rebuilt),
        "rfd": evaluation.frechet_distance(extract(rebuilt), reference),
    }  # fmt: skip
    entropy = conditional_entropy(np.ascontiguousarray(store.codes))
    result["entropy"] = entropy.bits.tolist()
    result["used"] = [int(np.unique(store.codes[:, t]).size) for t in range(e.length)]
    for label, step in (("last", e.ar_steps), ("best", run.best_step)):
        drawn = generate(e, run.at(step))
        fake = extract(drawn.images)
        n = min(len(reference), len(fake))  # precision and recall need equal counts
        precision, recall = evaluation.precision_recall(reference[:n], fake[:n])
        result[label] = {
            "step": step,
            "gfd": evaluation.frechet_distance(fake, reference),
            "gfd_train": evaluation.frechet_distance(fake, train),
            "precision": precision, "recall": recall,
        }  # fmt: skip
    floor = decode(e, marginal_codes(e, e.n_samples))
    result["gfd_marginals"] = evaluation.frechet_distance(extract(floor), reference)
    # as many real images as there are samples: what a perfect generator would score
    result["real_real"] = evaluation.frechet_distance(train[: e.n_samples], reference)
    return result


def finished(e: Experiment) -> list[str]:
    """Names of the trainings of an arm that are in the cache."""
    trainings = {"tokenizer": (_tokenizer_inputs(e), TOKENIZER_SOURCES),
                 "ar": (_ar_inputs(e), AR_SOURCES)}  # fmt: skip
    return [name for name, (inputs, code) in trainings.items() if cache.has(name, inputs, code)]


def prepare(experiments: Iterable[Experiment], until: str = "metrics") -> None:
    """Compute a stage for many experiments, sharing the work with other processes."""
    stages = {"tokenizer": tokenizer, "codes": codes, "ar": ar, "metrics": metrics}
    if until not in stages:
        raise ValueError(f"until must be one of {', '.join(stages)}, got {until!r}")
    cache.share([lambda e=e: stages[until](e) for e in experiments])
