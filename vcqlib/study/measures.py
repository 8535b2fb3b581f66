"""What a study measures of one arm: everything `experiments.metrics` has, and what takes longer.

The grids are the same for every arm, the control included, and are listed here: no arm is tuned
with more tries than another.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.image_sets import to_float
from ..entropy.estimates import conditional_entropy
from ..files import read_json, write_json
from ..metrics import distances as evaluation
from ..metrics import extractors
from ..training import inference
from . import cache
from . import experiments as ex
from .configuration import Experiment

TEMPERATURES = (0.7, 0.85, 1.0, 1.15)
GUIDANCE = (1.0, 1.5, 2.0, 3.0)  # constant classifier-free guidance scales
PROBED = 6000  # training images behind a linear probe on a CPU, at most; on a GPU all
REDRAWN = 1000  # held-out images whose last codes are drawn anew, at most
COMPARED = 2000  # held-out images that give the yardstick for copies, at most


def measure(e: Experiment, sweeps: bool = False) -> dict:
    """Metrics of one arm, cached; with `sweeps` also temperatures, guidance and probes."""
    name = extractors.default_extractor(e.dataset)
    inputs = {"arm": ex.fingerprint(e), "run": ex.ar(e).folder.name, "extractor": name}
    inputs |= {"sweeps": sweeps, "grids": [TEMPERATURES, GUIDANCE, PROBED, REDRAWN, COMPARED]}

    def build(folder: Path) -> None:
        write_json(folder / "measures.json", ex.metrics(e) | _measure(e, name, sweeps))

    sources = (
        *ex.METRIC_SOURCES,
        "entropy.estimates",
        "study.experiments",
        "study.measures",
        "metrics.probe",
    )
    return read_json(cache.stage("measures", inputs, sources, build) / "measures.json")


def _measure(e: Experiment, name: str, sweeps: bool) -> dict:
    extract = ex.extractor(e, name)
    reference, known = ex.features(e, "test", name), ex.features(e, "train", name)
    run = ex.ar(e)

    def gfd(model, **sampling) -> float:
        fake = extract(ex.generate(e, model, **sampling).images)
        return evaluation.frechet_distance(fake, reference)

    result: dict = {"curve": run.curve, "best_step": run.best_step}
    result["parameters"] = {
        "tokenizer": _count(ex.tokenizer(e)),
        "ar": _count(run.model),
        "vocabulary": run.model.config.vocabulary,
    }
    result |= _floors(e)
    result["gfd_by_step"] = {str(step): gfd(run.at(step)) for step in run.steps}
    drawn = ex.generate(e, run.model)
    features = extract(drawn.images)
    result["kid"] = evaluation.kernel_distance(features, reference)
    if isinstance(extract, extractors.ClassifierExtractor):
        result["class_score"] = evaluation.class_score(extract.probabilities(drawn.images))
    result["copies"] = _copies(e, drawn, features, reference, known)
    if sweeps:
        result["gfd_by_temperature"] = {str(t): gfd(run.model, temperature=t) for t in TEMPERATURES}
        result["gfd_by_guidance"] = {str(s): gfd(run.model, cfg_scale=s) for s in GUIDANCE}
        result["probe"] = _probes(e)
        result["prefix_mse"] = _prefix_errors(e)
        result["class_kept"] = _class_kept(e, name)
    return result


def _floors(e: Experiment) -> dict:
    """What knowing nothing costs: each code by its own frequency, and the mean training image."""
    codes = ex.codes(e).codes
    unigram = [
        conditional_entropy(np.ascontiguousarray(codes[:, [t]])).total_bits for t in range(e.length)
    ]
    mean = to_float(ex.images(e).images).mean(0)
    error = (to_float(ex.images(e, "test").images) - mean).square().mean()
    return {"unigram": unigram, "mean_image_mse": float(error)}


def _count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _copies(e: Experiment, drawn: ex.Samples, features, reference, known) -> dict:
    """Share of samples nearer to a training image than 99 % of the held-out images are."""
    test, train = ex.images(e, "test").images, ex.images(e).images
    found = {}
    for kind, samples, held_out, known_images in (
        ("features", features, reference[:COMPARED], known),
        ("pixels", drawn.images, test[:COMPARED], train),
    ):
        _, distance = evaluation.nearest_training(samples, known_images)
        _, usual = evaluation.nearest_training(held_out, known_images)
        found[kind] = evaluation.count_copies(distance, usual).fraction
        found[f"{kind}_distance"] = float(np.median(distance) / np.median(usual))
    sequences = {tuple(row) for row in ex.codes(e).codes.tolist()}
    found["codes"] = float(np.mean([tuple(row) in sequences for row in drawn.codes.tolist()]))
    return found


def _probes(e: Experiment) -> dict[str, list[float]]:
    """Accuracy of a linear probe on the first 1..T tokens, for three readings of a token."""
    train, test = ex.images(e), ex.images(e, "test")
    device, n = e.torch_device.type, len(train)
    n = min(n, PROBED) if device == "cpu" else n
    own, other = ex.codes(e).codes[:n], ex.codes(e, "test").codes
    y, y_test = train.labels[:n], test.labels
    readings = {
        "encoder outputs": (
            encoder_outputs(e, train.images[:n]),
            encoder_outputs(e, test.images),
        ),
        "code vectors": (code_vectors(e, own), code_vectors(e, other)),
        "one-hot codes": (own, other),
    }
    return {
        reading: evaluation.prefix_probe(x, y, x_test, y_test, device=device).tolist()
        for reading, (x, x_test) in readings.items()
    }


def _prefix_errors(e: Experiment) -> list[float]:
    """Mean squared error of held-out images decoded from their first 1..T tokens.

    In the tokenizer's order: for the reversed arm these are those of the arm it flips.
    """
    some = to_float(ex.images(e, "test").images[:COMPARED])
    rows = torch.from_numpy(ex.codes(e, "test").codes[:COMPARED].astype(np.int64))
    rows, model = rows.flip(1) if e.flipped else rows, ex.tokenizer(e)
    decoded = (inference.decode(model, rows[:, :m].contiguous()) for m in range(1, e.length + 1))
    return [float((x - some).square().mean()) for x in decoded]


def redraw(e: Experiment, codes: np.ndarray, m: int, draws: int = 1, seed: int = 0) -> Tensor:
    """uint8 images [B · draws, C, H, W] from the first m codes [B, T] and sampled other ones.

    The AR model is not told the class, so what comes out alike is what the prefix fixed.
    """
    model = ex.ar(e).model
    where = model.head.weight.device
    prefix = torch.from_numpy(codes[:, :m].astype(np.int64)).repeat_interleave(draws, 0).to(where)
    labels = torch.full((len(prefix),), model.null_label, device=where)
    generator = torch.Generator(where).manual_seed(seed)
    return ex.decode(e, model.generate(labels, generator=generator, prefix=prefix).cpu())


def _class_kept(e: Experiment, name: str) -> dict[str, float]:
    """How often a redrawn image shows the class of the image that gave its first m codes."""
    extract, train, test = ex.extractor(e, name), ex.images(e), ex.images(e, "test")
    known, y = ex.features(e, "train", name)[:PROBED], train.labels[:PROBED]
    codes, source = ex.codes(e, "test").codes[:REDRAWN], test.labels[:REDRAWN]
    lengths = sorted({m for m in (1, 2, 3, 4, 6, 8, 12) if m < e.length} | {e.length})
    return {
        str(m): evaluation.linear_probe(known, y, extract(redraw(e, codes, m)), source)
        for m in lengths
    }


@torch.inference_mode()
def encoder_outputs(e: Experiment, images: Tensor) -> Tensor:
    """Continuous vectors [N, T, d] of uint8 images, in the order in which the AR model reads."""
    model = ex.tokenizer(e)
    parts = [model.features(to_float(x).to(e.torch_device)).cpu() for x in images.split(1000)]
    return torch.cat(parts).flip(1) if e.flipped else torch.cat(parts)


@torch.inference_mode()
def code_vectors(e: Experiment, codes: np.ndarray) -> Tensor:
    """Quantized vectors [N, T, d] of codes [N, T], in the same order."""
    rows = torch.from_numpy(codes.astype(np.int64)).to(e.torch_device)
    quantizer = ex.tokenizer(e).quantizer
    if e.flipped:
        return quantizer.decode(rows.flip(1)).flip(1).cpu()
    return quantizer.decode(rows).cpu()
