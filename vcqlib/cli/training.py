"""`vcq train tokenizer`, `vcq encode`, `vcq train ar`: from images to a trained AR model.

The same command run again continues from the newest checkpoint in its folder; under torchrun the
work is shared between processes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg, subcommand

from ..checks import integer
from .options import ConfigFile, configured, options
from .shell import deferred

if TYPE_CHECKING:
    import torch

    from ..data.code_store import CodeStore
    from ..models.autoregressive import ARModel
    from ..models.tokenizer import Tokenizer
    from ..study.configuration import Configuration
    from ..study.scores import Watch

Device = Annotated[Literal["auto", "cpu", "cuda"], arg(help="auto takes a GPU if there is one")]
Layout = Literal["image-major", "position-major"]
TOO_LARGE = "out of memory beside the steps: choose a smaller model"
TokenizerOptions = options("data", "codes", "tokenizer", "tokenizer_recipe", "losses",
                           "seed", "device")  # fmt: skip
AROptions = options("ar", "ar_recipe", "seed", "device")


def train_tokenizer(
    out: Path = Path("runs/tokenizer"),
    held_out: int = 2000,
    settings: Annotated[TokenizerOptions, arg(name="")] = TokenizerOptions(),  # noqa: B008
    config: ConfigFile = None,
) -> None:
    """Train a tokenizer: image → T codes → image.

    Args:
        out: the run's folder; if it holds a checkpoint of this run, training goes on from there.
        held_out: images of the test split on which the error is measured; 0: none.
    """
    from ..data.batches import open_images
    from ..data.image_sets import load_images
    from ..study import stages
    from ..training.distributed import processes
    from ..training.run import memory_advice

    c = configured(settings)
    with processes(c.device) as place, memory_advice(TOO_LARGE):
        d = c.data
        images = open_images(d.dataset, d.n_images, d.image_size, d.augment, d.channels)
        test = None
        if held_out:
            like = {"image_size": images.size, "channels": images.channels}
            test = load_images(d.dataset, "test", at_most=held_out, **like).images
        stages.train_tokenizer(c, images, out, place, test)


def encode(
    tokenizer_folder: Path = Path("runs/tokenizer"),
    out: Path = Path("runs/codes"),
    dataset: str | None = None,
    split: Literal["train", "test"] = "train",
    ten_crop: bool = False,
    reverse: bool = False,
    layout: Layout = "image-major",
    batch: int = 256,
    workers: int = 0,
    device: Device = "auto",
    config: ConfigFile = None,
) -> None:
    """Encode a data set once: codes [N, T], labels, and a sidecar that says where they are from.

    Codes are written as they come; neither images nor codes are held in memory.

    Args:
        tokenizer_folder: folder of a tokenizer's run.
        out: folder of the codes.
        dataset: as for `vcq train tokenizer`; default: what the tokenizer was trained on.
        split: train, or test for held-out codes.
        ten_crop: ten rows an image: corners, centre, and their mirror images.
        reverse: write the last position first: the control of order.
        layout: image-major is fast to train from, position-major to measure entropies.
        batch: images encoded at once.
        workers: processes that decode images.
    """
    from ..data.batches import open_source
    from ..models.saved import read_config
    from ..models.tokenizer import Tokenizer
    from ..study import stages
    from ..study.configuration import Configuration
    from ..study.folder import weights_digest
    from ..training.distributed import processes, rank
    from ..training.run import memory_advice

    integer(batch, "--batch", 1)
    trained = read_config(tokenizer_folder, Tokenizer, ("configuration",))
    settings = trained["configuration"]
    named = dataset or settings["dataset"]
    own = split == "train" and named == settings["dataset"]
    sizes, k_max = settings["sizes"], settings["k_max"]
    order = {"schedule": "reversed", "of": sizes} if reverse else {"schedule": sizes}
    codes = {"length": len(sizes), "k_max": k_max, "workers": workers}
    c = Configuration.of({"dataset": named, **order, **codes})
    count = settings["n_images"] if own else None
    with processes(device) as place, memory_advice(fewer(batch)):
        model = Tokenizer.from_pretrained(tokenizer_folder, place)
        crop = "ten" if ten_crop else "centre"
        size, channels = model.config.image_size, model.config.channels
        source = open_source(named, split, count, size, crop, channels)
        info = {"tokenizer": weights_digest(tokenizer_folder), "data": named, "split": split}
        store = stages.encode(c, model, source, out, info, layout, batch)
        if rank() == 0:
            rows, length = store.codes.shape
            print(f"{out}: {rows:,} rows of {length} codes, {source.crop} crop")


def train_ar(
    codes_folder: Path = Path("runs/codes"),
    out: Path = Path("runs/ar"),
    held_out_folder: Path | None = None,
    tokenizer_folder: Path | None = None,
    extractor: str | None = None,
    weights: Path | None = None,
    settings: Annotated[AROptions, arg(name="")] = AROptions(),  # noqa: B008
    config: ConfigFile = None,
) -> None:
    """Train an AR model on codes: class and the codes before → the next code.

    Args:
        codes_folder: folder that `vcq encode` wrote.
        out: the run's folder; if it holds a checkpoint of this run, training goes on from there.
        held_out_folder: codes of held-out images, whose bits by position are measured on the way.
        tokenizer_folder: the tokenizer's run folder; with it pictures are drawn on the way.
        extractor: of --evaluate-every, as for `vcq evaluate`; default: by data set.
        weights: the Inception weights, where that is the extractor.
    """
    from ..data.code_store import open_codes
    from ..study import stages
    from ..training.distributed import processes
    from ..training.run import memory_advice

    c = configured(settings)
    store = open_codes(codes_folder)
    if c.ar.evaluate_every and tokenizer_folder is None:
        raise ValueError("--evaluate-every needs --tokenizer-folder, which makes pictures of codes")
    test = _held_out(store, held_out_folder, codes_folder) if held_out_folder else None
    with processes(c.device) as place, memory_advice(TOO_LARGE):
        draw = score = None
        if tokenizer_folder:
            decoder = load_decoder(tokenizer_folder, store.info, place)
            draw = _artist(decoder, store.info["reversed"])
            if c.ar.evaluate_every:
                score = _watch(c, decoder, store.info, extractor, weights)
        stages.train_ar(c, store, out, place, test, draw, score)


def _held_out(store: CodeStore, folder: Path, codes: Path) -> CodeStore:
    """Held-out codes, refused if another tokenizer wrote them."""
    from ..data.code_store import open_codes

    test = open_codes(folder)
    theirs, ours = (s.info["tokenizer"][:12] for s in (test, store))
    if theirs != ours:
        raise ValueError(f"{folder} was encoded by tokenizer {theirs}, {codes} by {ours}")
    if test.info["reversed"] != store.info["reversed"]:
        raise ValueError(f"one of {folder} and {codes} is reversed: encode both with --reverse")
    return test


def _artist(decoder: Tokenizer, flipped: bool) -> Callable[[ARModel], torch.Tensor]:
    """A function that draws sixteen samples of an AR model as uint8 images."""
    import torch

    from ..study.samples import draw

    labels = torch.arange(16)
    return lambda ar: draw(ar, decoder, labels % ar.config.classes, flipped=flipped).images


def _watch(
    c: Configuration, decoder: Tokenizer, codes: dict, extractor: str | None, weights: Path | None
) -> Watch:
    """What measures the samples of a model in training."""
    from ..data.image_sets import load_images
    from ..metrics.extractors import default_extractor, load_extractor
    from ..study.experiment import HELD_OUT
    from ..study.scores import Watch

    shape, dataset = decoder.config, codes["data"]
    place = next(decoder.parameters()).device
    extract = load_extractor(extractor or default_extractor(dataset), str(place), weights)
    like = {"image_size": shape.image_size, "channels": shape.channels}
    real = load_images(dataset, "test", at_most=HELD_OUT, **like).part("validation").images
    return Watch(extract, decoder, real, c.ar.evaluate_samples, codes["reversed"])


def load_decoder(folder: Path, codes: dict, device: torch.device):
    """The tokenizer that wrote the codes (their sidecar's `info`); any other one is refused."""
    from ..models.tokenizer import Tokenizer
    from ..study.folder import weights_digest

    model = Tokenizer.from_pretrained(folder, device)
    ours, theirs = weights_digest(folder)[:12], codes["tokenizer"][:12]
    if ours != theirs:
        raise ValueError(
            f"{folder} holds tokenizer {ours}, but {theirs} wrote the codes: give that one"
        )
    return model


def fewer(batch: int) -> str:
    """What to try when so many images at once do not fit into memory."""
    if batch == 1:
        return "out of memory with one image at a time: it needs a larger GPU, or --device cpu"
    return f"out of memory with {batch} images at a time: try --batch {batch // 2}"


def train(
    what: Annotated[
        Annotated[Any, subcommand("tokenizer", constructor=deferred(train_tokenizer))]
        | Annotated[Any, subcommand("ar", constructor=deferred(train_ar))],
        arg(name=""),
    ],
) -> None:
    """Train a tokenizer, or an AR model on its codes."""
    what()
