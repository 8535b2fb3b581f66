"""The lab's file: arms, where they are compared, and the claims that the comparison is to judge.

It holds `about`, `claims` and `rule` (text, committed before the runs), `base` (settings of a
trial), `sizes` (N: passes and samples), `arms` (name: how `codebook_sizes` makes it) and `groups`,
in the order in which they are computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from itertools import groupby, product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ..checks import naming, one_of
from ..files import read_yaml
from ..settings import Real, Whole, settings
from ..theory.schedules import codebook_sizes
from .models import Shape
from .trial import SOURCES, Trial

STACKED = 25  # models trained side by side; more gain little


@settings
class Claim:
    """A ratio of two arms that a claim says lies below 1."""

    treatment: str
    control: str
    says: str


@settings
class Size:
    """What belongs to a number of training points."""

    passes: tuple[Real, ...]
    samples: Whole


@settings
class LabGroup:
    """Trials: every world, N and seed, all arms side by side."""

    name: Annotated[str, Field(pattern=r"^[a-z]+$")]
    arms: Annotated[list[str], Field(min_length=1)]
    worlds: Annotated[list[str], Field(min_length=1)]
    n: Annotated[list[Whole], Field(min_length=1)]
    seeds: Whole = 0  # trials with seed 0, 1, … for everything
    crossed: tuple[Whole, Whole, Whole] | None = None  # training sets × tokenizers × AR seeds
    set: dict[str, Any] = dataclass_field(default_factory=dict)

    def triples(self) -> Iterator[tuple[int, int, int]]:
        """Seeds of training set, tokenizer and AR model."""
        yield from ((s, s, s) for s in range(self.seeds))
        if self.crossed:
            yield from product(*map(range, self.crossed))


@settings
class Lab:
    """What a lab file holds."""

    about: str
    rule: str
    claims: Annotated[list[Claim], Field(min_length=1)]
    arms: dict[str, dict[str, Any]]
    sizes: dict[int, Size]
    groups: Annotated[list[LabGroup], Field(min_length=1)]
    base: dict[str, Any] = dataclass_field(default_factory=dict)


@dataclass(frozen=True)
class LabRun:
    """One trial of a group: one record."""

    group: str
    trial: Trial

    @property
    def name(self) -> str:
        t = self.trial
        seeds = f"s{t.set_seed}"
        if not t.set_seed == t.tokenizer_seed == t.ar_seed:
            seeds += f"-t{t.tokenizer_seed}-a{t.ar_seed}"
        return f"{self.group}-{t.world}-n{t.n}-{seeds}"

    @property
    def cost(self) -> int:
        """Steps times models, tokenizers not counted."""
        return self.trial.steps(self.trial.passes[-1]) * len(self.trial.arms)


def load_lab(path: str | Path) -> Lab:
    """Read and check a lab file; ValueError names the file and the entry."""
    content = read_yaml(path)
    with naming(path):
        lab = Lab(**content)
        list(runs(lab))
    return lab


def runs(lab: Lab) -> Iterator[LabRun]:
    """The trials of all groups, in order."""
    known = set[str]()
    for group in lab.groups:
        for arm in group.arms:
            one_of(lab.arms, "arm", arm)
        for n in group.n:
            one_of(lab.sizes, "size", n)
        for world, n, seeds in product(group.worlds, group.n, group.triples()):
            run = LabRun(group.name, _trial(lab, group, world, n, seeds))
            if run.name in known:
                raise ValueError(f"two trials are called {run.name}")
            known.add(run.name)
            yield run


def blocks(some: Iterable[LabRun]) -> Iterator[list[LabRun]]:
    """Neighbours that can be trained side by side, about `STACKED` models at a time."""
    for _, same in groupby(some, lambda run: (run.group, run.trial.world, run.trial.n)):
        same = list(same)
        size = max(1, STACKED // len(same[0].trial.arms))
        yield from (same[i : i + size] for i in range(0, len(same), size))


def _trial(lab: Lab, group: LabGroup, world: str, n: int, seeds: tuple[int, int, int]) -> Trial:
    values = {**vars(lab.sizes[n]), **lab.base, **group.set}
    shape = Shape(**values.pop("shape", {}))
    arms = {}
    for name in group.arms:
        made = {"seed": seeds[1], **lab.arms[name]}  # a shuffled order for each tokenizer
        sizes = codebook_sizes(length=shape.length, k_max=shape.k_max, **made)
        arms[name] = tuple(sizes.tolist())
    named = dict(zip(SOURCES, seeds, strict=True))
    return Trial(arms=arms, world=world, n=n, shape=shape, **named, **values)
