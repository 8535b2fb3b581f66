"""Instruments that see the AR model: what they must give where the truth is known."""

import numpy as np
import pytest
import torch

from vcqlib.metrics import distances
from vcqlib.metrics.two_sample import two_sample_test
from vcqlib.study.configuration import Configuration
from vcqlib.study.experiment import Experiment
from vcqlib.study.instruments import (
    Reconstructions,
    forced_prefix,
    redraw,
    rows,
    two_sample,
)
from vcqlib.study.judge import judge

BASE = Configuration.of({
    "dataset": "digits", "n_images": 400, "length": 4, "k_max": 16, "tokenizer": "mlp-tiny",
    "tokenizer_steps": 60, "tokenizer_batch": 50, "ar": "nano", "ar_steps": 30, "ar_batch": 50,
    "n_samples": 120, "device": "cpu",
})  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCQ_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=["loglinear", "reversed"])
def e(request):
    return Experiment(BASE).arm(request.param)


@pytest.fixture(scope="module")
def real(e):
    return Reconstructions(e, judge(e))


def test_the_three_splits_share_no_image_and_are_balanced(e):
    parts = [{bytes(x) for x in split.images.numpy()} for split in (e.images, e.validation, e.test)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2])
    assert len(e.validation) == len(e.test) == 180
    for split in (e.validation, e.test):
        counts = split.labels.bincount()
        assert counts.max() - counts.min() <= 2


def test_true_codes_score_the_floor_and_nothing_less_does(e, real):
    floor = real.floor()
    again = real.distances(real.known.extract(e.decode(rows(e.codes.codes[:120]))))
    assert again == pytest.approx(floor)
    test = real.known.extract(e.decode(rows(e.test_codes.codes)))
    assert real.distances(test)["fd"] == pytest.approx(0, abs=1e-6)
    marginal = real.distances(real.known.extract(e.decode(e.marginal_codes(120))))
    assert marginal["fd"] > 3 * floor["fd"] and marginal["kid"] > floor["kid"]


def test_a_forced_prefix_ends_at_the_reconstructions_themselves(e, real):
    curve = forced_prefix(e, real)
    assert list(curve) == ["0", "1", "2", "3", "4"]
    whole = distances.frechet_distance(real.validation, real.test)
    assert curve["4"] == pytest.approx(whole)
    assert curve["4"] < curve["0"]  # an untrained model's codes are worse than real ones


def test_redrawing_nothing_gives_the_reconstructions_and_keeps_the_order(e):
    codes = e.test_codes.codes[:7]
    assert torch.equal(redraw(e, codes, 4), e.decode(rows(codes)))
    assert redraw(e, codes, 2, draws=3).shape == (21, 1, 8, 8)
    labels = e.test.labels[:7]
    assert torch.equal(redraw(e, codes, 1, labels), redraw(e, codes, 1, labels))


def test_two_sample_rows_are_of_every_prefix(e):
    found = two_sample(e, e.samples().codes)
    assert list(found["accuracy"]) == ["1", "2", "3", "4"]
    assert all(0 <= a <= 1 for a in (*found["accuracy"].values(), found["floor"]))


def test_equal_distributions_are_not_told_apart_and_others_are():
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 8, (2000, 4)) for _ in range(2))
    same = two_sample_test(first, second)
    assert abs(same.accuracy - 0.5) < 4 * same.error
    assert two_sample_test(first, second + 8).accuracy > 0.99
    # equal columns, other joint: the second code repeats the first
    twins = second.copy()
    twins[:, 1] = twins[:, 0]
    assert two_sample_test(first, twins).accuracy > 0.75
    assert two_sample_test(first[:, :1], twins[:, :1]).accuracy < 0.56
    assert two_sample_test(first, twins) == two_sample_test(first, twins)


@pytest.mark.parametrize("shapes", [((39, 4), (100, 4)), ((100, 4), (100, 3))])
def test_what_cannot_be_compared_is_refused(shapes):
    a, b = (np.zeros(shape, int) for shape in shapes)
    with pytest.raises(ValueError, match="need two sets"):
        two_sample_test(a, b)
