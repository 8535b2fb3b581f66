"""The configuration of one arm of a study; whatever is impossible is refused at construction."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace

import torch

from ..chapters.parameters import check, check_ranges
from ..theory.schedules import codebook_sizes


@dataclass(frozen=True)
class Experiment:
    """One arm of a study. Field names are the notebooks' parameter names."""

    dataset: str = "fashion-mnist"
    n_images: int = 3000
    image_size: int | None = None
    schedule: str | tuple[int, ...] = "loglinear"
    length: int = 16
    k_max: int = 256
    k_min: int = 2
    ramp: int | None = None
    power: float = 1.0
    of: str | tuple[int, ...] = "loglinear"
    seed: int = 0
    code_dim: int = 8
    balance: bool = True
    tokenizer: str = "mlp"
    tokenizer_steps: int = 3000
    tokenizer_batch: int = 128
    ar: str = "tiny"
    ar_steps: int = 1000
    ar_batch: int = 64
    dropout: float = 0.1
    n_samples: int = 2000
    tokenizer_images: int | None = None  # images the tokenizer is trained on; None: the same N
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("schedule", "of"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check_ranges(vars(self))

    @classmethod
    def of_parameters(cls, values: dict, **changes) -> Experiment:
        """The experiment that a notebook's globals describe, all of whose parameters are checked.

        Names that are neither fields nor parameters of a chapter are left.
        """
        check(values)
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in values.items() if k in known} | changes)

    def arm(self, schedule: str | tuple[int, ...], **changes) -> Experiment:
        """The same experiment with another schedule."""
        return replace(self, schedule=schedule, **changes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """K_1..K_T as the AR model sees them."""
        k = codebook_sizes(
            self.schedule, self.length, self.k_max, self.k_min, self.ramp, self.power, self.of
        )
        return tuple(k.tolist())

    @property
    def flipped(self) -> bool:
        """True for the arm whose codes are those of `of` with their columns flipped."""
        return self.schedule == "reversed"

    @property
    def torch_device(self) -> torch.device:
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(name)

    def to_dict(self) -> dict:
        return json.loads(json.dumps(asdict(self)))
