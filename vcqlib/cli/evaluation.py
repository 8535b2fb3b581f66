"""`vcq evaluate` and `vcq sweep`: how good samples are, and which setting draws the best."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import Positional, arg

from ..checks import integer
from ..data.image_sets import Part
from ..files import read_json, write_json
from .options import ConfigFile, configured, options
from .sampling import AR_FOLDER, TOKENIZER_FOLDER, read_models
from .training import Device, fewer

if TYPE_CHECKING:
    from ..data.image_sets import ImageSet

SweepOptions = options("sampling", "seed", "device", without=("temperature", "cfg_scale"))


def evaluate(
    samples: Positional[tuple[Path, ...]],
    dataset: str | None = None,
    image_size: int | None = None,
    n_reference: int = 10_000,
    part: Part = "test",
    reference: Path | None = None,
    extractor: str | None = None,
    weights: Path | None = None,
    json: Path | None = None,
    device: Device = "auto",
    config: ConfigFile = None,
) -> None:
    """Compare samples with real held-out images: Fréchet and kernel distance, precision, recall.

    A distance is called FID only with the Inception network and a published reference file;
    everything else says what it is. The real/real floor is what equally many real images score.
    With a reference batch of ADM's: Inception score, FID, sFID, precision and recall by its rules.

    Args:
        samples: .npz files that `vcq sample` wrote, or with arr_0 uint8 [n, H, W, C].
        dataset: its held-out images are the reference; default: what the tokenizer was trained on.
        image_size: side in pixels of the reference images; default: that of the samples.
        n_reference: held-out images, at most, of which `part` is taken; as many as for the sweep,
            or halves of one and the other overlap.
        part: the half to report on (test), the half by which `vcq sweep` and `vcq train ar` choose
            (validation), or all of them.
        reference: .npz in place of images: ADM's batch for ImageNet 256, or mu and sigma alone.
        extractor: classifier, pixels, efficientnet-lite0 or inception; default: by data set.
        weights: the Inception weights (torch-fidelity's pt_inception-2015-12-05 file).
        json: write the numbers to this file too.
    """
    import torch

    from ..metrics import adm, extractors
    from ..metrics import distances as evaluation
    from ..study.samples import read_samples
    from ..study.scores import everything_of, features_of
    from ..training.distributed import processes, rank

    if not samples:
        raise ValueError("give the .npz files to evaluate")
    drawn = [read_samples(path).images for path in samples]
    channels, _, size = drawn[0].shape[1:]
    imitated = dataset is None and reference is None  # in as many channels as the samples, then
    if imitated:
        if not (beside := samples[0].with_suffix(".json")).is_file():
            raise ValueError(f"{samples[0]} does not say its data set: give --dataset")
        dataset = read_json(beside)["codes"]["data"]
    name = extractor or ("inception" if reference else extractors.default_extractor(dataset))
    if reference and name != "inception":
        raise ValueError(f"a reference file holds Inception moments, not those of {name!r}")
    # what is not there is said before the network has looked at anything
    batch = adm.load_reference(reference) if reference else None
    like = image_size or size, channels if imitated else None
    held_out = _held_out(dataset, part, n_reference, channels, *like) if dataset else None
    with processes(device) as place:
        extract = extractors.load_extractor(name, str(place), weights)
        seen = pictures = None
        if name == "inception":
            seen = adm.joined(everything_of(extract, x) for x in drawn)
        made = seen.pooled if seen else np.concatenate([features_of(extract, x) for x in drawn])
        if batch and batch.images is not None:
            pictures = everything_of(extract, torch.from_numpy(batch.images))
        real = features_of(extract, held_out) if dataset else None
        if rank():
            return
    rows: dict[str, float | int | str] = {"extractor": extract.label, "samples": len(made)}
    evaluation.moments(made, "samples")  # refused by that name if they are too few
    if batch:
        rows |= adm.scores(seen, batch, pictures) | {"reference": reference.name}
    elif seen:
        rows["Inception score"] = adm.inception_score(seen.probabilities)
    if real is not None:
        label = "FD (Inception, own reference)" if name == "inception" else extract.label
        rows[label] = evaluation.frechet_distance(made, real)
        rows["reference images"] = len(real)
        rows["kernel distance"] = evaluation.kernel_distance(made, real)
        if pictures is None:
            few = min(len(made), len(real))
            rows |= evaluation.precision_recall(real[:few], made[:few])._asdict()
    known = real if real is not None else pictures and pictures.pooled
    rows |= _floor(len(made), known)
    if json is not None:
        write_json(json, rows)
    for what, value in rows.items():
        print(f"{what:32} {value:.4f}" if isinstance(value, float) else f"{what:32} {value}")


def _held_out(
    dataset: str, part: Part, n: int, channels: int, size: int, wanted: int | None
) -> Any:
    """The held-out images uint8 [N, C, H, W] of a data set, in as many channels as the samples."""
    from ..data.image_sets import load_images

    like = {"image_size": size, "channels": wanted}
    found: ImageSet = load_images(dataset, "test", at_most=n, **like).part(part)
    if found.channels != channels:
        raise ValueError(
            f"{dataset} has images of {found.channels} channels, the samples have {channels}: give "
            "the data set that they imitate"
        )
    return found.images


def _floor(made: int, real: np.ndarray | None) -> dict[str, float | str]:
    """What as many real images as there are samples score."""
    from ..metrics.distances import real_real_floor

    if real is None:
        return {"real/real floor": "unknown: the reference has no images; give --dataset too"}
    n, width = min(made, len(real) // 2), real.shape[1]
    found = real_real_floor(real, n) if n > width else f"needs more than {2 * width} real images"
    return {f"real/real floor at {n} images": found}


def sweep(
    ar_folder: Path = AR_FOLDER,
    tokenizer_folder: Path = TOKENIZER_FOLDER,
    pretrained: str | None = None,
    out: Path = Path("runs/sweep"),
    cfg_scales: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0),
    temperatures: tuple[float, ...] = (0.7, 0.85, 1.0, 1.15),
    dataset: str | None = None,
    n_reference: int = 10_000,
    extractor: str | None = None,
    weights: Path | None = None,
    batch: int = 64,
    settings: Annotated[SweepOptions, arg(name="")] = SweepOptions(),  # noqa: B008
    config: ConfigFile = None,
) -> None:
    """Choose guidance and temperature by the Fréchet distance to validation images.

    Validation images are one half of the held-out ones; `vcq evaluate` reports on the other.
    Finished points are kept in OUT/sweep.json: the same command again, or one with a larger grid,
    goes on from there. Under torchrun the processes share the drawing.

    Args:
        ar_folder: folder of the AR model's run.
        tokenizer_folder: folder of the run of the tokenizer that wrote its codes.
        pretrained: in place of both, a model of Fashion-MNIST that comes with vcqlib: uniform,
            doubling, loglinear or matched.
        out: folder of the sweep.
        cfg_scales: scales of classifier-free guidance; 1: none.
        temperatures: temperatures of sampling.
        dataset: whose held-out images are imitated; default: what the tokenizer was trained on.
        n_reference: held-out images, at most, of which validation is one half.
        extractor: classifier, pixels, efficientnet-lite0 or inception; default: by data set.
        weights: the Inception weights (torch-fidelity's pt_inception-2015-12-05 file).
        batch: pictures drawn at once.
    """
    from ..metrics import extractors
    from ..study import scores
    from ..study.tuning import FILE, grid
    from ..study.tuning import sweep as go
    from ..training.distributed import processes, rank
    from ..training.inference import in_precision
    from ..training.run import memory_advice

    c = configured(settings)
    integer(batch, "--batch", 1)
    points = grid(cfg_scales, temperatures)
    if not points:
        raise ValueError("a sweep needs at least one of --cfg-scales and one of --temperatures")
    for point in points:
        c.changed(**point._asdict())  # refused before anything is drawn
    with processes(c.device) as place, memory_advice(fewer(batch)):
        given = read_models(place, ar_folder, tokenizer_folder, pretrained)
        decoder, shape = given.decoder, given.decoder.config
        if not given.model.config.label_dropout and any(scale != 1 for scale in cfg_scales):
            raise ValueError("guidance needs a model trained with label dropout, this one had none:"
                             " give --cfg-scales 1")  # fmt: skip
        named, n = dataset or given.codes["data"], c.sampling.n_samples
        name = extractor or extractors.default_extractor(named)
        extract = extractors.load_extractor(name, str(place), weights)
        like = shape.channels, shape.image_size, None if dataset else shape.channels
        real = scores.features_of(extract, _held_out(named, "validation", n_reference, *like))
        scores.enough(n, real, extract)
        how = {f.name: getattr(c.sampling, f.name) for f in fields(c.sampling)
               if f.name not in (*points[0]._fields, "n_samples")}  # fmt: skip
        model = in_precision(given.model, given.precision)
        about = {**_names(given.asked), **how, "n_samples": n, "seed": c.seed, "dataset": named,
                 "images": len(real), "extractor": name}  # fmt: skip

        def draw(point: Any) -> np.ndarray:
            more = {**how, **point._asdict(), "flipped": given.codes["reversed"]}
            return scores.features_of_samples(extract, model, decoder, n, batch, c.seed, **more)

        found = go(out, about, points, draw, lambda made: scores.compared(made, real))
        if rank():
            return
    kind = extract.label.replace("FID", "FD (Inception, own reference)")
    print(f"{out / FILE}: {kind} of {n:,} samples to {len(real):,} validation images")
    print(_table(found))
    best = min(found, key=lambda point: found[point]["distance"])
    changed = {k: v for k, v in how.items() if v != getattr(type(c)().sampling, k)}
    folders = {f"{k}_folder" if k != "pretrained" else k: v for k, v in given.asked.items()}
    words = ["vcq", "sample", *_flags(folders | best._asdict() | changed)]
    told = {"dataset": dataset, "extractor": extractor, "weights": weights}
    halved = {"part": "test", "n_reference": n_reference}  # the other half of the same images
    again = _flags(halved | {k: v for k, v in told.items() if v is not None})
    print(f"chosen: cfg_scale {best.cfg_scale:g}, temperature {best.temperature:g}. Other samples "
          "with it, and their score on images that chose nothing:")  # fmt: skip
    print(shlex.join([*words, "--seed", str(c.seed + 1)]))
    print(shlex.join(["vcq", "evaluate", "runs/samples.npz", *again]))


def _flags(values: dict[str, Any]) -> list[str]:
    """{"top_k": 4} as command-line words."""
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in values.items())
    return [word for pair in pairs for word in pair]


def _names(asked: dict[str, str]) -> dict[str, str]:
    """Which models: folders by their weights, which tell equal ones from others."""
    from ..study.folder import weights_digest

    return {k: v if k == "pretrained" else weights_digest(Path(v)) for k, v in asked.items()}


def _table(found: dict) -> str:
    """Distances, a row a guidance scale and a column a temperature."""
    import pandas as pd

    rows = [{**point._asdict(), **scores} for point, scores in found.items()]
    table = pd.DataFrame(rows).pivot(index="cfg_scale", columns="temperature", values="distance")
    return table.to_string(float_format="{:.4g}".format)
