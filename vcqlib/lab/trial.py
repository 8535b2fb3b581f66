"""One trial: what it depends on, its points, and the training of its models in stacks.

Everything that an arm does not change is shared by the arms of a trial: the training points, their
order, the fresh points, the first weights, the draws of the samples. So arms pair up. Trials that
differ in their seeds and sizes only are trained side by side too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..data.batches import shuffled
from ..files import load_tensors, save_tensors
from ..models.autoregressive import ARModel
from ..settings import Real, Whole, fold, setting, settings
from ..study import cache
from .distances import Cloud
from .models import PointTokenizer, Shape, StackedAR, StackedTokenizer, ar_config
from .stack import Stack, seeded
from .worlds import Points, draw, stream, world

Seed = Annotated[int, Field(ge=0, lt=2**31)]
SOURCES = ["set_seed", "tokenizer_seed", "ar_seed"]  # of randomness


@settings
class Trial:
    """Everything the numbers of a trial depend on."""

    arms: dict[str, tuple[int, ...]] = Field(min_length=1)  # name: K_1..K_T
    passes: tuple[Real, ...] = Field(min_length=1)  # over the training set, where to measure
    world: str = setting("pinwheel", "density")
    n: Whole = setting(300, "training points N", ge=2)
    set_seed: Seed = setting(0, "of the training points")
    tokenizer_seed: Seed = setting(0, "of the tokenizer's first weights and its points")
    ar_seed: Seed = setting(0, "of the AR model's first weights and its order of the data")
    samples: Whole = setting(5000, "generated points behind a distance", ge=2)
    fresh: Whole = setting(40_000, "points of each reference", ge=2)
    tokenizer_points: Literal["fresh", "training"] = setting("fresh", "what it is trained on")
    tokenizer_steps: Whole = setting(1500, "steps of the tokenizer", ge=1)
    tokenizer_batch: Whole = setting(128, "points a step of the tokenizer", ge=2)
    tokenizer_lr: Real = setting(1e-2, "highest learning rate of the tokenizer", gt=0)
    batch: Whole = setting(16, "points a step of the AR model", ge=1)
    lr: Real = setting(3e-3, "learning rate of the AR model", gt=0)
    weight_decay: Real = setting(0.03, "weight decay of the AR model", ge=0)
    shape: Shape = Shape()

    def __post_init__(self) -> None:
        world(self.world)
        for name, sizes in self.arms.items():
            if len(sizes) != self.shape.length or not all(
                2 <= k <= self.shape.k_max for k in sizes
            ):
                raise ValueError(
                    f"arm {name!r} must have {self.shape.length} sizes from 2 to "
                    f"{self.shape.k_max}, got {sizes}"
                )
        if list(self.passes) != sorted(set(self.passes)) or self.passes[0] <= 0:
            raise ValueError(f"passes must grow and lie above 0, got {self.passes}")

    def steps(self, passes: float) -> int:
        """Training steps in so many passes over the training set."""
        return max(1, round(passes * self.n / min(self.batch, self.n)))

    @property
    def tokenizer_key(self) -> tuple:
        """What its tokenizers depend on, beside what the trials of a stack share."""
        own = (self.set_seed, self.n) if self.tokenizer_points == "training" else ()
        return (self.tokenizer_seed, *own, *self.arms.values())

    def points(self, use: str, n: int) -> Points:
        """Fresh points for a use: `training`, `validation`, `test`, `reference`."""
        return draw(self.world, n, stream(self.world, use, self.set_seed))


@dataclass(frozen=True)
class TrialData:
    """The points of a trial; test points are reported, validation points choose."""

    training: Points
    validation: Points
    test: Points
    reference: Points
    truth: Cloud
    near: float  # distance to the nearest training point that 1 of 100 fresh points undercuts

    @classmethod
    def of(cls, trial: Trial) -> TrialData:
        training = trial.points("training", trial.n)
        test = trial.points("test", trial.samples)
        near = float(np.quantile(nearest(test.points, training.points), 0.01))
        return cls(training, trial.points("validation", 2000), test,
                   trial.points("reference", trial.fresh), truth_of(trial), near)  # fmt: skip


def truth_of(trial: Trial) -> Cloud:
    """Fresh points, the same for all trials of a world."""
    return _truth(trial.world, trial.fresh)


@lru_cache(maxsize=2)
def _truth(name: str, n: int) -> Cloud:
    return Cloud.of(draw(name, n, stream(name, "truth")).points)


def by_heart(trial: Trial) -> float:
    """Distance to the truth of a model that knows the training points and nothing else.

    It takes a class, all with equal chances, and then one of its training points.
    """
    points, labels = trial.points("training", trial.n)
    truth, classes = truth_of(trial), world(trial.world).classes
    clouds = [Cloud.of(points[labels == c]) for c in range(classes)]
    apart = sum(x.to(y) for x in clouds for y in clouds) / classes**2  # a point may meet itself
    return 2 * sum(x.to(truth) for x in clouds) / classes - apart - truth.within


def nearest(points: Tensor, training: Tensor) -> np.ndarray:
    """Distance of each point to the nearest training point, [n]."""
    from scipy.spatial import KDTree

    return KDTree(training.numpy()).query(points.numpy())[0]


def side_by_side(trials: Sequence[Trial]) -> Trial:
    """The first of trials that differ in seeds and sizes only; ValueError if others do not."""
    first = trials[0]
    free = {"arms", *SOURCES}
    for other in trials:
        unlike = [k for k, v in vars(first).items() if k not in free and v != getattr(other, k)]
        if unlike or [*first.arms] != [*other.arms]:
            name = unlike[0] if unlike else "arms"
            raise ValueError(f"trials side by side must have the same {name}")
    return first


def tokenizers(trials: Sequence[Trial]) -> list[dict[str, PointTokenizer]]:
    """Trained tokenizers of each trial, by arm; a stage of the cache."""
    first, needed = side_by_side(trials), {t.tokenizer_key: t for t in trials}
    shared = ("world", "tokenizer_points", "tokenizer_steps", "tokenizer_batch", "tokenizer_lr")
    inputs = {name: getattr(first, name) for name in shared} | fold(first.shape)
    inputs |= {"arms": [*first.arms], "keys": [repr(key) for key in needed]}

    def build(folder: Path) -> None:
        for i, models in enumerate(train_tokenizers([*needed.values()])):
            for name, model in models.items():
                save_tensors(folder / f"{i}-{name}.safetensors", model.state_dict())

    folder = cache.stage("lab", inputs, build)
    places = {key: i for i, key in enumerate(needed)}
    found = []
    for t in trials:
        models = {name: PointTokenizer(sizes, t.shape).eval() for name, sizes in t.arms.items()}
        for name, model in models.items():
            path = folder / f"{places[t.tokenizer_key]}-{name}.safetensors"
            model.load_state_dict(load_tensors(path)[0])
        found.append(models)
    return found


def train_tokenizers(trials: Sequence[Trial]) -> list[dict[str, PointTokenizer]]:
    """What `tokenizers` caches: all arms of all trials in one stack."""
    first = side_by_side(trials)
    twins = [
        seeded(lambda sizes=sizes: StackedTokenizer(sizes, first.shape), t.tokenizer_seed)
        for t in trials
        for sizes in t.arms.values()
    ]
    stack = Stack(twins, first.tokenizer_lr, (0.9, 0.99), steps=first.tokenizer_steps)
    generators = [stream(t.world, "tokenizer", t.tokenizer_seed) for t in trials]
    own = [t.points("training", t.n).points for t in trials]
    size = (first.tokenizer_batch,)
    for _ in range(first.tokenizer_steps):
        if first.tokenizer_points == "training":
            batches = [x[torch.randint(first.n, size, generator=g)]
                       for x, g in zip(own, generators, strict=True)]  # fmt: skip
        else:
            batches = [draw(first.world, *size, g).points for g in generators]
        stack.train(torch.stack(batches).repeat_interleave(len(first.arms), 0))
    models = iter(range(len(twins)))
    return [
        {
            name: stack.load_into(PointTokenizer(sizes, t.shape), next(models))
            for name, sizes in t.arms.items()
        }
        for t in trials
    ]


def train_ar(
    trials: Sequence[Trial], codes: Sequence[dict[str, Tensor]], labels: Sequence[Tensor]
) -> Iterator[tuple[float, list[dict[str, ARModel]]]]:
    """Train on each trial's codes [N, T] by arm and labels [N]; yields at each stop.

    The order of the data is that of `batch_indices`, for each trial its own.
    """
    first = side_by_side(trials)
    classes, arms = world(first.world).classes, len(first.arms)
    configs = [[ar_config(k, classes, first.shape) for k in t.arms.values()] for t in trials]
    twins = []
    for t, mine, rows, y in zip(trials, configs, codes, labels, strict=True):
        for config, matrix in zip(mine, rows.values(), strict=True):
            twins.append(seeded(lambda config=config: StackedAR(config), t.ar_seed))
            ARModel.check(twins[-1], matrix, y)
    stack = Stack(twins, first.lr, (0.9, 0.96), first.weight_decay)
    every = torch.stack([matrix for rows in codes for matrix in rows.values()])  # [models, N, T]
    classes_of = torch.stack([y for y in labels for _ in range(arms)])  # [models, N]
    model = torch.arange(len(twins))[:, None]
    per_epoch = max(1, first.n // first.batch)
    for passes in first.passes:
        while stack.step < first.steps(passes):
            epoch, place = divmod(stack.step, per_epoch)
            if place == 0:
                order = torch.stack([shuffled(first.n, t.ar_seed, epoch) for t in trials])
                order = order.repeat_interleave(arms, 0)
            rows = order[:, place * first.batch : (place + 1) * first.batch]  # [models, B]
            stack.train(every[model, rows], classes_of[model, rows])
        stopped = [stack.load_into(ARModel(c), i) for i, c in enumerate(chain(*configs))]
        parts = (stopped[i : i + arms] for i in range(0, len(stopped), arms))
        yield passes, [dict(zip(first.arms, part, strict=True)) for part in parts]
