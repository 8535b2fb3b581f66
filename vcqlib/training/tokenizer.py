"""How a tokenizer is trained, on one screen; what surrounds the loss is in `run.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data.batches import ImageSource, stream
from ..data.image_sets import to_float, to_uint8
from ..models.tokenizer import Tokenizer
from ..settings import fold
from . import distributed, memory
from .inference import decode, encode, reconstruction_error
from .losses import ImageLosses
from .recipe import Losses, Recipe
from .run import Run, own_randomness

PIXELS_ALONE = Losses()


def train_tokenizer(
    model: Tokenizer,
    images: Tensor | ImageSource,
    recipe: Recipe,
    folder: Path | None = None,
    held_out: Tensor | None = None,
    features: nn.Module | None = None,
    workers: int = 0,
    origin: dict | None = None,
    losses: Losses = PIXELS_ALONE,
) -> Tokenizer:
    """Train on images: uint8 [N, C, H, W], or a source that is read as it goes.

    Loss: the image losses (default: mean squared error) + the quantizer's. Afterwards the
    usage counts hold one pass over at most 10,000 training images.

    Args:
        held_out: uint8 [M, C, H, W] whose error is measured and logged as `held_out_mse`.
        features: network of the perceptual loss, see `losses.Perceptual`.
        workers: processes that decode the images of a source.
        origin: JSON that says which images; checkpoints of other ones are refused.

    Raises:
        ValueError: images of another size or type; a checkpoint of another configuration.
        FloatingPointError: loss or gradient not finite; says at which step.
        MemoryError: says which batch size to try.
    """
    r, c, device = recipe, model.config, next(model.parameters()).device
    if r.shard and (c.codebook_ema or c.revive):  # what they write into a gathered copy is lost
        raise ValueError("shard trains the codebook by gradients only: no codebook_ema, no revive")
    with own_randomness(device):
        torch.manual_seed(r.seed)  # the critic starts by it too
        criterion = ImageLosses(losses, c.channels, c.image_size, features).to(device)
    criterion.prepare(device, r.compile)
    distributed.equal(criterion)  # the critic is not wrapped
    about = {"tokenizer": c.to_dict(), "images": len(images), "origin": origin,
             "losses": fold(losses)}  # fmt: skip
    shown = images[:8] if isinstance(images, Tensor) else images.read(range(min(8, len(images))))

    def trial(n: int) -> Callable[[], Tensor]:
        hollow, judge = memory.hollow(model), memory.hollow(criterion)
        x = torch.zeros(n, c.channels, c.image_size, c.image_size)
        return lambda: _loss(hollow, judge, x, hollow)[0]

    with Run("tokenizer", model, r, folder, about, criterion.critic, trial) as run:
        source = None if isinstance(images, Tensor) else images
        parts = run.batches(len(images), source, workers)
        batches = stream(images, parts, r.seed, workers)
        for _ in run.steps():
            for pictures in run.parts(batches):
                x = to_float(pictures.to(device))
                with run.autocast():
                    loss, terms = _loss(run.network, criterion, x, model)
                run.backward(loss, **terms)
            run.update()
            if run.due(r.log_every):
                run.note(**run.means())
            if held_out is not None and run.due(r.validate_every):
                with run.evaluation():
                    run.note(held_out_mse=reconstruction_error(model, held_out, shared=True))
            if run.due(r.sample_every):
                with run.evaluation():
                    rebuilt = to_uint8(decode(model, torch.cat(list(encode(model, shown)))))
                run.picture(torch.cat([shown, rebuilt]))
            run.finish()
    model.quantizer.reset_usage()
    with distributed.gathered(run.network):
        for codes in encode(model, images, at_most=10_000):
            model.quantizer.count(codes)
    return model


def _loss(
    network: nn.Module, criterion: ImageLosses, x: Tensor, model: Tokenizer
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of images [B, C, H, W], and its terms for the log."""
    output = network(x)
    # sharded, the weight is another tensor before the network has run
    loss = criterion(output.images, x, model.decoder.out.weight)
    return loss.total + output.loss, {"quantizer": output.loss, **loss.terms}
