"""`vcq sample` and `vcq evaluate`: pictures from a trained AR model, and how good they are."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from tyro.conf import Positional

from ..files import atomic_path, write_json
from ..progress import bar
from .training import Device, fewer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

SHEET = 64  # samples shown in the picture


def sample(
    ar: Path = Path("runs/ar"),
    tokenizer: Path = Path("runs/tokenizer"),
    out: Path = Path("runs/samples.npz"),
    n_samples: int = 1000,
    first: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    cfg_scale: float = 1.0,
    guidance: Literal["constant", "cosine"] = "constant",
    guidance_power: float = 1.75,
    seed: int = 0,
    batch: int = 64,
    device: Device = "auto",
    config: Path | None = None,
) -> None:
    """Draw pictures, the classes in turn, into an .npz (ADM's layout) and a sheet beside it.

    Sample i depends on the seed and on i alone: several processes may draw a part each.

    Args:
        ar: folder of the AR model's run.
        tokenizer: folder of the run of the tokenizer that wrote its codes.
        out: file.npz: arr_0 uint8 [n, H, W, C], arr_1 labels, codes; and file.png.
        n_samples: pictures to draw.
        first: number of the first one.
        temperature: below 1 prefers likely codes; 0 takes the most likely.
        top_k: draw from the most likely codes only; 0: from all.
        top_p: draw from the smallest set of codes with this mass.
        cfg_scale: classifier-free guidance; 1: none.
        guidance: the same scale at every position, or rising with a cosine.
        guidance_power: of the cosine.
        seed: of the draws.
        batch: pictures drawn at once.
        device: auto takes a GPU if there is one.
        config: YAML file with values for these options; what the command line says wins.
    """
    from ..data.image_sets import write_sheet
    from ..study.run_folder import check_tokenizer, load_ar, load_tokenizer, read_config
    from ..study.sampling import batches, draw
    from ..training.distributed import processes
    from ..training.run import memory_advice

    if n_samples < 1 or batch < 1 or first < 0:
        raise ValueError(f"need n_samples, batch >= 1, first >= 0: {n_samples}, {batch}, {first}")
    info = read_config(ar, "ar")["codes"]
    check_tokenizer(tokenizer, info)
    sampling = {
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "cfg_scale": cfg_scale,
        "guidance": guidance, "guidance_power": guidance_power,
    }  # fmt: skip
    with processes(device) as place, memory_advice(fewer(batch)):
        model, decoder = load_ar(ar, place), load_tokenizer(tokenizer, place)
        c = decoder.config
        parts = list(batches(first, n_samples, model.config.classes, batch))
        with atomic_path(out.with_suffix(".images.npy")) as raw:
            shape = (n_samples, c.image_size, c.image_size, c.channels)
            images = np.lib.format.open_memmap(raw, "w+", np.uint8, shape)
            codes, labels = [], []
            for start, wanted in bar(parts, "sampling"):
                drawn = draw(model, decoder, wanted, seed, start, info["reversed"], **sampling)
                place_in = slice(start - first, start - first + len(wanted))
                images[place_in] = drawn.images.permute(0, 2, 3, 1).numpy()
                codes.append(drawn.codes.numpy())
                labels.append(wanted.numpy())
                if start == first:
                    write_sheet(out.with_suffix(".png"), drawn.images[:SHEET])
            images.flush()
            _write_npz(out, raw, arr_1=np.concatenate(labels), codes=np.concatenate(codes))
        out.with_suffix(".images.npy").unlink()
    asked = {"ar": str(ar), "tokenizer": str(tokenizer), "n": n_samples, "seed": seed, **sampling}
    write_json(out.with_suffix(".json"), asked | {"first": first, "codes": info})
    print(f"{out}: {n_samples:,} samples; {out.with_suffix('.png')}: the first of them")


def _write_npz(path: Path, images: Path, **arrays: np.ndarray) -> None:
    """An .npz whose arr_0 is a .npy file already on disk, which may be larger than memory."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.write(images, "arr_0.npy")
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


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
    config: Path | None = None,
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
        device: auto takes a GPU if there is one.
        config: YAML file with values for these options; what the command line says wins.
    """
    from ..data.batches import read_images
    from ..files import read_json
    from ..metrics import distances as evaluation
    from ..metrics import extractors
    from ..training.distributed import processes

    if not samples:
        raise ValueError("give the .npz files to evaluate")
    for path in samples:
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist")
    beside = samples[0].with_suffix(".json")
    if dataset is None and reference is None:
        if not beside.is_file():
            raise ValueError(f"{samples[0]} does not say its data set: give --dataset")
        dataset = read_json(beside)["codes"]["data"]["dataset"]
    name = extractor or ("inception" if reference else extractors.default_extractor(dataset))
    if reference and name != "inception":
        raise ValueError(f"a reference file holds Inception moments, not those of {name!r}")
    with processes(device) as place:
        extract = extractors.load_extractor(name, str(place), weights)
        parts, shape = [], (0, 0, 0)
        for images in _read_samples(samples):
            parts.append(extract(images))
            shape = images.shape[1:]
        made = np.concatenate(parts)
        real = None
        if dataset is not None:
            held_out = read_images(dataset, "test", n_reference, image_size or shape[-1]).images
            if len(held_out[0]) != shape[0]:
                raise ValueError(
                    f"{dataset} has images of {len(held_out[0])} channels, the samples have "
                    f"{shape[0]}: give the data set that they imitate"
                )
            real = extract(held_out)
    rows: dict[str, float | int | str] = {"extractor": extract.label, "samples": len(made)}
    moments = evaluation.moments(made, "samples")
    if reference:
        known = evaluation.load_moments(reference)
        rows["FID"] = evaluation.frechet_from_moments(moments, known)
        rows["reference"] = reference.name
    if real is not None:
        label = "FD (Inception, own reference)" if name == "inception" else extract.label
        rows[label] = evaluation.frechet_distance(made, real)
        rows["reference images"] = len(real)
        n, width = min(len(made), len(real) // 2), real.shape[1]
        floor: float | str = f"needs more than {2 * width} reference images"
        if n > width:
            floor = evaluation.real_real_floor(real, n)
        rows[f"real/real floor at {n} images"] = floor
        rows["kernel distance"] = evaluation.kernel_distance(made, real)
        few = min(len(made), len(real))
        precision, recall = evaluation.precision_recall(real[:few], made[:few])
        rows |= {"precision": precision, "recall": recall}
    else:
        rows["real/real floor"] = "unknown: a reference file holds no images; give --dataset too"
    for what, value in rows.items():
        print(f"{what:32} {value:.4f}" if isinstance(value, float) else f"{what:32} {value}")
    if json is not None:
        write_json(json, rows)


def _read_samples(paths: tuple[Path, ...]) -> Iterator[Tensor]:
    """uint8 [n, C, H, W] of each file.

    Raises:
        ValueError: no .npz file, or one without arr_0 uint8 [n, H, W, C].
    """
    import torch

    for path in paths:
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path} is no .npz file, or was cut short")
        with np.load(path, allow_pickle=False) as file:
            if "arr_0" not in file.files:
                raise ValueError(f"{path} has no arr_0, only {', '.join(file.files) or 'nothing'}")
            images = file["arr_0"]
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(f"{path}: arr_0 must be uint8 [n, H, W, C], got {images.dtype} "
                             f"{images.shape}")  # fmt: skip
        yield torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
