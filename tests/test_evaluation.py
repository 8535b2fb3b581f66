"""Metrics: identities, closed forms, other libraries as oracles, and refusals."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import sparse

from vcqlib.metrics import distances as ev


def normal(n: int, d: int, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, scale, (n, d))


def correlated(n: int, d: int, seed: int) -> np.ndarray:
    mixing = np.random.default_rng(seed + 100).normal(size=(d, d))
    return normal(n, d, seed) @ mixing + seed


def random_images(n: int, channels: int, size: int, seed: int = 0) -> np.ndarray:
    shape = (n, channels, size, size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- Fréchet distance -------------------------------------------------------------------------


def test_frechet_identities() -> None:
    a, b = correlated(300, 12, 1), correlated(200, 12, 2)
    assert ev.frechet_distance(a, a) < 1e-9
    assert ev.frechet_distance(a, b) == pytest.approx(ev.frechet_distance(b, a), rel=1e-10)
    shift = np.arange(12.0)
    assert ev.frechet_distance(a, a + shift) == pytest.approx(np.square(shift).sum(), rel=1e-9)
    rotation = np.linalg.qr(normal(12, 12, 9))[0]
    turned = ev.frechet_distance(a @ rotation, b @ rotation)
    assert turned == pytest.approx(ev.frechet_distance(a, b), rel=1e-9)


def test_frechet_closed_form_of_diagonal_gaussians() -> None:
    a = ev.Moments(np.array([0.0, 1.0]), np.diag([1.0, 4.0]))
    b = ev.Moments(np.array([3.0, 1.0]), np.diag([9.0, 0.25]))
    assert ev.frechet_from_moments(a, b) == pytest.approx(9 + (1 - 3) ** 2 + (2 - 0.5) ** 2)


def test_frechet_scales_with_the_square_of_the_units() -> None:
    a, b = correlated(300, 6, 1), correlated(300, 6, 2)
    assert ev.frechet_distance(3 * a, 3 * b) == pytest.approx(9 * ev.frechet_distance(a, b))


def test_frechet_agrees_with_torchmetrics_and_torch_fidelity() -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    a, b = correlated(500, 24, 3), correlated(400, 24, 4)
    ours = ev.frechet_distance(a, b)
    statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
    fidelity = fid_statistics_to_metric(*statistics, verbose=False)
    (mean_a, cov_a), (mean_b, cov_b) = ev.moments(a), ev.moments(b)
    metrics = _compute_fid(*map(torch.from_numpy, (mean_a, cov_a, mean_b, cov_b)))
    assert ours == pytest.approx(fidelity["frechet_inception_distance"], rel=1e-8)
    assert ours == pytest.approx(metrics.item(), rel=1e-8)


def test_flat_features_add_nothing_or_what_the_closed_form_says() -> None:
    a, b = correlated(200, 5, 1), correlated(200, 5, 2)
    dead_a, dead_b = np.full((200, 1), 7.0), np.full((200, 1), 7.0)
    plain = ev.frechet_distance(a, b)
    assert ev.frechet_distance(np.hstack([a, dead_a]), np.hstack([b, dead_b])) == pytest.approx(
        plain
    )
    alive = normal(200, 1, 5)
    flat = ev.Moments(np.array([7.0]), np.zeros((1, 1)))
    one = ev.frechet_from_moments(ev.moments(alive), flat)
    assert one == pytest.approx((alive.mean() - 7) ** 2 + alive.var(ddof=1))


def test_frechet_reads_torch_tensors_and_float32() -> None:
    a, b = normal(100, 4), normal(100, 4, 1)
    tensors = [torch.tensor(x, dtype=torch.float32, requires_grad=True) for x in (a, b)]
    assert ev.frechet_distance(*tensors) == pytest.approx(ev.frechet_distance(a, b), rel=1e-5)


def test_floor_is_the_distance_of_disjoint_halves_and_shrinks_with_n() -> None:
    x = correlated(4000, 8, 1)
    small, large = ev.real_real_floor(x, 100), ev.real_real_floor(x, 2000)
    assert 0 < large < small / 5
    assert ev.real_real_floor(x, 100, seed=0) == small != ev.real_real_floor(x, 100, seed=1)
    # Disjoint: with distinct rows in two clusters of one row each half would share nothing.
    order = np.random.default_rng(0).permutation(200)
    halves = x[order[:100]], x[order[100:]]
    assert ev.real_real_floor(x[:200], 100) == ev.frechet_distance(*halves)


def test_moments_round_trip_through_a_reference_file(tmp_path) -> None:
    a, b = ev.moments(correlated(100, 5, 1)), ev.moments(correlated(100, 5, 2))
    np.savez(tmp_path / "reference.npz", mu=a.mean, sigma=a.covariance)
    loaded = ev.load_moments(tmp_path / "reference.npz")
    assert ev.frechet_from_moments(loaded, b) == ev.frechet_from_moments(a, b)
    np.savez(tmp_path / "wrong.npz", mu=a.mean)
    with pytest.raises(ValueError, match="wrong.npz has no sigma"):
        ev.load_moments(tmp_path / "wrong.npz")


# --- kernel distance, precision and recall, class score ---------------------------------------


def test_kernel_distance_agrees_with_torch_fidelity_and_torchmetrics() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torchmetrics.image.kid import poly_mmd

    a, b = normal(60, 10), normal(60, 10, 1, shift=0.4)
    whole = ev.kernel_distance(a, b, subsets=1, subset_size=60)  # one subset: all, in any order
    fidelity = kid_features_to_metric(
        torch.from_numpy(a), torch.from_numpy(b), kid_subsets=1, kid_subset_size=60, verbose=False
    )
    assert whole == pytest.approx(fidelity["kernel_inception_distance_mean"], rel=1e-9)
    metrics = poly_mmd(torch.from_numpy(a), torch.from_numpy(b)).item()
    assert whole == pytest.approx(metrics, rel=1e-9)


def test_kernel_distance_is_unbiased_and_seeded() -> None:
    pairs = [(normal(100, 5, 2 * i), normal(100, 5, 2 * i + 1)) for i in range(60)]
    values = np.array([ev.kernel_distance(a, b, subsets=1) for a, b in pairs])
    assert (values < 0).any() and (values > 0).any()
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))
    a, b = pairs[0]
    first = ev.kernel_distance(a, b, seed=3, subsets=4, subset_size=20)
    assert first == ev.kernel_distance(a, b, seed=3, subsets=4, subset_size=20)
    assert first != ev.kernel_distance(a, b, seed=4, subsets=4, subset_size=20)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_agrees_with_torch_fidelity(k: int) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, fake = normal(300, 4), normal(300, 4, 1, shift=0.7, scale=0.6)
    ours = ev.precision_recall(real, fake, k=k)
    # torch-fidelity 0.4 takes the generated set first.
    theirs = prc_features_to_metric(
        torch.from_numpy(fake), torch.from_numpy(real), prc_neighborhood=k, verbose=False
    )
    assert ours == pytest.approx((theirs["precision"], theirs["recall"]))
    assert ours.precision > ours.recall  # the narrow set covers less than it hits


def test_precision_recall_extremes_and_blocks(monkeypatch) -> None:
    real = normal(200, 3)
    assert ev.precision_recall(real, real) == (1.0, 1.0)
    assert ev.precision_recall(real, real + 100) == (0.0, 0.0)
    collapsed = np.repeat(real[:1], 200, axis=0) + normal(200, 3, 5, scale=1e-6)
    result = ev.precision_recall(real, collapsed)
    assert result.precision == 1.0 and result.recall < 0.02
    fake = normal(200, 3, 1)
    whole = ev.precision_recall(real, fake)
    monkeypatch.setattr(ev, "WORKING_MEMORY", 0.01)  # blocks of 6 rows
    assert ev.precision_recall(real, fake) == whole


def test_class_score_bounds_and_oracle() -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    assert ev.class_score(np.eye(10)[np.arange(500) % 10]) == pytest.approx(10)
    assert ev.class_score(np.full((50, 10), 0.1)) == pytest.approx(1)
    assert ev.class_score(np.eye(10)[np.arange(490) % 7]) == pytest.approx(7)  # missing classes
    logits = torch.from_numpy(normal(200, 10, scale=3))
    theirs = isc_features_to_metric(logits, splits=1, shuffle=False)
    ours = ev.class_score(logits.softmax(dim=1))
    assert ours == pytest.approx(theirs["inception_score_mean"], rel=1e-9)


# --- reconstruction ---------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (1, 8)])
def test_reconstruction_agrees_with_torchmetrics(channels: int, size: int) -> None:
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    a = random_images(300, channels, size)  # more than one block
    b = np.clip(a + np.random.default_rng(1).normal(0, 40, a.shape), 0, 255).astype(np.uint8)
    ours = ev.reconstruction(torch.from_numpy(a), b)
    x, y = (torch.from_numpy(z / 127.5 - 1) for z in (a, b))
    assert ours["mse"] == pytest.approx((x - y).square().mean().item(), rel=1e-9)
    psnr = peak_signal_noise_ratio(y, x, data_range=(-1.0, 1.0))
    ssim = structural_similarity_index_measure(y, x, data_range=(-1.0, 1.0))
    assert ours["psnr"] == pytest.approx(psnr.item(), rel=1e-5)
    assert ours["ssim"] == pytest.approx(ssim.item(), rel=1e-5)


def test_reconstruction_extremes() -> None:
    black, white = np.zeros((2, 1, 8, 8), np.uint8), np.full((2, 1, 8, 8), 255, np.uint8)
    assert ev.reconstruction(black, black) == {"mse": 0.0, "psnr": None, "ssim": 1.0}
    assert ev.reconstruction(black, white)["mse"] == pytest.approx(4.0)


# --- copies -----------------------------------------------------------------------------------


def test_nearest_training_finds_the_brute_force_neighbour_and_exact_copies() -> None:
    samples, training = normal(40, 6), normal(300, 6, 1)
    samples[7] = training[123]
    index, distance = ev.nearest_training(samples, training)
    every = np.linalg.norm(samples[:, None] - training[None], axis=2)
    assert (index == every.argmin(axis=1)).all() and index[7] == 123
    assert distance == pytest.approx(every.min(axis=1), abs=1e-6) and distance[7] == 0.0


def test_nearest_training_measures_images_in_the_units_of_floats() -> None:
    images = random_images(20, 1, 6)
    floats = images / 127.5 - 1
    from_bytes = ev.nearest_training(images[:5], images[5:])
    from_floats = ev.nearest_training(floats[:5], floats[5:])
    assert (from_bytes[0] == from_floats[0]).all()
    assert from_bytes[1] == pytest.approx(from_floats[1], rel=1e-6)


def test_count_copies_against_held_out() -> None:
    training, held_out, fresh = (normal(500, 4, seed) for seed in (0, 1, 2))
    reference = ev.nearest_training(held_out, training)[1]
    itself = ev.count_copies(reference, reference, quantile=0.02)
    assert itself.count == 10 and itself.fraction == 0.02
    mixed = np.concatenate([training[:100], fresh[:100]])
    copies = ev.count_copies(ev.nearest_training(mixed, training)[1], reference, quantile=0.02)
    assert 100 <= copies.count < 110 and copies.threshold == itself.threshold
    assert ev.count_copies([0.0, 1.0], [0.0, 0.0, 5.0], quantile=0.5).count == 1  # ties count


# --- linear probe -----------------------------------------------------------------------------


def classes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(n) % 3
    return normal(n, 5, seed) + 6 * np.eye(5)[y], y


def test_linear_probe_separates_and_does_not_depend_on_units() -> None:
    (x, y), (x_test, y_test) = classes(120, 0), classes(90, 1)
    accuracy = ev.linear_probe(x, y, x_test, y_test)
    assert accuracy > 0.97
    units = np.array([1e-4, 1, 1e3, 7, 1])
    assert ev.linear_probe(x * units, y, x_test * units, y_test) == accuracy
    shuffled = np.random.default_rng(0).permutation(y)
    assert ev.linear_probe(x, shuffled, x_test, y_test) < 0.6


def test_linear_probe_reads_sparse_features_and_tensors() -> None:
    (x, y), (x_test, y_test) = classes(120, 0), classes(90, 1)
    onehot, onehot_test = (sparse.csr_array(np.eye(3)[z]) for z in (y, y_test))
    assert ev.linear_probe(onehot, y, onehot_test, y_test) == 1.0
    tensors = map(torch.from_numpy, (x, y, x_test, y_test))
    assert ev.linear_probe(*tensors) == ev.linear_probe(x, y, x_test, y_test)


def test_prefix_probe_rises_where_the_class_is_written() -> None:
    y, y_test = np.arange(300) % 4, np.arange(200) % 4
    rng = np.random.default_rng(0)
    # Position 1 is noise, position 2 tells the parity, position 3 the class.
    codes, codes_test = (
        np.stack([rng.integers(0, 5, len(z)), z % 2, (z * 3) % 7], axis=1) for z in (y, y_test)
    )
    accuracy = ev.prefix_probe(codes, y, codes_test, y_test)
    assert accuracy.shape == (3,)
    assert accuracy[0] < 0.4 and accuracy[1] == pytest.approx(0.5, abs=0.1) and accuracy[2] == 1.0
    vectors, vectors_test = (np.eye(7)[z] for z in (codes, codes_test))  # [N, 3, 7]
    assert ev.prefix_probe(vectors, y, vectors_test, y_test, lengths=[3, 1])[0] == 1.0
    assert (ev.prefix_probe(codes, y, codes_test, y_test, lengths=[3, 1]) == accuracy[[2, 0]]).all()


def test_prefix_probe_survives_codes_that_training_never_showed() -> None:
    y = np.arange(40) % 2
    codes_test = np.stack([y, np.full(40, 99)], axis=1)
    assert ev.prefix_probe(np.stack([y, y], axis=1), y, codes_test, y)[1] == 1.0


# --- refusals ---------------------------------------------------------------------------------

good, nan = normal(50, 4), normal(50, 4)
nan[3, 2] = np.nan
labels = np.arange(50) % 2
images = random_images(4, 1, 8)

REFUSED = {
    "fewer samples than features": (lambda: ev.frechet_distance(good[:4], good), "a: 4 .* 4 feat"),
    "constant features": (lambda: ev.frechet_distance(good, np.ones((50, 4))), "b: all 4 features"),
    "unequal widths": (lambda: ev.frechet_distance(good, good[:, :3]), "4 features against 3"),
    "nan": (lambda: ev.frechet_distance(good, nan), "b has 1 NaN"),
    "not a matrix": (lambda: ev.frechet_distance(good[0], good), r"\[N, d\]"),
    "floor without enough": (lambda: ev.real_real_floor(good, 26), "need 52 images, there are 50"),
    "kernel nan": (lambda: ev.kernel_distance(nan, good), "a has 1 NaN"),
    "kernel widths": (lambda: ev.kernel_distance(good, good[:, 1:]), "a has 4 features, b has 3"),
    "kernel single": (lambda: ev.kernel_distance(good[:1], good), "at least 2 samples"),
    "recall counts": (lambda: ev.precision_recall(good, good[:9]), "50 real .* 9 samples"),
    "recall k": (lambda: ev.precision_recall(good[:3], good[:3]), "k = 3 .* at least 4"),
    "recall nan": (lambda: ev.precision_recall(good, nan), "fake has 1 NaN"),
    "recall empty": (lambda: ev.precision_recall(good[:0], good[:0]), "real is empty"),
    "score logits": (lambda: ev.class_score(good), "softmax"),
    "float images": (lambda: ev.reconstruction(images / 255, images), "images must be uint8"),
    "unpaired": (lambda: ev.reconstruction(images, images[:3]), "must pair up"),
    "nearest widths": (lambda: ev.nearest_training(good, good[:, :2]), r"\(4,\) each, .* \(2,\)"),
    "nearest nan": (lambda: ev.nearest_training(good, nan), "training has 1 NaN"),
    "copies quantile": (lambda: ev.count_copies([1.0], [1.0], 1.0), "quantile .* got 1.0"),
    "copies empty": (lambda: ev.count_copies([], [1.0]), "distances is empty"),
    "missing class": (
        lambda: ev.linear_probe(good, labels, good, labels + 1),
        r"no example of class \[2\]",
    ),
    "one class": (lambda: ev.linear_probe(good, labels * 0, good, labels * 0), r"only the class"),
    "labels": (lambda: ev.linear_probe(good, labels[:9], good, labels), "50 rows, y_train has 9"),
    "probe nan": (lambda: ev.linear_probe(nan, labels, good, labels), "x_train has 1 NaN"),
    "prefix floats": (lambda: ev.prefix_probe(good, labels, good, labels), "integer codes"),
    "prefix length": (
        lambda: ev.prefix_probe(labels[:, None], labels, labels[:, None], labels, [2]),
        "a prefix length must be in 1…1, got 2",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_import_loads_neither_torch_nor_scikit_learn() -> None:
    code = "print({'torch', 'sklearn', 'scipy'} & set(sys.modules))"
    code = f"import sys, vcqlib.metrics.distances; {code}"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert printed.strip() == "set()"
