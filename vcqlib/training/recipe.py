"""How a model is trained: every setting of the two loops, refused at construction if impossible."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True)
class Losses:
    """What the tokenizer minimises beside the quantizer's own loss.

    The default is the mean squared error alone. A perceptual weight needs a feature network.
    """

    pixels: Literal["l2", "l1"] = "l2"  # error of the pixels: squared or absolute
    perceptual: float = 0.0  # weight of the distance in a network's features; paper profile: 1
    adversarial: float = 0.0  # weight of the PatchGAN, from step 0; 0.1 in the paper profile
    adaptive: bool = False  # scale the adversarial term so that both gradients are equally long
    lecam: float = 0.001  # LeCam regularisation of the critic
    critic_width: int = 64  # channels of the critic's first layer

    def __post_init__(self) -> None:
        if self.pixels not in ("l1", "l2"):
            raise ValueError(f"pixels must be 'l1' or 'l2', got {self.pixels!r}")
        for name in ("perceptual", "adversarial", "lecam"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.critic_width < 1:
            raise ValueError(f"critic_width must be at least 1, got {self.critic_width}")


@dataclass(frozen=True)
class Recipe:
    """AdamW with linear warm-up and cosine decay, and everything around it."""

    steps: int  # updates of the weights
    batch: int  # images in an update, over all processes and accumulated parts
    lr: float  # highest learning rate
    final_lr: float = 0.1  # share of lr at the last step
    warmup: int = 50  # steps in which the learning rate rises
    betas: tuple[float, float] = (0.9, 0.99)  # AdamW's two decay rates
    weight_decay: float = 0.0  # AdamW's
    clip: float = 1.0  # largest norm of the gradient
    seed: int = 0  # of the data's order, dropout and label dropout
    checkpoint_minutes: float = 2.0  # minutes between checkpoints
    accumulate: int = 1  # parts of a batch that go through the model one after the other
    ema: float = 0.0  # decay of the weights' moving average, which is then kept; 0: none
    precision: Precision = "auto"  # auto: bf16 on a GPU, fp32 on a CPU
    compile: bool = False  # torch.compile; needs a C++ compiler
    shard: bool = False  # FSDP2 instead of DDP, where there are several processes
    keep: int = 2  # checkpoints kept
    log_every: int = 100  # steps between lines of log.jsonl
    validate_every: int = 0  # steps between measurements on held-out data; 0: never
    sample_every: int = 0  # steps between sheets of pictures; 0: never
    tensorboard: bool = False  # also log for TensorBoard
    losses: Losses = field(default_factory=Losses)  # of the tokenizer

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(
                f"steps and batch must be at least 1, got {self.steps} and {self.batch}"
            )
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive and finite, got {self.lr}")
        if not self.clip > 0:
            raise ValueError(f"clip must be positive, got {self.clip}")
        if not 0 <= self.final_lr <= 1:
            raise ValueError(f"final_lr must be in [0, 1], got {self.final_lr}")
        for name, value in (("ema", self.ema), *(("betas", beta) for beta in self.betas)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ValueError(f"precision must be auto, bf16 or fp32, got {self.precision!r}")
        if (untrained := self.ema**self.steps) > 0.5:
            warnings.warn(
                f"ema {self.ema} over {self.steps} steps keeps {untrained:.0%} of the untrained "
                "weights: lower ema, or train longer", stacklevel=3,
            )  # fmt: skip
        for name in ("accumulate", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup", "weight_decay", "checkpoint_minutes", "validate_every",
                     "sample_every"):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0..steps − 1."""
        warm = min(1.0, (step + 1) / max(1, min(self.warmup, self.steps)))
        decay = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.lr * warm * (self.final_lr + (1 - self.final_lr) * decay)

    def identity(self) -> dict[str, Any]:
        """What the weights depend on: a checkpoint continues only under the same values."""
        return {name: value for name, value in asdict(self).items() if name not in _HABITS}


# How a run is watched, stored and spread, which may change from one start to the next.
_HABITS = {
    "checkpoint_minutes", "keep", "log_every", "validate_every", "sample_every", "tensorboard",
    "compile", "shard",
}  # fmt: skip
