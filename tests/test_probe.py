"""The probe by gradient descent: the same model as scikit-learn's, for sets of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vcqlib.data.image_sets import load_images
from vcqlib.metrics import probe


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Few steps on one thread: larger operations would not pay for a second one."""
    monkeypatch.setattr(probe, "LEAST", 300)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits():
    train, test = load_images("digits", "train", 1200), load_images("digits", "test")
    rows = [x.images.flatten(1).numpy().astype(np.float64) for x in (train, test)]
    return rows[0], train.labels, rows[1], test.labels


def test_descent_ends_where_scikit_learn_does(digits) -> None:
    x, y, z, y_test = digits
    exact = probe.linear_probe(x, y, z, y_test)
    assert exact > 0.9
    assert probe.gradient_probe(x, y, z, y_test) == pytest.approx(exact, abs=0.02)


def test_codes_are_read_one_hot_without_columns(digits) -> None:
    x, y, z, y_test = digits
    codes, codes_test = ((part[:, ::3] // 32).astype(np.int64) for part in (x, z))
    exact = probe.prefix_probe(codes, y, codes_test, y_test, [22])[0]
    assert exact > 0.8
    assert probe.gradient_probe(codes, y, codes_test, y_test) == pytest.approx(exact, abs=0.02)


def test_it_is_the_same_twice_and_leaves_the_global_generator_alone(digits) -> None:
    before = torch.random.get_rng_state()
    assert probe.gradient_probe(*digits) == probe.gradient_probe(*digits)
    assert torch.equal(before, torch.random.get_rng_state())


def test_units_flat_features_and_names_of_classes_do_not_matter(digits) -> None:
    x, y, z, y_test = digits
    first = probe.gradient_probe(x, y, z, y_test)
    x, z = (np.hstack([part * 1e3, np.ones((len(part), 1))]) for part in (x, z))
    assert probe.gradient_probe(x, y * 7 - 3, z, y_test * 7 - 3) == pytest.approx(first, abs=0.005)


@pytest.mark.parametrize("codes", [True, False])
def test_large_sets_are_descended(digits, monkeypatch, codes: bool) -> None:
    x, y, z, y_test = digits
    if codes:
        x, z = x.astype(np.int64), z.astype(np.int64)
    else:
        x, z = x[:, :, None], z[:, :, None]
    monkeypatch.setattr(probe, "LARGE", 1000)
    monkeypatch.setattr(probe, "gradient_probe", lambda *given: len(given[0]) / 2400)
    assert probe.prefix_probe(x, y, z, y_test, [3], "cpu").tolist() == [0.5]


def test_a_code_that_training_never_showed_votes_for_nothing() -> None:
    y = np.arange(40) % 2
    unseen = np.stack([y, np.full(40, 99)], axis=1)
    assert probe.gradient_probe(np.stack([y, y], axis=1), y, unseen, y) == 1.0


@pytest.mark.parametrize(
    ("y", "y_test", "message"),
    [
        (np.arange(9), np.arange(10), "x_train has 10 rows, y_train has 9 labels"),
        (np.zeros(10), np.zeros(10), "only the class"),
        (np.arange(10) % 2, np.arange(10) % 3, r"no example of class \[2\]"),
    ],
)
def test_refusals(y: np.ndarray, y_test: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probe.gradient_probe(np.eye(10), y, np.eye(10), y_test)
