"""`vcq train tokenizer`, `vcq encode`, `vcq train ar`: from images to a trained AR model.

The same command run again continues from the newest checkpoint in its folder; under torchrun the
work is shared between processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg, subcommand

from ..training.recipe import Recipe
from .shell import deferred

if TYPE_CHECKING:
    import torch

    from ..data.code_store import CodeStore
    from ..models.autoregressive import ARModel

Device = Literal["auto", "cpu", "cuda"]
Layout = Literal["image-major", "position-major"]
TOKENIZER = Recipe(3000, 128, lr=2e-3, validate_every=500, sample_every=500)
AR = Recipe(
    1000, 64, lr=2e-3, betas=(0.9, 0.96), weight_decay=0.03, validate_every=250, sample_every=250
)
TOO_LARGE = "out of memory beside the steps: choose a smaller --model"
HELD_OUT = 5000  # rows of held-out codes that are measured, at most


def train_tokenizer(
    out: Path = Path("runs/tokenizer"),
    dataset: str = "fashion-mnist",
    n_images: int | None = None,
    image_size: int | None = None,
    augment: bool = False,
    held_out: int = 2000,
    model: str = "mlp",
    schedule: str = "loglinear",
    length: int | None = None,
    k_max: int = 256,
    k_min: int = 2,
    ramp: int | None = None,
    power: float = 1.0,
    of: str = "loglinear",
    sizes: tuple[int, ...] = (),
    code_dim: int = 8,
    balance: bool = True,
    codebook_ema: float = 0.0,
    revive: int = 0,
    backbone: str = "vgg16",
    backbone_weights: Path | None = None,
    workers: int = 0,
    device: Device = "auto",
    recipe: Annotated[Recipe, arg(name="")] = TOKENIZER,
    config: Path | None = None,
) -> None:
    """Train a tokenizer: image → T codes → image.

    Args:
        out: the run's folder; if it holds a checkpoint of this run, training goes on from there.
        dataset: a name (fashion-mnist, cifar10, digits …), folder:PATH, parquet:PATH (a copy from
            Hugging Face) or synthetic:SIZExCHANNELS.
        n_images: training images; default: all.
        image_size: side in pixels to which images are cut; parquet: needs it.
        augment: random crops and mirror images.
        held_out: images of the test split on which the error is measured; 0: none.
        model: size: mlp, mlp-tiny, vit-tiny, vit-s, vit-b or vit-l.
        schedule: how K_t grows: uniform, loglinear, doubling, linear, quadratic, cosine; or a
            control: matched, reversed.
        length: positions T; default: 16, or as many as `sizes` has.
        k_max: rows of the codebook, and the largest K_t.
        k_min: the smallest K_t.
        ramp: position at which K_max is reached; default: the last.
        power: exponent of the log-linear ramp.
        of: the schedule whose mean rate `matched` takes, or that `reversed` flips.
        sizes: K_1 … K_T themselves, in place of a schedule.
        code_dim: width of a code vector.
        balance: keep positions with few codes from collapsing (centred, scaled vectors).
        codebook_ema: decay of a moving average that moves the codes in place of the gradient.
        revive: batches after which an unused code takes a vector of the batch; 0: never.
        backbone: torchvision network of the perceptual loss (--losses.perceptual).
        backbone_weights: file with that network's weights.
        workers: processes that decode images.
        device: auto takes a GPU if there is one.
        config: YAML file with values for these options; what the command line says wins.
    """
    import torch

    from ..data.batches import open_images, read_images
    from ..data.image_sets import ImageSet
    from ..models.tokenizer import PRESETS, Tokenizer, TokenizerConfig
    from ..study.run_folder import run_folder
    from ..theory.schedules import codebook_sizes
    from ..training import loops as training
    from ..training.distributed import processes
    from ..training.losses import Backbone
    from ..training.run import memory_advice

    preset = _preset("tokenizer", model, PRESETS)
    length = len(sizes) or 16 if length is None else length
    k = codebook_sizes(sizes or schedule, length, k_max, k_min, ramp, power, of)
    if recipe.losses.perceptual and backbone_weights is None:
        raise ValueError("--losses.perceptual needs --backbone-weights FILE")
    with processes(device) as place, memory_advice(TOO_LARGE):
        data = open_images(dataset, n_images, image_size, augment)
        images = data.images if isinstance(data, ImageSet) else data
        channels, size = (images.shape[1], images.shape[-1]) if images is not data else (
            data.channels, data.size)  # fmt: skip
        settings = TokenizerConfig(
            tuple(k.tolist()), k_max, size, channels, code_dim, balance,
            codebook_ema=codebook_ema, revive=revive, **preset,
        )  # fmt: skip
        test = read_images(dataset, "test", held_out, size).images if held_out else None
        features = None
        if recipe.losses.perceptual:
            features = Backbone(backbone, backbone_weights).to(place)
        torch.manual_seed(recipe.seed)
        net = Tokenizer(settings).to(place)
        about = {
            "tokenizer": settings.to_dict(),
            "data": {"dataset": dataset, "n_images": n_images, "image_size": size,
                     "images": len(data), "augment": augment, "classes": list(data.classes)},
        }  # fmt: skip
        with run_folder(out, "tokenizer", about, recipe, place) as finish:
            if finish:
                origin = about["data"]
                args = (net, images, recipe, out, test, features, workers, origin)
                finish(training.train_tokenizer(*args))


def encode(
    tokenizer: Path = Path("runs/tokenizer"),
    out: Path = Path("runs/codes"),
    dataset: str | None = None,
    split: Literal["train", "test"] = "train",
    ten_crop: bool = False,
    reverse: bool = False,
    layout: Layout = "image-major",
    batch: int = 256,
    workers: int = 0,
    device: Device = "auto",
    config: Path | None = None,
) -> None:
    """Encode a data set once: codes [N, T], labels, and a sidecar that says where they are from.

    Codes are written as they come; neither images nor codes are held in memory.

    Args:
        tokenizer: folder of a tokenizer's run.
        out: folder of the codes.
        dataset: as for `vcq train tokenizer`; default: what the tokenizer was trained on.
        split: train, or test for held-out codes.
        ten_crop: ten rows an image: corners, centre, and their mirror images.
        reverse: write the last position first: the control of order.
        layout: image-major is fast to train from, position-major to measure entropies.
        batch: images encoded at once.
        workers: processes that decode images.
        device: auto takes a GPU if there is one.
        config: YAML file with values for these options; what the command line says wins.
    """
    import torch

    from ..data.batches import open_source, stream
    from ..data.code_store import code_writer
    from ..data.order import Part
    from ..progress import bar
    from ..study.run_folder import load_tokenizer, read_config, weights_digest
    from ..training.distributed import processes
    from ..training.loops import encode_batch
    from ..training.run import memory_advice

    if batch < 1 or workers < 0:
        raise ValueError(f"need batch >= 1 and workers >= 0, got {batch} and {workers}")
    trained = read_config(tokenizer, "tokenizer")["data"]
    named = dataset or trained["dataset"]
    own = split == "train" and named == trained["dataset"]
    with processes(device) as place, memory_advice(fewer(batch)):
        model = load_tokenizer(tokenizer, place)
        count = trained["n_images"] if own else None
        size = model.config.image_size
        source = open_source(named, split, count, size, "ten" if ten_crop else "centre")
        sizes = model.config.codebook_sizes
        info = {
            "tokenizer": {"sha256": weights_digest(tokenizer), **model.config.to_dict()},
            "data": {"dataset": named, "split": split, "n_images": count, "image_size": size},
            "crop": source.crop, "reversed": reverse, "classes": list(source.classes),
        }  # fmt: skip
        parts = [Part(0, rows) for rows in torch.arange(len(source)).split(batch)]
        sizes = sizes[::-1] if reverse else sizes
        with code_writer(out, len(source), sizes, info, layout) as writer:
            images = stream(source, parts, workers=workers)
            for part, pixels in zip(bar(parts, "encoding"), images, strict=True):
                codes = encode_batch(model, pixels.to(place)).cpu().numpy()
                writer.append(codes[:, ::-1] if reverse else codes, source.labels[part.rows])
    print(f"{out}: {len(source):,} rows of {len(sizes)} codes, {source.crop} crop")


def train_ar(
    codes: Path = Path("runs/codes"),
    out: Path = Path("runs/ar"),
    held_out: Path | None = None,
    tokenizer: Path | None = None,
    model: str = "tiny",
    dropout: float = 0.1,
    label_dropout: float = 0.1,
    restricted_head: bool = False,
    device: Device = "auto",
    recipe: Annotated[Recipe, arg(name="")] = AR,
    config: Path | None = None,
) -> None:
    """Train an AR model on codes: class and the codes before → the next code.

    Args:
        codes: folder that `vcq encode` wrote.
        out: the run's folder; if it holds a checkpoint of this run, training goes on from there.
        held_out: folder with codes of held-out images, whose bits by position are logged.
        tokenizer: the tokenizer's run folder; with it pictures are drawn on the way.
        model: size: nano, tiny, small, B, L or XL.
        dropout: share of activations dropped in training.
        label_dropout: share of labels dropped in training, which guidance needs.
        restricted_head: position t computes and learns its first K_t codes only.
        device: auto takes a GPU if there is one.
        config: YAML file with values for these options; what the command line says wins.
    """
    import torch

    from ..data.code_store import open_codes, resident
    from ..models.autoregressive import PRESETS, ARConfig, ARModel
    from ..study.run_folder import run_folder
    from ..training import loops as training
    from ..training.distributed import processes
    from ..training.run import memory_advice

    preset = _preset("AR model", model, PRESETS)
    if recipe.losses != AR.losses:
        raise ValueError("--losses.… are options of `vcq train tokenizer`")
    store = open_codes(codes)
    test = _measured(store, held_out, codes) if held_out else None
    with processes(device) as place, memory_advice(TOO_LARGE):
        info = store.info
        settings = ARConfig(
            store.sizes, info["tokenizer"]["num_codes"], len(info["classes"]),
            dropout=dropout, label_dropout=label_dropout, restricted_head=restricted_head,
            **preset,
        )  # fmt: skip
        torch.manual_seed(recipe.seed)
        net = ARModel(settings).to(place)
        draw = _artist(tokenizer, store, place) if tokenizer else None
        about = {"ar": settings.to_dict(), "codes": info}
        with run_folder(out, "ar", about, recipe, place) as finish:
            if finish:
                rows, labels = resident(store, place), torch.from_numpy(store.labels)
                options = {"held_out": test, "draw": draw, "origin": info}
                finish(training.train_ar(net, rows, labels, recipe, out, **options))


def _measured(store: CodeStore, folder: Path, codes: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Held-out codes and labels, refused if another tokenizer wrote them."""
    import numpy as np
    import torch

    from ..data.code_store import open_codes

    test = open_codes(folder)
    theirs, ours = (s.info["tokenizer"]["sha256"][:12] for s in (test, store))
    if theirs != ours:
        raise ValueError(f"{folder} was encoded by tokenizer {theirs}, {codes} by {ours}")
    if test.info["reversed"] != store.info["reversed"]:
        raise ValueError(f"one of {folder} and {codes} is reversed: encode both with --reverse")
    chosen = np.random.default_rng(0).permutation(len(test.codes))[:HELD_OUT]
    rows = test.codes[chosen].astype(np.int64)
    return torch.from_numpy(rows), torch.from_numpy(test.labels[chosen])


def _artist(folder: Path, store: CodeStore, device: torch.device) -> Any:
    """A function that draws sixteen samples of an AR model as uint8 images."""
    import torch

    from ..study.run_folder import check_tokenizer, load_tokenizer
    from ..study.sampling import draw

    check_tokenizer(folder, store.info)
    decoder = load_tokenizer(folder, device)

    def artist(model: ARModel) -> torch.Tensor:
        labels = torch.arange(16) % model.config.classes
        return draw(model, decoder, labels, reverse=store.info["reversed"]).images

    return artist


def fewer(batch: int) -> str:
    """What to try when so many images at once do not fit into memory."""
    if batch == 1:
        return "out of memory with one image at a time: it needs a larger GPU, or --device cpu"
    return f"out of memory with {batch} images at a time: try --batch {batch // 2}"


def _preset(kind: str, name: str, presets: dict[str, dict]) -> dict:
    from ..data.vendored import unknown_name

    if name not in presets:
        raise unknown_name(kind, name, presets)
    return presets[name]


def train(
    what: Annotated[
        Annotated[Any, subcommand("tokenizer", constructor=deferred(train_tokenizer))]
        | Annotated[Any, subcommand("ar", constructor=deferred(train_ar))],
        arg(name=""),
    ],
) -> None:
    """Train a tokenizer, or an AR model on its codes."""
    what()
