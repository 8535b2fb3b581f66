"""A number that is wrong, or a state that has moved: metrics, quantizer, sampling, given anything.

The doors are those of the tests, so that a new door is tried here too.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import test_any_integer as widths
import test_not_finite as values
import test_work_lost as modes
import torch
from numpy.random import Generator

from torture.tally import Tally, refusal
from vcqlib.metrics import distances as metrics
from vcqlib.models.autoregressive import ARConfig, ARModel
from vcqlib.models.quantizer import VariableCodebookQuantizer

BAD = (math.nan, math.inf, -math.inf, 1e51, -1e200)
KINDS = ("float16", "float32", "float64", "longdouble", "bfloat16", ">f8")


def run(tally: Tally, count: int, seed: int, folder: Path) -> None:
    """Every kind below, some of them less often."""
    torch.set_num_threads(1)
    tally.kinds({
        "NaN, infinite or huge entries into a metric": (20, _spoilt_features),
        "features of any layout and precision, compared": (5, _same_score),
        "moments of no Gaussian, and of some, compared": (20, _moments),
        "a far mean, copies and outliers, counted by hand": (5, _manifolds),
        "a spoilt batch in training, state compared": (10, _spoilt_batch),
        "integers of any width and stride, compared": (20, _integers),
        "settings of sampling": (20, _sampling),
        "a part that breaks, modes compared": (5, _modes),
    }, count, seed, folder)  # fmt: skip


def laid_out(x: np.ndarray, rng: Generator) -> np.ndarray | torch.Tensor:
    """The same numbers in another memory layout, as NumPy or torch."""
    way = rng.integers(6)
    if way == 0:
        return np.asfortranarray(x)
    if way == 1:
        return np.repeat(x, 2, axis=0)[::2]
    if way == 2:
        return x[::-1].copy()[::-1]
    if way == 3 and x.dtype.isnative and x.dtype != np.longdouble:
        tensor = torch.from_numpy(x.copy())
        return tensor.T.contiguous().T if x.ndim == 2 else tensor
    if way == 4:
        x = x.copy()
        x.flags.writeable = False
    return x


def as_kind(x: np.ndarray, kind: str) -> np.ndarray | torch.Tensor:
    with np.errstate(over="ignore"):
        return torch.from_numpy(x).bfloat16() if kind == "bfloat16" else x.astype(kind)


def _spoilt_features(rng: Generator, place: Path) -> str:
    door = rng.choice(list(values.DOORS))
    call, name = values.DOORS[door]
    bad = np.abs(values.GOOD)
    where = rng.integers(0, bad.shape, (rng.integers(1, 9), 2)).T
    bad[tuple(where)] = rng.choice(BAD, where.shape[1])
    kind = rng.choice(KINDS)
    given = as_kind(bad, kind)
    given = given if kind == "bfloat16" else laid_out(given, rng)
    problem = refusal(lambda: call(given))
    said = problem or refusal(lambda: call(given), name)
    if said and not refusal(lambda: call(given), "train"):  # of a pair of one kind
        said = ""
    return said and f"{door}, {kind}: {said}"


def _same_score(rng: Generator, place: Path) -> str:
    """The score is that of the same numbers in float64, in order; nothing given is changed."""
    metric, kind = rng.choice(list(widths.METRICS)), rng.choice(KINDS)
    given = [as_kind(x * 10.0 ** rng.integers(-3, 1), kind) for x in widths.FEATURES]
    exact = [x.double().numpy() if isinstance(x, torch.Tensor) else x.astype(float) for x in given]
    moved = [x if isinstance(x, torch.Tensor) else laid_out(x, rng) for x in given]
    call = widths.METRICS[metric]
    rough = metric == "class score" and "16" in kind  # a softmax of that precision
    found = np.ravel(call(*moved)).astype(float)
    right = np.ravel(call(*exact)).astype(float)
    close = np.allclose(found, right, rtol=5e-3 if rough else 1e-5, atol=1e-9)
    return "" if close else f"{metric}, {kind}: {found} where {right} is right"


def _moments(rng: Generator, place: Path) -> str:
    """A Gaussian's distance by another formula; what is none is refused at every door."""
    d = int(rng.integers(1, 7))
    a, b = (metrics.Moments(rng.normal(size=d), (q := rng.normal(size=(d, d))) @ q.T + np.eye(d))
            for _ in "ab")  # fmt: skip
    cross = np.sqrt(np.linalg.eigvals(a.covariance @ b.covariance).real.clip(0)).sum()
    right = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance) - 2 * cross
    if not np.isclose(found := metrics.frechet_from_moments(a, b), right, atol=1e-8):
        return f"{found} where {right} is right"
    mean, covariance = a.mean.copy(), a.covariance.copy()
    i, j = rng.integers(0, d, 2)
    way = rng.choice(["mean", "covariance", "complex", "lopsided", "negative", "shape", "words"])
    if way == "mean":
        mean[i] = rng.choice(BAD)
    elif way == "covariance":
        covariance[i, j] = covariance[j, i] = rng.choice(BAD)
    elif way == "complex":
        covariance = covariance + 1e-3j * np.eye(d)
    elif way == "lopsided" and d > 1:
        covariance[0, 1] += rng.choice([-1, 1]) * 10.0 ** rng.integers(-3, 3)
    elif way in ("negative", "lopsided"):
        covariance -= (np.linalg.eigvalsh(covariance)[0] + 10.0 ** rng.integers(-2, 3)) * np.eye(d)
    elif way == "shape":
        mean = np.append(mean, 0.0)
    else:
        covariance = covariance.astype(str)
    bad, path = metrics.Moments(mean, covariance), place / "m.npz"
    np.savez(path, mu=mean, sigma=covariance)
    for call in (
        lambda: metrics.frechet_from_moments(bad, b),
        lambda: metrics.frechet_from_moments(b, bad),
        lambda: metrics.frechet_from_moments(b, metrics.load_moments(path)),
    ):
        if said := refusal(call):
            return f"{way}: {said}"
    return ""


def _manifolds(rng: Generator, place: Path) -> str:
    """Precision, recall and nearest rows, by differences in long double."""
    k, width = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    shape, again = (rng.integers(k + 2, 30), width), rng.integers(1, 3)
    sets = [rng.integers(-4, 5, shape) * 2.0 ** rng.integers(-6, 8) for _ in "ab"]
    far = rng.choice([0, 1, -1]) * 2.0 ** rng.integers(0, 30)
    real, fake = (np.repeat(x, again, axis=0) + far for x in sets)

    def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.square(a[:, None] - b[None].astype(np.longdouble)).sum(-1)

    def share(points: np.ndarray, centres: np.ndarray) -> float:
        own = apart(centres, centres)
        np.fill_diagonal(own, np.inf)
        radii = np.sort(own, axis=1)[:, k - 1]
        return float((apart(points, centres) <= radii * (1 + 1e-9)).any(1).mean())

    found = metrics.precision_recall(real, fake, k)
    right = share(fake, real), share(real, fake)
    if not np.allclose(found, right):
        return f"{tuple(found)} where {right} is right, k = {k}, {sets}, {far}"
    nearest = apart(fake, real).min(1)
    if not np.allclose(metrics.nearest_training(fake, real)[1] ** 2, nearest.astype(float)):
        return f"nearest distances of {sets}, {far}"
    return ""


def _spoilt_batch(rng: Generator, place: Path) -> str:
    options = values.OPTIONS[rng.choice(list(values.OPTIONS))]
    options = options | {"beta": float(rng.choice([0, 0.25]))}
    sizes = sorted(rng.integers(2, 9, rng.integers(1, 5)).tolist())
    model, twin = (VariableCodebookQuantizer(sizes, 3, 12, **options) for _ in "ab")
    for vq in (model, twin):
        vq.reset_parameters(torch.Generator().manual_seed(0))

    def batch() -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=(6, len(sizes), 3))).float()

    for turn in range(3):
        good, bad = batch(), batch()
        kind = rng.choice([torch.float32, torch.bfloat16, torch.float16])
        where = rng.integers(0, bad.shape, (rng.integers(1, 5), 3)).T
        bad[tuple(where)] = float(rng.choice(BAD[:3]))
        if model(bad.to(kind)).loss.isfinite():
            return f"turn {turn}, {options}, {kind}: a finite loss"
        a, b = model(good), twin(good)
        if not torch.equal(a.codes, b.codes):
            return f"turn {turn}, {options}: other codes after it"
        for name, tensor in twin.state_dict().items():
            if not torch.equal(tensor, model.state_dict()[name]):
                return f"turn {turn}, {options}: {name} has moved"
    return ""


def _integers(rng: Generator, place: Path) -> str:
    door, kind = rng.choice(list(widths.DOORS)), rng.choice(widths.WIDTHS)
    rows = np.stack([rng.integers(0, k, 4) for k in widths.SIZES], 1)
    labels = rng.integers(0, 3, 4)
    call = widths.DOORS[door]
    if rng.random() < 0.5:  # one that no model can take, as this type would wrap it round
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
        bad = rows.astype(kind)
        known = [x for x in (low, high, -1, 8, 200, 256, 65_536, 2**32) if low <= x <= high and x]
        where = tuple(rng.integers(0, (4, 1 if "prefix" in door or door == "generate" else 3)))
        bad[where] = known[rng.integers(len(known))]
        said = refusal(lambda: call(laid_out(bad, rng), labels))
        return said and f"{door}, {bad.tolist()} of {kind}: {said}"
    found = call(laid_out(rows.astype(kind), rng), laid_out(labels.astype(kind), rng))
    right = call(torch.from_numpy(rows), torch.from_numpy(labels))
    return "" if torch.equal(found, right) else f"{door}, {rows.tolist()} of {kind}"


def _sampling(rng: Generator, place: Path) -> str:
    """Codes within their K_t, or a refusal; greedy ones are the same again."""
    torch.manual_seed(0)
    dropout = float(rng.choice([0, 0.1]))
    model = ARModel(ARConfig((2, 4, 8), 8, 3, width=8, layers=1, heads=1, label_dropout=dropout))
    settings = {
        "temperature": float(rng.choice([0, 1, 1e-30, 1e30, 0.5, math.nan, math.inf, -1])),
        "top_k": int(rng.choice([0, 1, 3, 10**9, -1])),
        "top_p": float(rng.choice([1, 1e-30, 0.5, 0, 1.5, math.nan])),
        "cfg_scale": float(rng.choice([1, 0, 4, -2, 1e38, math.nan, math.inf])),
        "guidance": str(rng.choice(["constant", "cosine", "sine"])),
        "guidance_power": float(rng.choice([1.75, 1e-9, 1e9, 0, math.nan])),
    }
    usual = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "cfg_scale": 1.0,
             "guidance": "constant", "guidance_power": 1.75}  # fmt: skip
    settings |= {k: v for k, v in usual.items() if rng.random() < 0.5}
    try:
        drawn = [model.generate(torch.arange(4), generator=torch.Generator().manual_seed(1),
                                **settings) for _ in "ab"]  # fmt: skip
    except ValueError as error:
        usual_ones = settings == usual
        return f"refused: {error}" if usual_ones or "\n" in str(error) else ""
    if settings["cfg_scale"] != 1 and not dropout:
        return f"{settings}: guided by an untrained vector"
    if not torch.equal(*drawn):
        return f"{settings}: one seed, two samples"
    fits = ((drawn[0] >= 0) & (drawn[0] < torch.tensor([2, 4, 8]))).all()
    return "" if fits and drawn[0].shape == (4, 3) else f"{settings}: {drawn[0].tolist()}"


def _modes(rng: Generator, place: Path) -> str:
    """Any part breaks, or none: every part is in the mode that it was in."""
    door = rng.choice(list(modes.DOORS))
    make, call, _ = modes.DOORS[door]
    model = make()
    for part in model.modules():
        part.training = bool(rng.random() < 0.7)
    before = [part.training for part in model.modules()]
    names = [name for name, _ in model.named_modules() if name]

    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    name = rng.choice(names)
    model.get_submodule(name).register_forward_hook(broken)
    try:
        call(model)
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
    same = [part.training for part in model.modules()] == before
    return "" if same else f"{door}, broken at {name}: the modes are not what they were"
