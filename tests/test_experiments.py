"""The chain on the digits at a tiny size: what the arms share, and what a result must obey."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vcqlib.data.image_sets import to_float
from vcqlib.entropy.estimates import conditional_entropy
from vcqlib.study import cache
from vcqlib.study import experiments as ex
from vcqlib.training.inference import position_bits

BASE = ex.Experiment(
    dataset="digits", n_images=200, length=5, k_max=16, tokenizer="mlp-tiny", tokenizer_steps=30,
    tokenizer_batch=50, ar="nano", ar_steps=30, ar_batch=50, n_samples=120, device="cpu",
)  # fmt: skip
ARMS = ("uniform", "doubling", "loglinear", "matched", "reversed")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("cache")
        patch.setenv("VCQ_CACHE", str(path))
        yield path


def test_arms_have_equal_models_and_vocabulary():
    shapes = {
        tuple((n, tuple(p.shape)) for m in (ex.tokenizer(e), ex.ar(e).model)
              for n, p in m.named_parameters())
        for e in map(BASE.arm, ARMS)
    }  # fmt: skip
    assert len(shapes) == 1
    assert {ex.ar(BASE.arm(a)).model.config.vocabulary for a in ARMS} == {16}


def test_reversed_shares_the_tokenizer_and_flips_the_codes(folder):
    forward, backward = BASE.arm("loglinear"), BASE.arm("reversed")
    assert backward.sizes == forward.sizes[::-1]
    a = cache.key("tokenizer", ex._tokenizer_inputs(forward), ex.TOKENIZER_SOURCES)
    b = cache.key("tokenizer", ex._tokenizer_inputs(backward), ex.TOKENIZER_SOURCES)
    assert a == b
    for split in ("train", "test"):
        store, flipped = ex.codes(forward, split), ex.codes(backward, split)
        assert np.array_equal(flipped.codes, store.codes[:, ::-1])
        assert flipped.sizes == backward.sizes and store.sizes == forward.sizes
    rows = torch.from_numpy(ex.codes(forward).codes[:20].astype(np.int64))
    assert torch.equal(ex.decode(backward, rows.flip(1)), ex.decode(forward, rows))
    assert ex.ar(backward).folder != ex.ar(forward).folder


def test_codes_are_the_tokenizers_and_spend_at_most_log2_n():
    for arm in ARMS:
        e = BASE.arm(arm)
        store = ex.codes(e)
        entropy = conditional_entropy(np.ascontiguousarray(store.codes))
        assert entropy.bits.sum() == pytest.approx(entropy.total_bits)
        assert entropy.total_bits <= math.log2(200) + 1e-9
        assert (entropy.bits <= np.log2(e.sizes) + 1e-9).all()
        assert np.array_equal(store.labels, ex.images(e).labels)
    rows = ex.tokenizer(BASE).encode(to_float(ex.images(BASE).images))
    assert np.array_equal(rows.numpy(), ex.codes(BASE).codes)


def test_a_finished_stage_is_not_trained_again(monkeypatch):
    ex.ar(BASE)
    for name in ("train_tokenizer", "train_ar"):
        monkeypatch.setattr(ex, name, lambda *a: pytest.fail("trained again"))
    first, second = ex.ar(BASE), ex.ar(BASE)
    assert torch.equal(first.model.head.weight, second.model.head.weight)


def test_the_tokenizer_curve_ends_at_the_last_step():
    curve = ex.tokenizer_curve(BASE)
    assert curve[-1]["step"] == 30 and 0 < curve[-1]["mse"] < 2


def test_the_curve_is_that_of_the_kept_models():
    run = ex.ar(BASE)
    assert run.steps == list(ex.evaluation_steps(30)) and run.steps[-1] == 30
    assert run.best_step in run.steps
    rows, labels = ex._tensors(ex.codes(BASE, "test"))
    for i in (0, -1):
        model = run.at(run.steps[i])
        for which, own in (("held_out", False), ("held_out_own", True)):
            bits = position_bits(model, rows, labels, own)
            np.testing.assert_allclose(run.bits(which)[i], bits, rtol=1e-5)
    assert torch.equal(run.at(30).head.weight, run.model.head.weight)
    assert (run.bits("held_out_own") <= run.bits() + 1e-6).all()  # less mass to lose
    with pytest.raises(ValueError, match="no snapshot at step 29"):
        run.at(29)


def test_seeds_and_sizes_make_other_stages():
    keys = {
        cache.key("ar", ex._ar_inputs(e), ex.AR_SOURCES)
        for e in (BASE, replace(BASE, seed=1), replace(BASE, n_images=100), BASE.arm("uniform"))
    }
    assert len(keys) == 4
    # a setting of the AR model alone leaves the tokenizer as it is
    a, b = (ex._tokenizer_inputs(e) for e in (BASE, replace(BASE, ar_steps=99, dropout=0.3)))
    assert a == b


def test_samples_are_balanced_in_range_and_seeded():
    drawn = ex.generate(BASE, ex.ar(BASE).model)
    assert drawn.codes.shape == (120, 5) and drawn.images.shape == (120, 1, 8, 8)
    assert drawn.images.dtype == torch.uint8
    assert (drawn.codes < torch.tensor(BASE.sizes)).all()
    assert (drawn.labels.bincount() == 12).all()
    assert torch.equal(drawn.codes, ex.generate(BASE, ex.ar(BASE).model).codes)
    assert not torch.equal(drawn.codes, ex.generate(BASE, ex.ar(BASE).model, seed=1).codes)


def test_marginal_codes_keep_each_position_and_nothing_else():
    store, rows = ex.codes(BASE), ex.marginal_codes(BASE, 20_000).numpy()
    for t, k in enumerate(BASE.sizes):
        real, drawn = (np.bincount(c[:, t], minlength=k) / len(c) for c in (store.codes, rows))
        assert np.abs(real - drawn).max() < 0.02
    joint = np.corrcoef(rows.T)
    assert np.nanmax(np.abs(joint - np.eye(5))) < 0.04


@pytest.mark.parametrize("arm", ["loglinear", "reversed"])
def test_metrics(arm):
    result = ex.metrics(BASE.arm(arm))
    assert {"extractor", "n_samples", "n_reference", "reconstruction", "rfd", "entropy", "used",
            "last", "best", "gfd_marginals", "real_real"} <= set(result)  # fmt: skip
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["n_samples"] == 120 and result["n_reference"] == 360
    assert sum(result["entropy"]) <= math.log2(200) + 1e-9
    assert all(1 <= u <= k for u, k in zip(result["used"], BASE.arm(arm).sizes, strict=True))
    assert result["real_real"] < result["rfd"]  # real images are nearer than reconstructions
    for which in ("last", "best"):
        assert set(result[which]) >= {"step", "gfd", "gfd_train", "precision", "recall"}


def test_prepare_runs_the_stage_for_every_arm(folder):
    e = replace(BASE, seed=5, tokenizer_steps=3)
    ex.prepare([e, e.arm("uniform"), e.arm("reversed")], until="tokenizer")
    for arm in (e, e.arm("uniform")):
        key = cache.key("tokenizer", ex._tokenizer_inputs(arm), ex.TOKENIZER_SOURCES)
        assert (folder / key / "done.json").exists()
    with pytest.raises(ValueError, match="until must be one of .* got 'model'"):
        ex.prepare([e], until="model")


def test_parameters_of_a_notebook():
    values = {"dataset": "digits", "length": 4, "schedule": [2, 4, 8, 8], "title": "x", "np": np}
    e = ex.Experiment.of_parameters(values, seed=3)
    assert e.sizes == (2, 4, 8, 8) and e.seed == 3 and e.dataset == "digits"
    assert hash(e.arm("reversed", of=[2, 4, 8, 8])) != hash(e)
    assert e.arm("reversed", of=[2, 4, 8, 8]).sizes == (8, 8, 4, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_images": 1}, "n_images must be a whole number of at least 2 .* got 1"),
        ({"n_images": 2.5}, "n_images must be a whole number .* got 2.5"),
        ({"length": True}, "length must be a whole number .* got True"),
        ({"ar_steps": 0}, "ar_steps must be a whole number of at least 1 .* got 0"),
        ({"dropout": 1}, r"dropout must be in \[0, 1\), got 1"),
        ({"tokenizer": "mpl"}, "unknown tokenizer 'mpl': did you mean 'mlp'"),
        ({"ar": "tinny"}, "unknown ar 'tinny': did you mean 'tiny'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"schedule": "log-linear"}, "unknown schedule 'log-linear': did you mean 'loglinear'"),
        ({"schedule": (2, 4)}, "explicit schedule needs 5 integers"),
        ({"schedule": (2, 4, 8, 16, 32)}, r"K_5 = 32 is outside 2\.\.16"),
        ({"k_min": 32}, "k_min=32, k_max=16"),
        ({"seed": "one"}, "seed must be a whole number .* got 'one'"),
    ],
)
def test_bad_parameters_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(BASE, **changes)


def test_unknown_data_and_too_many_images():
    with pytest.raises(ValueError, match="digits"):
        ex.images(replace(BASE, dataset="digit"))
    with pytest.raises(ValueError, match="1437"):
        ex.images(replace(BASE, n_images=5000))


def test_changed_files_in_the_users_folder_change_the_stage(tmp_path):
    from PIL import Image

    for i in range(10):
        Image.new("L", (8, 8), 20 * i).save(tmp_path / f"{i}.png")
    e = ex.Experiment(dataset=f"folder:{tmp_path}", n_images=8, length=2, k_max=4)
    before = ex._tokenizer_inputs(e)
    Image.new("L", (8, 8), 255).save(tmp_path / "3.png")
    ex._files.cache_clear()
    assert ex._tokenizer_inputs(e) != before
