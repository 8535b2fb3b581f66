"""One run, from images to samples: every setting with its range and its meaning, in one place.

The sections are what the stages read. Outside, each setting has one flat name, the key of
`flat(Configuration)`: a chapter's parameter, a key of profiles, studies and records, an option.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator

from ..checks import must, unknown_name
from ..data.image_sets import NAMES, TRAINING_IMAGES, parse_name
from ..settings import Flag, Real, Sizes, Whole, flat, fold, setting, settings, unfold
from ..theory.schedules import codebook_sizes
from ..training.recipe import Losses, Recipe

if TYPE_CHECKING:
    import torch


def _dataset(value: str) -> str:
    try:
        parse_name(value)
    except ValueError:
        names = ", ".join(NAMES)
        raise ValueError(f"should be {names} (SIZE 4 to 1024, CHANNELS 1 or 3)") from None
    return value


def _among(kind: str, presets: Callable[[], Mapping]) -> AfterValidator:
    """A size by name; the model's module is loaded when the name is checked."""

    def known(name: str) -> str:
        if name not in presets():
            raise unknown_name(kind, name[:80], presets())
        return name

    return AfterValidator(known)


def _tokenizers() -> Mapping:
    from ..models.tokenizer import PRESETS

    return PRESETS


def _ar_models() -> Mapping:
    from ..models.autoregressive import PRESETS

    return PRESETS


@settings
class Data:
    """Which images."""

    dataset: Annotated[str, AfterValidator(_dataset)] = setting(
        "fashion-mnist",
        f"one of {', '.join(TRAINING_IMAGES)}; folder:PATH, parquet:PATH (a copy from Hugging Face)"
        " or synthetic:SIZExCHANNELS",
    )
    n_images: Whole | None = setting(None, "training images; None: all", ge=2, le=10**15)
    image_size: Whole | None = setting(
        None, "side in pixels to which images are brought; parquet: needs it", ge=1, le=4096
    )
    channels: Literal[1, 3] | None = setting(
        None, "to which images are converted; None: 1 if all of the set are grey, else 3"
    )
    augment: Flag = setting(False, "random crops and mirror images for the tokenizer")
    workers: Whole = setting(0, "processes that decode images", ge=0, habit=True)


@settings
class Codes:
    """K_1 … K_T; see `theory.schedules`."""

    schedule: Sizes = setting(
        "loglinear",
        "how K_t grows: uniform, loglinear, doubling, linear, "
        "quadratic, cosine; a control: matched, reversed, shuffled; or K_1 … K_T",
    )
    length: Whole = setting(16, "positions T", ge=1, le=65_536)
    k_max: Whole = setting(256, "rows of the codebook, and the largest K_t", ge=2, le=2**32)
    k_min: Whole = setting(2, "the smallest K_t", ge=2, le=2**32)
    ramp: Whole | None = setting(None, "position at which K_max is reached; None: the last", ge=1)
    power: Real = setting(1.0, "exponent of the log-linear ramp", gt=0)
    of: Sizes = setting("loglinear", "the schedule that the controls refer to")

    def __post_init__(self) -> None:
        codebook_sizes(**fold(self))


@settings
class TokenizerShape:
    """The tokenizer beside K_t."""

    tokenizer: Annotated[str, _among("tokenizer", _tokenizers)] = setting(
        "mlp", "size: mlp, mlp-tiny, conv, vit-tiny, vit-s, vit-b or vit-l"
    )
    code_dim: Whole = setting(8, "width of a code vector", ge=1, le=65_536)
    balance: Flag = setting(True, "keep positions with few codes from collapsing")
    codebook_ema: Real = setting(0.0, "decay of a moving average that moves the codes", ge=0, lt=1)
    revive: Whole = setting(0, "batches after which an unused code is replaced; 0: never", ge=0)
    tokenizer_images: Whole | None = setting(
        None, "images that the tokenizer is trained on; None: the same", ge=2, le=10**15
    )


@settings
class ARShape:
    """The AR model beside K_t."""

    ar: Annotated[str, _among("AR model", _ar_models)] = setting(
        "tiny", "size: nano, tiny, small, B, L or XL"
    )
    dropout: Real = setting(0.1, "share of activations dropped in training", ge=0, lt=1)
    attention_dropout: Real | None = setting(None, "the same of attention; None: as dropout",
                                             ge=0, lt=1, later=True)  # fmt: skip
    label_dropout: Real = setting(0.1, "share of labels dropped, which guidance needs", ge=0, lt=1)
    restricted_head: Flag = setting(False, "position t computes and learns its first K_t codes")
    ar_snapshots: Whole = setting(6, "steps at which the model is measured and kept", ge=0)
    evaluate_every: Whole = setting(
        0, "steps between distances of samples to validation images, logged as gfd; 0: none",
        ge=0, habit=True, later=True,
    )  # fmt: skip
    evaluate_samples: Whole = setting(1000, "samples behind each of them", ge=1, le=10**6,
                                      habit=True, later=True)  # fmt: skip


@settings
class Sampling:
    """How pictures are drawn."""

    n_samples: Whole = setting(2000, "pictures to draw", ge=1, le=10**9)
    temperature: Real = setting(1.0, "below 1 prefers likely codes; 0: the most likely", ge=0)
    top_k: Whole = setting(0, "draw from the most likely codes only; 0: from all", ge=0)
    top_p: Real = setting(1.0, "draw from the smallest set with this mass", gt=0, le=1)
    cfg_scale: Real = setting(1.0, "classifier-free guidance; 1: none")
    guidance: Literal["constant", "cosine"] = setting("constant", "the scale along the positions")
    guidance_power: Real = setting(1.75, "of the cosine", gt=0)


TOKENIZER = Recipe(3000, 128, validate_every=500, sample_every=500)
AR = Recipe(1000, 64, betas=(0.9, 0.96), weight_decay=0.03)


@settings
class Configuration:
    """Everything that one run depends on, beside code and versions."""

    data: Data = field(default_factory=Data)
    codes: Codes = field(default_factory=Codes)
    tokenizer: TokenizerShape = field(default_factory=TokenizerShape)
    tokenizer_recipe: Recipe = field(default_factory=lambda: TOKENIZER)
    losses: Losses = field(default_factory=Losses)
    ar: ARShape = field(default_factory=ARShape)
    ar_recipe: Recipe = field(default_factory=lambda: AR)
    sampling: Sampling = field(default_factory=Sampling)
    seed: Whole = setting(0, "of every random choice", ge=0, lt=2**31)
    ar_seed: Whole | None = setting(None, "of the AR model alone; None: seed", ge=0, lt=2**31)
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", "auto takes a GPU if there is one", habit=True
    )

    def __post_init__(self) -> None:
        n, trained = self.data.n_images, self.tokenizer.tokenizer_images
        most = TRAINING_IMAGES.get(self.data.dataset)
        for name, count in (("n_images", n), ("tokenizer_images", trained)):
            enough = not (most and count) or count <= most
            must(enough, name, f"at most {most}, as {self.data.dataset} has", count)
        if trained is not None and n is not None and trained < n:
            raise ValueError(f"tokenizer_images {trained} must be at least n_images {n}, or None")
        if self.tokenizer.balance and self.tokenizer_recipe.batch == 1:
            raise ValueError("tokenizer_batch must be at least 2 where balance is True, got 1")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Configuration:
        """From flat names, those that are no setting left out; defaults for the rest."""
        given = {name: value for name, value in values.items() if name in flat(cls)}
        return cls(**unfold(cls, fold(cls()) | given))

    @property
    def sizes(self) -> tuple[int, ...]:
        """K_1 … K_T as the AR model sees them."""
        return tuple(codebook_sizes(**fold(self.codes), seed=self.seed).tolist())

    def to_dict(self) -> dict[str, Any]:
        """Flat name → JSON value."""
        return fold(self)

    def changed(self, **values: Any) -> Configuration:
        """The same with other values, by flat name."""
        return type(self).of(self.to_dict() | values)

    def identity(self, stage: Literal["tokenizer", "ar", "samples"]) -> dict[str, Any]:
        """All settings on which the result of a stage depends, through the stages before it too.

        K_t is given by its values, in the tokenizer's order: arms whose tokenizers are equal have
        equal ones, however they are called.
        """
        found = self._sections("data", "tokenizer", "tokenizer_recipe", "losses")
        found["n_images"] = found.pop("tokenizer_images") or self.data.n_images
        found["sizes"] = list(self.sizes[::-1] if self.flipped else self.sizes)
        found |= {"k_max": self.codes.k_max, "seed": self.seed}
        found["tokenizer"] = _tokenizers()[self.tokenizer.tokenizer]
        if stage != "tokenizer":
            found |= {"encoded": self.data.n_images, "flipped": self.flipped} | self.ar_identity()
        if stage == "samples":
            found |= self._sections("sampling")
        return found

    def ar_identity(self) -> dict[str, Any]:
        """The AR model's own part of it: what its training depends on, given the codes."""
        found = self._sections("ar", "ar_recipe")
        return found | {"ar": _ar_models()[self.ar.ar], "ar_seed": self.recipe("ar").seed}

    def _sections(self, *sections: str) -> dict[str, Any]:
        known = flat(type(self))
        return {
            name: value
            for name, value in fold(self).items()
            if known[name].path[0] in sections
            and not known[name].habit
            and not (known[name].later and value == known[name].default)
        }

    def recipe(self, kind: str) -> Recipe:
        """The recipe of "tokenizer" or "ar", with its seed."""
        if kind == "tokenizer":
            return replace(self.tokenizer_recipe, seed=self.seed)
        return replace(self.ar_recipe, seed=self.seed if self.ar_seed is None else self.ar_seed)

    @property
    def torch_device(self) -> torch.device:
        import torch

        there = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(there if self.device == "auto" else self.device)

    @property
    def flipped(self) -> bool:
        """True for the arm whose codes are those of `of` with their columns flipped."""
        return self.codes.schedule == "reversed"
