"""`vcq sample` and `vcq evaluate`: pictures from a trained AR model, and how good they are."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from tyro.conf import Positional, arg

from ..checks import integer, must
from ..files import write_json
from .options import ConfigFile, configured, options
from .training import Device, fewer, load_decoder

if TYPE_CHECKING:
    from torch import Tensor

SamplingOptions = options("sampling", "seed", "device")


AR_FOLDER, TOKENIZER_FOLDER = Path("runs/ar"), Path("runs/tokenizer")


def sample(
    ar_folder: Path = AR_FOLDER,
    tokenizer_folder: Path = TOKENIZER_FOLDER,
    pretrained: str | None = None,
    out: Path = Path("runs/samples.npz"),
    first: int = 0,
    batch: int = 64,
    compile: bool = False,
    settings: Annotated[SamplingOptions, arg(name="")] = SamplingOptions(),  # noqa: B008
    config: ConfigFile = None,
) -> None:
    """Draw pictures, the classes in turn, into an .npz (ADM's layout) and a sheet beside it.

    Sample i depends on the seed and on i alone: under torchrun each process draws its share.

    Args:
        ar_folder: folder of the AR model's run.
        tokenizer_folder: folder of the run of the tokenizer that wrote its codes.
        pretrained: in place of both, a model of Fashion-MNIST that comes with vcqlib: uniform,
            loglinear or matched.
        out: file.npz: arr_0 uint8 [n, H, W, C], arr_1 labels, codes; and file.png.
        first: number of the first one.
        batch: pictures drawn at once.
        compile: compile the work of a position; pays for itself after some hundred pictures.
    """
    from ..models.autoregressive import ARModel
    from ..study.folder import load_model, read_config
    from ..study.pretrained import load_pretrained, read_card
    from ..study.samples import write_samples
    from ..training.distributed import processes, rank
    from ..training.run import memory_advice

    c = configured(settings)
    integer(batch, "--batch", 1)
    integer(first, "--first", 0)
    if pretrained is not None:
        own = (ar_folder, tokenizer_folder) == (AR_FOLDER, TOKENIZER_FOLDER)
        must(own, "--pretrained", "alone, without folders of models", repr(pretrained))
        info, asked = read_card(pretrained)["codes"], {"pretrained": pretrained}
        precision = "auto"
    else:
        trained = read_config(ar_folder, ARModel)
        info, precision = trained["codes"], trained["configuration"].get("ar_precision", "auto")
        asked = {"ar": str(ar_folder), "tokenizer": str(tokenizer_folder)}
    how = {f.name: getattr(c.sampling, f.name) for f in fields(c.sampling)}
    n = how.pop("n_samples")
    with processes(c.device) as place, memory_advice(fewer(batch)):
        if pretrained is not None:
            given = load_pretrained(pretrained, place)
            decoder, model = given.tokenizer, given.ar
        else:
            decoder = load_decoder(tokenizer_folder, info, place)
            model = load_model(ar_folder, ARModel, place)
        how |= {"seed": c.seed, "flipped": info["reversed"]}
        write_samples(out, model, decoder, n, first, batch, precision=precision,
                      compiled=compile, **how)  # fmt: skip
        if rank() == 0:
            asked |= {"n": n, **how, "first": first, "codes": info}
            write_json(out.with_suffix(".json"), asked)
            print(f"{out}: {n:,} samples; {out.with_suffix('.png')}: the first of them")


def evaluate(
    samples: Positional[tuple[Path, ...]],
    dataset: str | None = None,
    image_size: int | None = None,
    n_reference: int = 10_000,
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

    Args:
        samples: .npz files that `vcq sample` wrote, or with arr_0 uint8 [n, H, W, C].
        dataset: its held-out images are the reference; default: what the tokenizer was trained on.
        image_size: side in pixels of the reference images; default: that of the samples.
        n_reference: reference images, at most.
        reference: .npz with mu and sigma (ADM's for ImageNet 256) in place of images.
        extractor: classifier, pixels, efficientnet-lite0 or inception; default: by data set.
        weights: the Inception weights (torch-fidelity's pt_inception-2015-12-05 file).
        json: write the numbers to this file too.
    """
    from ..data.image_sets import load_images
    from ..files import read_json
    from ..metrics import distances as evaluation
    from ..metrics import extractors
    from ..study.samples import read_samples
    from ..training.distributed import joined, processes, rank, share

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
    with processes(device) as place:
        extract = extractors.load_extractor(name, str(place), weights)

        def features(images: Tensor) -> np.ndarray:
            """Of each process's share, joined."""
            mine = share(len(images))
            return joined(extract(images[mine.start : mine.stop]))

        made, real = np.concatenate([features(x) for x in drawn]), None
        if dataset is not None:
            like = {"image_size": image_size or size, "channels": channels if imitated else None}
            held_out = load_images(dataset, "test", at_most=n_reference, **like)
            if held_out.channels != channels:
                raise ValueError(
                    f"{dataset} has images of {held_out.channels} channels, the samples have "
                    f"{channels}: give the data set that they imitate"
                )
            real = features(held_out.images)
        if rank():
            return
    rows: dict[str, float | int | str] = {"extractor": extract.label, "samples": len(made)}
    moments = evaluation.moments(made, "samples")  # refused by that name if they are too few
    if reference:
        rows["FID"] = evaluation.frechet_from_moments(moments, evaluation.load_moments(reference))
        rows["reference"] = reference.name
    if real is not None:
        label = "FD (Inception, own reference)" if name == "inception" else extract.label
        rows[label] = evaluation.frechet_distance(made, real)
        rows["reference images"] = len(real)
        n, width = min(len(made), len(real) // 2), real.shape[1]
        rows[f"real/real floor at {n} images"] = (
            evaluation.real_real_floor(real, n) if n > width
            else f"needs more than {2 * width} reference images"
        )  # fmt: skip
        rows["kernel distance"] = evaluation.kernel_distance(made, real)
        few = min(len(made), len(real))
        both = evaluation.precision_recall(real[:few], made[:few])
        rows |= both._asdict()
    else:
        rows["real/real floor"] = "unknown: a reference file holds no images; give --dataset too"
    if json is not None:
        write_json(json, rows)
    for what, value in rows.items():
        print(f"{what:32} {value:.4f}" if isinstance(value, float) else f"{what:32} {value}")
