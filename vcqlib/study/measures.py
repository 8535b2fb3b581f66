"""What a study measures of one arm.

The grids are the same for every arm, the control included, and are listed here: no arm is tuned
with more tries than another. What is loaded or drawn once is passed on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..data.image_sets import to_float
from ..data.vendored import manifest
from ..entropy.estimates import conditional_entropy
from ..files import read_json, write_json
from ..metrics import distances, extractors
from ..training.inference import decode, position_bits
from . import cache
from .experiment import Experiment
from .instruments import Reconstructions, forced_prefix, redraw, rows, two_sample
from .judge import Judge, check_samples, judge

TEMPERATURES = (0.7, 0.85, 1.0, 1.15)
GUIDANCE = (1.0, 1.5, 2.0, 3.0)  # constant classifier-free guidance scales
PROBED = 6000  # training images behind a linear probe on a CPU, at most; on a GPU all
REDRAWN = 1000  # held-out images whose last codes are drawn anew, at most
COMPARED = 2000  # held-out images that give the yardstick for copies, at most
PREFIXES = 12  # probed of a sequence above 32 positions, in a geometric grid; below, all
Stages = Literal["all", "tokenizer"]  # up to which a run goes: to samples, or no further than codes


def _inputs(e: Experiment) -> dict[str, Any]:
    weights = {k: v["sha256"] for k, v in manifest().items() if k.startswith("extractors/")}
    return {"arm": e.fingerprint, "weights": weights, "device": e.device.type,
            "torch": torch.__version__}  # fmt: skip


class Seen:
    """What is loaded, drawn and looked at once for all measures of an arm."""

    def __init__(self, e: Experiment) -> None:
        self.e, self.known, self.run = e, judge(e), e.ar
        self.real = Reconstructions(e, self.known)
        self._features: dict[int, np.ndarray] = {}

    def features(self, step: int | None = None) -> np.ndarray:
        """Of the samples of a step, by default the last."""
        step = step or self.run.steps[-1]
        if step not in self._features:
            self._features[step] = self.known.extract(self.e.samples(step).images)
        return self._features[step]


def metrics(e: Experiment, seen: Seen | None = None) -> dict:
    """What chapters report of one arm: reconstruction, entropy, generation, floors; cached.

    Distances are at T = 1 without guidance, at the last step and at the step with the best
    likelihood of validation codes: gFD to the test images, `gfd_train` to the training images, and
    to the reconstructions of the test images (see `instruments`).
    """

    def build(folder: Path) -> None:
        check_samples(e)
        write_json(folder / "metrics.json", _metrics(seen or Seen(e)))

    return read_json(cache.stage("metrics", _inputs(e), build) / "metrics.json")


def measure(e: Experiment, sweeps: bool = False, stages: Stages = "all") -> dict:
    """All metrics of one arm, cached; with `sweeps` also temperatures, guidance and probes.

    stages: "tokenizer" measures what needs no AR model, probes among it, and trains none.
    """

    def build(folder: Path) -> None:
        check_samples(e)
        if stages == "tokenizer":
            found = _of_tokenizer(e, Reconstructions(e, judge(e))) | _floors(e) | _of_prefixes(e)
            found["parameters"] = {"tokenizer": _count(e.tokenizer)}
        else:
            seen = Seen(e)
            found = metrics(e, seen) | _more(seen, sweeps)
        write_json(folder / "measures.json", found)

    inputs = _inputs(e) | {"sweeps": sweeps, "stages": stages}
    return read_json(cache.stage("measures", inputs, build) / "measures.json")


def _of_tokenizer(e: Experiment, real: Reconstructions) -> dict:
    """What is known before an AR model is trained."""
    known, floor = real.known, real.floor()
    rebuilt = e.decode(rows(e.test_codes.codes))
    entropy = conditional_entropy(np.ascontiguousarray(e.codes.codes))
    return {
        "extractor": known.extract.label, "n_reference": len(known.test),
        "reconstruction": distances.reconstruction(e.test.images, rebuilt),
        "rfd": distances.frechet_distance(real.test, known.test),
        "entropy": entropy.bits.tolist(),
        "used": [int(np.unique(column).size) for column in e.codes.codes.T],
        "fd_to_reconstructions_floor": floor["fd"], "kid_to_reconstructions_floor": floor["kid"],
    }  # fmt: skip


def _metrics(seen: Seen) -> dict:
    e, known, run, real = seen.e, seen.known, seen.run, seen.real
    reference, train, n = known.test, known.train, e.c.sampling.n_samples
    result: dict = _of_tokenizer(e, real) | {"n_samples": n}
    for label, step in (("last", run.steps[-1]), ("best", run.best_step)):
        fake = seen.features(step)
        there, few = real.distances(fake), min(len(reference), len(fake))
        precision, recall = distances.precision_recall(reference[:few], fake[:few])  # equal counts
        result[label] = {
            "step": step,
            "gfd": known.gfd(fake),
            "gfd_train": distances.frechet_distance(fake, train),
            "kid": distances.kernel_distance(fake, reference),
            "precision": precision, "recall": recall,
            "fd_to_reconstructions": there["fd"], "kid_to_reconstructions": there["kid"],
        }  # fmt: skip
    result["fd_to_reconstructions"] = result["last"]["fd_to_reconstructions"]
    marginal = known.extract(e.decode(e.marginal_codes(n)))
    result["gfd_marginals"] = known.gfd(marginal)
    result["fd_to_reconstructions_marginals"] = real.distances(marginal)["fd"]
    # as many real images as there are samples: what a perfect generator would score
    result["real_real"] = distances.frechet_distance(train[:n], reference)
    return result


def _more(seen: Seen, sweeps: bool) -> dict:
    e, known, run, real = seen.e, seen.known, seen.run, seen.real
    drawn = e.samples()
    result: dict = {"curve": run.curve, "best_step": run.best_step}
    result["parameters"] = {
        "tokenizer": _count(e.tokenizer),
        "ar": _count(run.model),
        "vocabulary": run.model.config.vocabulary,
    }
    result |= _floors(e)
    test = rows(e.test_codes.codes), torch.from_numpy(e.test_codes.labels)
    result["test_bits"] = {
        label: position_bits(run.at(step), *test).tolist()
        for label, step in (("last", run.steps[-1]), ("best", run.best_step))
    }
    by_step = {str(step): seen.features(step) for step in run.steps}
    result["gfd_by_step"] = {step: known.gfd(made) for step, made in by_step.items()}
    result["fd_to_reconstructions_by_step"] = {
        step: real.distances(made)["fd"] for step, made in by_step.items()
    }
    result["chosen"] = _chosen(known, real, by_step)
    result["forced_prefix"] = forced_prefix(e, real)
    result["two_sample"] = two_sample(e, drawn.codes)
    if isinstance(known.extract, extractors.ClassifierExtractor):
        result["class_score"] = distances.class_score(known.extract.probabilities(drawn.images))
    result["copies"] = copies(seen)
    if sweeps:
        result["tuned"] = {
            name: _chosen(known, real, sweep(seen, name, values))
            for name, values in (("temperature", TEMPERATURES), ("cfg_scale", GUIDANCE))
        }
        result |= _of_prefixes(e)
        result["class_kept"] = _class_kept(e, known)
    return result


def _chosen(known: Judge, real: Reconstructions, made: dict[str, np.ndarray]) -> dict:
    """Of several sets of samples the nearest to validation, and what it scores on test."""
    by = {name: real.to_validation(features) for name, features in made.items()}
    best = min(by, key=by.get)
    there = real.distances(made[best])
    return {
        "best": best,
        "validation": by,
        "gfd": known.gfd(made[best]),
        "fd_to_reconstructions": there["fd"],
        "kid_to_reconstructions": there["kid"],
    }


def sweep(seen: Seen, name: str, values: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Features of samples of the last step at several values of one setting of sampling."""
    e, plain = seen.e, getattr(seen.e.c.sampling, name)
    return {
        str(v): seen.features() if v == plain
        else seen.known.extract(e.draw(e.ar.model, **{name: v}).images)
        for v in values
    }  # fmt: skip


def _floors(e: Experiment) -> dict:
    """What knowing nothing costs: each code by its own frequency, and the mean training image."""
    codes = e.codes.codes
    unigram = [
        conditional_entropy(np.ascontiguousarray(codes[:, [t]])).total_bits
        for t in range(codes.shape[1])
    ]
    mean = to_float(e.images.images).mean(0)
    error = (to_float(e.test.images) - mean).square().mean()
    return {"unigram": unigram, "mean_image_mse": float(error)}


def _count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def copies(seen: Seen) -> dict[str, float]:
    """Share of samples nearer to a training image than 99 % of the held-out images are.

    By features and by pixels, with the median distance in units of that of held-out images; and
    the share whose codes are those of a training image.
    """
    e, known, found = seen.e, seen.known, {}
    drawn, features = e.samples(), seen.features()
    for kind, samples, held_out, training in (
        ("features", features, known.test[:COMPARED], known.train),
        ("pixels", drawn.images, e.test.images[:COMPARED], e.images.images),
    ):
        _, distance = distances.nearest_training(samples, training)
        _, usual = distances.nearest_training(held_out, training)
        found[kind] = distances.count_copies(distance, usual).fraction
        found[f"{kind}_distance"] = float(np.median(distance) / np.median(usual))
    sequences = {tuple(row) for row in e.codes.codes.tolist()}
    found["codes"] = float(np.mean([tuple(row) in sequences for row in drawn.codes.tolist()]))
    return found


def prefix_lengths(length: int) -> list[int]:
    """Prefixes that a record of T positions has measured: all, or 12 and the paper's 10 tokens."""
    if length <= 32:
        return list(range(1, length + 1))
    return sorted({round(m) for m in np.geomspace(1, length, PREFIXES)} | {10})


def _of_prefixes(e: Experiment) -> dict:
    return {"probe": _probes(e), "prefix_mse": _prefix_errors(e)}


def _probes(e: Experiment) -> dict[str, list[float]]:
    """Accuracy of a linear probe on prefixes, for three readings of a token."""
    n = min(len(e.images), PROBED) if e.device.type == "cpu" else len(e.images)
    own, other = e.codes.codes[:n], e.test_codes.codes
    y, y_test = e.images.labels[:n], e.test.labels
    readings = {
        "encoder outputs": (
            encoder_outputs(e, e.images.images[:n]),
            encoder_outputs(e, e.test.images),
        ),
        "code vectors": (code_vectors(e, own), code_vectors(e, other)),
        "one-hot codes": (own, other),
    }
    m = prefix_lengths(len(e.sizes))
    return {
        reading: distances.prefix_probe(x, y, x_test, y_test, m, e.device.type).tolist()
        for reading, (x, x_test) in readings.items()
    }


def _prefix_errors(e: Experiment) -> list[float]:
    """Mean squared error of held-out images decoded from prefixes.

    In the tokenizer's order: for the reversed arm these are those of the arm it flips.
    """
    some = to_float(e.test.images[:COMPARED])
    codes = rows(e.test_codes.codes[:COMPARED])
    codes = codes.flip(1) if e.c.flipped else codes
    lengths = prefix_lengths(codes.shape[1])
    decoded = (decode(e.tokenizer, codes[:, :m].contiguous()) for m in lengths)
    return [float((x - some).square().mean()) for x in decoded]


def _class_kept(e: Experiment, known: Judge) -> dict[str, float]:
    """How often a redrawn image shows the class of the image that gave its first m codes."""
    codes, source = e.test_codes.codes[:REDRAWN], e.test.labels[:REDRAWN]
    features, labels = known.train[:PROBED], e.images.labels[:PROBED]
    length = codes.shape[1]
    lengths = sorted({m for m in (1, 2, 3, 4, 6, 8, 12) if m < length} | {length})
    return {
        str(m): distances.linear_probe(features, labels, known.extract(redraw(e, codes, m)), source)
        for m in lengths
    }


@torch.inference_mode()
def encoder_outputs(e: Experiment, images: Tensor) -> Tensor:
    """Continuous vectors [N, T, d] of uint8 images, in the order in which the AR model reads."""
    parts = [e.tokenizer.features(to_float(x).to(e.device)).cpu() for x in images.split(1000)]
    return torch.cat(parts).flip(1) if e.c.flipped else torch.cat(parts)


@torch.inference_mode()
def code_vectors(e: Experiment, codes: np.ndarray) -> Tensor:
    """Quantized vectors [N, T, d] of codes [N, T], in the same order."""
    found, quantizer = rows(codes).to(e.device), e.tokenizer.quantizer
    if e.c.flipped:
        return quantizer.decode(found.flip(1)).flip(1).cpu()
    return quantizer.decode(found).cpu()
