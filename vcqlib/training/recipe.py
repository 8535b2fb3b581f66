"""How a model is trained: every setting of the two loops, refused at construction if impossible."""

from __future__ import annotations

import math
import warnings
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from ..checks import integer, must
from ..progress import say
from ..settings import Flag, Real, Whole, flat, fold, setting, settings

Precision = Literal["auto", "bf16", "fp32"]


def halves(precision: Precision, device: str) -> bool:
    """Whether products are made in bf16 on this kind of device ("cuda", "cpu").

    On a GPU without bf16 "auto" is fp32, which is said once; "bf16" is a ValueError.
    """
    wanted = precision == "bf16" or (precision == "auto" and device == "cuda")
    if not wanted or device != "cuda" or _has_bf16():
        return wanted
    must(precision == "auto", "precision", "fp32 or auto on this GPU, which has no bf16", "bf16")
    say("this GPU has no bf16: fp32 is used")
    return False


def _has_bf16() -> bool:
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def _parts(value: Any) -> Any:
    if value == "auto":
        return value
    try:
        return integer(value, "it", 1)
    except (TypeError, ValueError):
        raise ValueError("should be at least 1, or auto") from None


Parts = Annotated[int | Literal["auto"], BeforeValidator(_parts)]


@settings
class Losses:
    """What the tokenizer minimises beside the quantizer's own loss.

    The default is the mean squared error alone. A perceptual weight needs a feature network.
    """

    pixels: Literal["l2", "l1"] = setting("l2", "error of the pixels: squared or absolute")
    perceptual: Real = setting(0.0, "weight of the distance in a network's features", ge=0)
    adversarial: Real = setting(0.0, "weight of the PatchGAN, from step 0", ge=0)
    adaptive: Flag = setting(False, "scale the adversarial term to the other terms' gradient")
    lecam: Real = setting(0.001, "LeCam regularisation of the critic", ge=0)
    critic_width: Whole = setting(64, "channels of the critic's first layer", ge=1)
    perceptual_network: str = setting("vgg16", "torchvision network of the perceptual term")
    perceptual_weights: str | None = setting(None, "file with that network's weights")


@settings
class Recipe:
    """AdamW with linear warm-up, then decay, and everything around it."""

    steps: Whole = setting(1000, "updates of the weights", ge=1)
    batch: Whole = setting(64, "images in an update, over all processes and parts", ge=1)
    lr: Real = setting(2e-3, "highest learning rate", gt=0)
    final_lr: Real = setting(0.1, "share of lr at the last step", ge=0, le=1)
    warmup: Whole = setting(50, "steps in which the learning rate rises", ge=0)
    decay: Literal["cosine", "linear"] = setting(
        "cosine", "how the learning rate falls", later=True
    )
    hold: Whole = setting(0, "steps after the warm-up before it falls", ge=0, later=True)
    betas: tuple[Real, Real] = setting((0.9, 0.99), "AdamW's two decay rates")
    weight_decay: Real = setting(0.0, "AdamW's", ge=0)
    decay_norms: Flag = setting(True, "weight decay of vectors too, as norms have them", later=True)
    clip: Real = setting(1.0, "largest norm of the gradient; 0: any", ge=0)
    accumulate: Parts = setting(1, "parts of a batch, one after the other; auto: as memory asks")
    ema: Real = setting(0.0, "decay of the weights' average, which is then kept; 0: none",
                        ge=0, lt=1)  # fmt: skip
    precision: Precision = setting("auto", "auto: bf16 on a GPU, fp32 on a CPU")
    compile: Flag = setting(False, "torch.compile; needs a C++ compiler", habit=True)
    recompute: Flag = setting(False, "keep less for the backward pass and compute it again: less "
                              "memory, a third more time", habit=True)  # fmt: skip
    shard: Flag = setting(False, "FSDP2 instead of DDP, with several processes", habit=True)
    checkpoint_minutes: Real = setting(2.0, "minutes between checkpoints", ge=0, habit=True)
    keep: Whole = setting(2, "checkpoints kept", ge=1, habit=True)
    log_every: Whole = setting(100, "steps between lines of log.jsonl", ge=1, habit=True)
    validate_every: Whole = setting(
        0, "steps between looks at held-out data; 0: none", ge=0, habit=True
    )
    sample_every: Whole = setting(0, "steps between sheets of pictures; 0: none", ge=0, habit=True)
    tensorboard: Flag = setting(False, "also log for TensorBoard", habit=True)
    wandb: Flag = setting(False, "also log to Weights & Biases; WANDB_MODE=offline keeps it here",
                          habit=True)  # fmt: skip
    seed: int = 0  # of the data's order, dropout and label dropout: the configuration's

    def __post_init__(self) -> None:
        for beta in self.betas:
            must(0 <= beta < 1, "betas", "in [0, 1)", beta)
        if (untrained := self.ema**self.steps) > 0.5:
            warnings.warn(
                f"ema {self.ema} over {self.steps} steps keeps {untrained:.0%} of the untrained "
                "weights: lower ema, or train longer",
                stacklevel=3,
            )

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0..steps − 1.

        The cosine falls from step 0 on, beside the warm-up; held or linear, from the end of both.
        """
        warm = min(1.0, (step + 1) / max(1, min(self.warmup, self.steps)))
        begin = self.warmup + self.hold if self.hold or self.decay == "linear" else 0
        along = max(0, step - begin) / max(1, self.steps - begin)
        left = 0.5 * (1 + math.cos(math.pi * along)) if self.decay == "cosine" else 1 - along
        return self.lr * warm * (self.final_lr + (1 - self.final_lr) * left)

    def identity(self) -> dict[str, Any]:
        """What the weights depend on: a checkpoint continues only under the same values."""
        known = flat(type(self))
        found = {name: value for name, value in fold(self).items() if not known[name].habit}
        return found | {"seed": self.seed}
