"""`vcq sample`: pictures from a trained AR model."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from tyro.conf import arg

from ..checks import integer, must
from ..files import write_json
from .options import ConfigFile, configured, options
from .training import fewer, load_decoder

if TYPE_CHECKING:
    import torch

    from ..models.autoregressive import ARModel
    from ..models.tokenizer import Tokenizer
    from ..training.recipe import Precision

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
            doubling, loglinear or matched.
        out: file.npz: arr_0 uint8 [n, H, W, C], arr_1 labels, codes; and file.png.
        first: number of the first one.
        batch: pictures drawn at once.
        compile: compile the work of a position; pays for itself after some hundred pictures.
    """
    from ..study.samples import write_samples
    from ..training.distributed import processes, rank
    from ..training.run import memory_advice

    c = configured(settings)
    integer(batch, "--batch", 1)
    integer(first, "--first", 0)
    how = {f.name: getattr(c.sampling, f.name) for f in fields(c.sampling)}
    n = how.pop("n_samples")
    with processes(c.device) as place, memory_advice(fewer(batch)):
        given = read_models(place, ar_folder, tokenizer_folder, pretrained)
        how |= {"seed": c.seed, "flipped": given.codes["reversed"]}
        write_samples(out, given.model, given.decoder, n, first, batch, precision=given.precision,
                      compiled=compile, **how)  # fmt: skip
        if rank() == 0:
            said = given.asked | {"n": n, **how, "first": first, "codes": given.codes}
            write_json(out.with_suffix(".json"), said)
            print(f"{out}: {n:,} samples; {out.with_suffix('.png')}: the first of them")


class Models(NamedTuple):
    """An AR model and the tokenizer of its codes, as a command was told to take them."""

    model: ARModel
    decoder: Tokenizer
    codes: dict[str, Any]  # what is known of the codes
    precision: Precision
    asked: dict[str, str]  # option → value


def read_models(
    place: torch.device, ar_folder: Path, tokenizer_folder: Path, pretrained: str | None
) -> Models:
    """What `--ar-folder` and `--tokenizer-folder`, or `--pretrained`, stand for."""
    from ..models.autoregressive import ARModel
    from ..models.saved import read_config
    from ..study.pretrained import load_pretrained

    if pretrained is not None:
        own = (ar_folder, tokenizer_folder) == (AR_FOLDER, TOKENIZER_FOLDER)
        must(own, "--pretrained", "alone, without folders of models", repr(pretrained))
        given = load_pretrained(pretrained, place)
        info = given.card["codes"]
        return Models(given.ar, given.tokenizer, info, "auto", {"pretrained": pretrained})
    trained = read_config(ar_folder, ARModel, ("codes", "configuration"))
    decoder = load_decoder(tokenizer_folder, trained["codes"], place)
    asked = {"ar": str(ar_folder), "tokenizer": str(tokenizer_folder)}
    precision = trained["configuration"].get("ar_precision", "auto")
    return Models(
        ARModel.from_pretrained(ar_folder, place), decoder, trained["codes"], precision, asked
    )
