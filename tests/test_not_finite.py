"""What is not finite, real or symmetric is refused by name, and moves no state.

One table a kind: the next case is one line.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vcqlib.metrics import distances as ev
from vcqlib.metrics import probe
from vcqlib.models.autoregressive import ARConfig, ARModel
from vcqlib.models.quantizer import VariableCodebookQuantizer
from vcqlib.models.tokenizer import Tokenizer, TokenizerConfig
from vcqlib.training.losses import PatchCritic
from vcqlib.training.recipe import Losses, Recipe
from vcqlib.training.tokenizer import train_tokenizer

# ------------------------------------------------------------ every metric, every bad value

GOOD = np.random.default_rng(0).normal(size=(50, 4))
LABELS = np.arange(50) % 2

# door → what it is called with in place of good features, and the name that the error gives
DOORS = {
    "moments": (ev.moments, "features"),
    "frechet, first": (lambda x: ev.frechet_distance(x, GOOD), "a"),
    "frechet, second": (lambda x: ev.frechet_distance(GOOD, x), "b"),
    "floor": (lambda x: ev.real_real_floor(x, 20), "features"),
    "kernel, first": (lambda x: ev.kernel_distance(x, GOOD, subsets=2), "a"),
    "kernel, second": (lambda x: ev.kernel_distance(GOOD, x, subsets=2), "b"),
    "precision, real": (lambda x: ev.precision_recall(x, GOOD), "real"),
    "precision, fake": (lambda x: ev.precision_recall(GOOD, x), "fake"),
    "class score": (ev.class_score, "probabilities"),
    "nearest, samples": (lambda x: ev.nearest_training(x, GOOD), "samples"),
    "nearest, training": (lambda x: ev.nearest_training(GOOD, x), "training"),
    "copies": (lambda x: ev.count_copies(x, [1.0]), "distances"),
    "copies, held out": (lambda x: ev.count_copies([1.0], x), "held_out_distances"),
    "probe": (lambda x: ev.linear_probe(x, LABELS, GOOD, LABELS), "x_train"),
    "probe, test": (lambda x: ev.linear_probe(GOOD, LABELS, x, LABELS), "x_test"),
    "gradient probe": (lambda x: probe.gradient_probe(x, LABELS, GOOD, LABELS), "x_train"),
    "gradient probe, test": (lambda x: probe.gradient_probe(GOOD, LABELS, x, LABELS), "x_test"),
    "prefix probe": (
        lambda x: ev.prefix_probe(
            x.reshape(50, 2, 2), LABELS, GOOD.reshape(50, 2, 2), LABELS, lengths=[2]
        ),
        "x_train",
    ),
}


def spoilt(value: complex, dtype: type = float) -> np.ndarray:
    bad = np.abs(GOOD).astype(dtype)
    bad[3, 2] = value
    return bad


BAD = {
    "NaN": (spoilt(np.nan), "1 NaN or infinite"),
    "inf": (spoilt(-np.inf), "1 NaN or infinite"),
    "NaN in half precision": (spoilt(np.nan, np.float16), "1 NaN or infinite"),
    "NaN in bf16": (torch.from_numpy(spoilt(np.nan)).bfloat16(), "1 NaN or infinite"),
    "complex": (spoilt(1 + 2j, complex), "real numbers, got complex128"),
    "complex tensor": (torch.from_numpy(spoilt(1 + 2j, complex)), "real numbers, got complex128"),
    "truth values": (GOOD > 0, "real numbers, got bool"),
    "strings": (GOOD.astype(str), "real numbers, got <U"),
    "objects": (GOOD.astype(object), "real numbers, got object"),
    "dates": (GOOD.astype("datetime64[s]"), "real numbers, got datetime64"),
    "masked": (np.ma.masked_less(GOOD, 0), "masked entries"),
    "overflow": (spoilt(1e200), "too large to be squared"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("door", DOORS)
def test_every_metric_refuses_it_in_one_line_that_names_it(door: str, bad: str) -> None:
    (call, name), (value, message) = DOORS[door], BAD[bad]
    with pytest.raises(ValueError, match=message) as error:
        call(value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith((name, "train")), error.value


def covariance(**entries: float) -> np.ndarray:
    matrix = np.diag([2.0, 3.0])
    matrix[0, 1] = entries.get("above", 0.5)
    matrix[1, 0] = entries.get("below", 0.5)
    matrix[1, 1] = entries.get("corner", 3.0)
    return matrix


MOMENTS = {
    "NaN mean": ([0, np.nan], covariance(), "the mean of x has 1 NaN"),
    "infinite mean": ([0, np.inf], covariance(), "the mean of x has 1 NaN or infinite"),
    "complex mean": ([0, 1j], covariance(), "the mean of x must be real numbers, got complex"),
    "NaN covariance": ([0, 1], covariance(corner=np.nan), "the covariance of x has 1 NaN"),
    "complex covariance": ([0, 1], covariance() + 0j, "the covariance of x must be real"),
    "asymmetric": ([0, 1], covariance(above=0.7), r"not symmetric: 0.7 at \[0, 1\], 0.5 at"),
    "negative variance": ([0, 1], covariance(corner=-1.0), "negative eigenvalue -1.08"),
    "indefinite": ([0, 1], covariance(above=9, below=9), "negative eigenvalue -6.5"),
    "another size": ([0, 1, 2], covariance(), r"got \(3,\) and \(2, 2\)"),
    "variances alone": ([0, 1], [2.0, 3.0], r"got \(2,\) and \(2,\)"),
    "a matrix of means": ([[0, 1]], covariance(), r"got \(1, 2\) and \(2, 2\)"),
    "no mean": ([], np.empty((0, 0)), "the mean of x is empty"),
}


@pytest.mark.parametrize("case", MOMENTS)
def test_moments_that_no_gaussian_has_are_refused_through_every_door(case, tmp_path) -> None:
    mean, matrix, message = MOMENTS[case]
    bad, good = ev.Moments(np.asarray(mean), np.asarray(matrix)), ev.Moments(*map(np.array, (
        [0.0, 1.0], covariance())))  # fmt: skip
    for first, second, name in ((bad, good, "a"), (good, bad, "b")):
        with pytest.raises(ValueError, match=message.replace("of x", f"of {name}")):
            ev.frechet_from_moments(first, second)
    path = tmp_path / "reference.npz"
    np.savez(path, mu=bad.mean, sigma=bad.covariance)
    if "eigenvalue" in message:  # seen where it is used
        path_moments = ev.load_moments(path)
        with pytest.raises(ValueError, match=message):
            ev.frechet_from_moments(good, path_moments)
        return
    with pytest.raises(ValueError, match=message.replace("of x", "of .*reference.npz")):
        ev.load_moments(path)


def test_rounding_of_a_flat_covariance_is_no_negative_eigenvalue() -> None:
    narrow = np.random.default_rng(0).normal(size=(300, 3)) @ np.ones((3, 40))
    a = ev.moments(narrow)
    stored = ev.Moments(a.mean.astype(np.float32), a.covariance.astype(np.float32))
    assert np.linalg.eigvalsh(stored.covariance).min() < 0
    assert ev.frechet_from_moments(a, stored) == pytest.approx(0, abs=1e-3)


SETTINGS = {
    "no pairs of halves": (lambda: ev.real_real_floor(GOOD, -5), "n must be at least 1, got -5"),
    "half a pair of halves": (
        lambda: ev.real_real_floor(GOOD, 20.0), "n must be an integer, got 20.0"
    ),
    "half a neighbour": (
        lambda: ev.precision_recall(GOOD, GOOD, k=2.5), "k must be an integer, got 2.5"
    ),
    "no neighbour": (lambda: ev.precision_recall(GOOD, GOOD, k=0), "k must be at least 1, got 0"),
    "a true neighbour": (
        lambda: ev.precision_recall(GOOD, GOOD, k=True), "k must be an integer, got True"
    ),
    "half a subset": (
        lambda: ev.kernel_distance(GOOD, GOOD, subset_size=9.5), "subset_size must be an integer"
    ),
    "rows that are halves": (lambda: quantizer(num_codes=9.5), "num_codes must be an integer"),
    "a revival each 1.5 batches": (lambda: quantizer(revive=1.5), "revive must be an integer"),
    "half a dimension": (
        lambda: VariableCodebookQuantizer(SIZES, 2.5), "dim must be an integer, got 2.5"
    ),
    "no subsets": (lambda: ev.kernel_distance(GOOD, GOOD, subsets=0), "subsets must be at least 1"),
    "negative distance": (lambda: ev.count_copies([-1.0], [1.0]), "negative value -1"),
    "channels last": (
        lambda: ev.reconstruction(*[np.zeros((2, 8, 8, 3), np.uint8)] * 2),
        "move the last axis",
    ),
    "empty pictures": (lambda: ev.reconstruction(*[np.zeros((2, 1, 0, 8), np.uint8)] * 2), "empty"),
    "bytes beside features": (
        lambda: ev.nearest_training(np.zeros((2, 16), np.uint8), np.full((3, 16), 200.0)),
        r"training must be uint8 images, or floats in \[-1, 1\], got float64 from 200",
    ),
    "bytes in int64": (
        lambda: ev.nearest_training(np.zeros((2, 1, 4, 4), np.uint8),
                                    np.full((2, 1, 4, 4), 200)),
        r"training must be uint8 images, or floats in \[-1, 1\], got int64 from 200 to 200",
    ),
    "other layout": (
        lambda: ev.nearest_training(np.zeros((2, 3, 8, 8)), np.zeros((2, 8, 8, 3))),
        r"\(3, 8, 8\) each, training rows \(8, 8, 3\)",
    ),
    "ragged": (lambda: ev.moments([[1.0], [1.0, 2.0]]), "features is no array: its rows differ"),
    "missing codes": (
        lambda: ev.prefix_probe(np.full((9, 2), -1), LABELS[:9], np.zeros((9, 2), int), LABELS[:9]),
        "train must be codes .* the least -1",
    ),
    "labels that are scores": (
        lambda: ev.linear_probe(GOOD, LABELS + 0.5, GOOD, LABELS),
        "y_train must be whole numbers",
    ),
    "labels that are missing": (
        lambda: ev.linear_probe(GOOD, np.where(LABELS, np.nan, 0), GOOD, LABELS),
        "y_train must be whole numbers",
    ),
    "sparse NaN": (
        lambda: ev.linear_probe(_sparse(spoilt(np.nan)), LABELS, _sparse(GOOD), LABELS),
        "x_train has 1 NaN",
    ),
    "sparse widths": (
        lambda: ev.linear_probe(_sparse(GOOD), LABELS, _sparse(GOOD[:, 1:]), LABELS),
        "x_train has 4 features, x_test has 3",
    ),
}  # fmt: skip


def _sparse(x: np.ndarray):
    from scipy.sparse import csr_array

    return csr_array(x)


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_and_sets_that_give_no_number(case: str) -> None:
    call, message = SETTINGS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_a_common_mean_loses_no_digits() -> None:
    """Distances do not depend on where zero is: |a|² − 2ab + |b|² in float64 does, from 1e8 on."""
    real, fake = GOOD, GOOD[::-1] * 0.5 + 0.3
    far = 3e8
    assert ev.precision_recall(real + far, fake + far) == ev.precision_recall(real, fake)
    near, moved = ev.nearest_training(fake, real), ev.nearest_training(fake + far, real + far)
    assert np.array_equal(near[0], moved[0])
    np.testing.assert_allclose(near[1], moved[1], rtol=1e-6)


@pytest.mark.parametrize("far", [0.0, 1e7])
def test_a_copy_lies_in_a_ball_of_radius_zero(far: float) -> None:
    """Every row twice: the nearest other row is at distance 0, and rounding must not lose it."""
    twice = np.repeat(GOOD, 2, axis=0) * 100 + 37 + far
    assert ev.precision_recall(twice, twice[::-1], k=1) == (1.0, 1.0)


def test_sparse_tensors_of_any_layout_are_read() -> None:
    x = torch.from_numpy(np.abs(GOOD))
    for sparse in (x.to_sparse(), x.to_sparse_csr()):
        np.testing.assert_array_equal(ev.moments(sparse).mean, ev.moments(x).mean)


def test_the_psnr_of_equal_images_can_be_recorded(tmp_path) -> None:
    from vcqlib.files import read_json, write_json

    same = np.zeros((2, 1, 8, 8), np.uint8)
    write_json(tmp_path / "r.json", ev.reconstruction(same, same))
    assert read_json(tmp_path / "r.json") == {"mse": 0.0, "psnr": None, "ssim": 1.0}


# ------------------------------------------------------------ no state moves

SIZES, DIM = (2, 4, 4, 8), 5
OPTIONS = {
    "plain": {},
    "balance": {"balance": True},
    "ema": {"ema": 0.9},
    "revive": {"revive": 1},
    "all": {"balance": True, "ema": 0.9, "revive": 1},
    "euclidean": {"distance": "euclidean", "ema": 0.9, "revive": 1},
}
BATCHES = {
    "one NaN": lambda z: z.index_fill(0, torch.tensor([3]), math.nan),
    "one entry inf": lambda z: torch.where(torch.arange(DIM) == 2, math.inf, z),
    "all NaN": lambda z: z * math.nan,
    "overflow": lambda z: z * 1e30,
}


def quantizer(**options) -> VariableCodebookQuantizer:
    made = VariableCodebookQuantizer(SIZES, DIM, **options)
    made.reset_parameters(torch.Generator().manual_seed(0))
    return made.train()


def vectors(seed: int) -> torch.Tensor:
    return torch.randn(20, len(SIZES), DIM, generator=torch.Generator().manual_seed(seed))


SQUARED = ("balance", "all", "euclidean")  # cosine alone makes a vector that is too long 0


@pytest.mark.parametrize(
    ("name", "batch"),
    [(n, b) for n in OPTIONS for b in BATCHES if b != "overflow" or n in SQUARED],
)
def test_a_batch_that_is_not_finite_moves_nothing(name: str, batch: str) -> None:
    """Neither rows, averages, statistics, revival nor counts: the next batch finds no trace."""
    vq, other = quantizer(**OPTIONS[name]), quantizer(**OPTIONS[name])
    for seed in range(3):
        vq(vectors(seed)), other(vectors(seed))
    before = {k: v.clone() for k, v in vq.state_dict().items()}
    loss = vq(BATCHES[batch](vectors(9))).loss
    assert not loss.isfinite()  # the loop sees it
    for key, value in vq.state_dict().items():
        assert torch.equal(value, before[key]), key
    vq(vectors(4)), other(vectors(4))
    for key, value in other.state_dict().items():
        assert torch.equal(value, vq.state_dict()[key]), key


DAMAGED = {
    "codebook": (lambda q: q.codebook.data[1].fill_(math.nan), "the codebook has NaN"),
    "long rows": (
        lambda q: q.codebook.data[1].fill_(1e30),
        "the codebook has NaN, infinite or too",
    ),
    "mean": (lambda q: q.norm.running_mean[0].fill_(math.inf), "running statistics have NaN"),
    "variance": (lambda q: q.norm.running_var[0].fill_(math.inf), "running statistics have NaN"),
    "below zero": (lambda q: q.norm.running_var[0].fill_(-1), "running statistics have NaN"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_eval_refuses_damaged_rows_and_statistics(case: str) -> None:
    spoil, message = DAMAGED[case]
    vq = quantizer(balance=True).eval()
    codes = vq(vectors(0)).codes
    spoil(vq)
    doors = [lambda: vq(vectors(0)), lambda: vq.encode(vectors(0))]
    if "codebook" in message:
        doors += [lambda: vq.decode(codes), vq.mean_vectors]
    for door in doors:
        with pytest.raises(ValueError, match=message):
            door()


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e25])
def test_eval_refuses_vectors_that_are_near_to_no_row(value: float) -> None:
    for name, options in OPTIONS.items():
        vq, z = quantizer(**options).eval(), vectors(0)
        z[3, 1, 2] = value
        for door in (vq, vq.encode, lambda z, vq=vq: vq.place(z)):
            with pytest.raises(ValueError, match="z has NaN, infinite or too large"):
                door(z)
                pytest.fail(name)


VECTORS = {
    "complex": vectors(0) + 1j,
    "integers": vectors(0).long(),
    "truth values": vectors(0) > 0,
    "more positions": vectors(0).repeat(1, 2, 1),
    "a matrix": vectors(0)[:, 0],
}


@pytest.mark.parametrize("case", VECTORS)
def test_vectors_of_another_kind_are_refused_where_they_enter(case: str) -> None:
    for vq in (quantizer(), quantizer().eval()):
        for door in (vq, vq.encode, vq.prepare, vq.place):
            with pytest.raises(ValueError, match=r"z must be floats \[B, 4, 5\], got torch"):
                door(VECTORS[case])


PICTURES = {
    "bytes as floats": (lambda x: x * 127.5 + 127.5, r"must be in \[-1, 1\], got -?\d.* to 2"),
    "NaN": (lambda x: x * math.nan, "got nan to nan"),
    "bytes": (lambda x: x.byte(), "must be float"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_pictures_in_other_units_are_not_encoded(case: str) -> None:
    change, message = PICTURES[case]
    model = Tokenizer(TokenizerConfig((2, 4, 8), 8, 8, 1, 4, width=16, depth=1))
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model.encode(x * 1.2)  # as a bicubic filter leaves them
    for door in (model.encode, model.features, model.eval()):
        with pytest.raises(ValueError, match=message):
            door(change(x))


def test_a_prefix_is_not_completed_by_means_of_nothing() -> None:
    model = Tokenizer(TokenizerConfig((2, 4, 8), 8, 8, 1, 4, width=16, depth=1))
    codes = torch.zeros(2, 3, dtype=torch.int64)
    model.decode(codes)  # a whole code needs no means
    with pytest.raises(ValueError, match="no code was counted: count some with quantizer.count"):
        model.decode(codes[:, :2])
    model.quantizer.count(codes)
    model.decode(codes[:, :2])


def test_an_average_that_keeps_the_untrained_weights_says_so() -> None:
    with pytest.warns(UserWarning, match="ema 0.999 over 100 steps keeps 90% of the untrained"):
        Recipe(100, 4, 1e-3, ema=0.999)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_critics_averages_stay(value: float) -> None:
    torch.manual_seed(0)
    critic, real = PatchCritic(1, 8, width=4), torch.rand(2, 1, 8, 8)
    critic.loss(real, real * 0.5, 0.1)
    before = critic.averages.clone()
    assert not critic.loss(real, real * value, 0.1).isfinite()
    assert torch.equal(critic.averages, before) and before.abs().sum() > 0
    critic.loss(real, real * 0.5, 0.1)
    assert not torch.equal(critic.averages, before)


@pytest.mark.parametrize(
    "options", [{"balance": True}, {"codebook_ema": 0.9}, {"codebook_ema": 0.9, "revive": 2}, {}]
)
def test_a_loop_that_meets_one_stops_and_the_model_is_still_good(options, monkeypatch) -> None:
    from vcqlib.training import tokenizer as module

    torch.manual_seed(0)
    model = Tokenizer(TokenizerConfig((2, 4, 8), 8, 8, 1, 4, width=16, depth=1, **options))
    images = torch.randint(256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    states, to_float = [], module.to_float

    def fifth_is_spoilt(pictures):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return to_float(pictures) * (math.nan if len(states) == 5 else 1)

    monkeypatch.setattr(module, "to_float", fifth_is_spoilt)
    losses = Losses(adversarial=0.1, critic_width=4)
    with pytest.raises(FloatingPointError, match="loss is nan at step 5"):
        train_tokenizer(model, images, Recipe(8, 10, 1e-3), losses=losses)
    for key, value in model.state_dict().items():
        assert torch.equal(value, states[-1][key]), key
    assert all(p.grad is None for p in model.parameters())
    model.eval().encode(to_float(images))  # refuses what is not finite


SAMPLED = {
    "NaN weights": (lambda m: m.head.weight.data.fill_(math.nan), {}),
    "NaN weights, greedy": (lambda m: m.norm.weight.data.fill_(math.nan), {"temperature": 0}),
    "infinite class": (lambda m: m.class_embedding.weight.data.fill_(math.inf), {}),
    "guidance beyond fp32": (lambda m: None, {"cfg_scale": 1e39}),
    "a temperature of next to nothing": (lambda m: None, {"temperature": 1e-45}),
}


@pytest.mark.parametrize("case", SAMPLED)
def test_codes_are_not_drawn_from_logits_that_are_not_finite(case: str) -> None:
    spoil, options = SAMPLED[case]
    torch.manual_seed(0)
    model = ARModel(ARConfig((2, 4, 8), 8, 3, width=16, layers=1, heads=2))
    spoil(model)
    with pytest.raises(ValueError, match="logits of position 1 are not finite: the weights are"):
        model.generate(torch.zeros(5, dtype=torch.int64), **options)
    assert model.training
