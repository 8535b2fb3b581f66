"""The chain on the digits at a tiny size: what the arms share, and what a result must obey."""

import json
import math
from io import BytesIO

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from vcqlib.data.image_sets import to_float
from vcqlib.entropy.estimates import conditional_entropy
from vcqlib.study import experiment, measures, stages
from vcqlib.study.configuration import Configuration
from vcqlib.study.experiment import Experiment, prepare
from vcqlib.training.inference import position_bits

TINY = {
    "dataset": "digits", "n_images": 200, "length": 5, "k_max": 16, "tokenizer": "mlp-tiny",
    "tokenizer_steps": 30, "tokenizer_batch": 50, "ar": "nano", "ar_steps": 30, "ar_batch": 50,
    "n_samples": 120, "device": "cpu",
}  # fmt: skip
BASE = Experiment(Configuration.of(TINY))
ARMS = ("uniform", "doubling", "loglinear", "matched", "reversed")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("cache")
        patch.setenv("VCQ_CACHE", str(path))
        yield path


def changed(**values):
    return Experiment(BASE.c.changed(**values))


def test_arms_have_equal_models_and_vocabulary():
    arms = [BASE.arm(name) for name in ARMS]
    shapes = {
        tuple((n, tuple(p.shape)) for m in (e.tokenizer, e.ar.model)
              for n, p in m.named_parameters())
        for e in arms
    }  # fmt: skip
    assert len(shapes) == 1
    assert {e.ar.model.config.vocabulary for e in arms} == {16}


def test_reversed_shares_the_tokenizer_and_flips_the_codes():
    forward, backward = BASE.arm("loglinear"), BASE.arm("reversed")
    assert backward.sizes == forward.sizes[::-1]
    assert backward.tokenizer_folder == forward.tokenizer_folder
    for split in ("codes", "test_codes"):
        store, flipped = getattr(forward, split), getattr(backward, split)
        assert np.array_equal(flipped.codes, store.codes[:, ::-1])
        assert flipped.sizes == backward.sizes and store.sizes == forward.sizes
    rows = torch.from_numpy(forward.codes.codes[:20].astype(np.int64))
    assert torch.equal(backward.decode(rows.flip(1)), forward.decode(rows))
    assert backward.ar.folder != forward.ar.folder


def test_codes_are_the_tokenizers_and_spend_at_most_log2_n():
    for e in map(BASE.arm, ARMS):
        entropy = conditional_entropy(np.ascontiguousarray(e.codes.codes))
        assert entropy.bits.sum() == pytest.approx(entropy.total_bits)
        assert entropy.total_bits <= math.log2(200) + 1e-9
        assert (entropy.bits <= np.log2(e.sizes) + 1e-9).all()
        assert np.array_equal(e.codes.labels, e.images.labels)
    rows = BASE.tokenizer.encode(to_float(BASE.images.images))
    assert np.array_equal(rows.numpy(), BASE.codes.codes)


def test_a_finished_stage_is_not_trained_again(monkeypatch):
    first = BASE.ar
    for name in ("train_tokenizer", "encode", "train_ar"):
        monkeypatch.setattr(experiment.stages, name, _not_again(getattr(stages, name)))
    second = changed().ar  # nothing of it is loaded
    assert second is not first and torch.equal(first.model.head.weight, second.model.head.weight)


def _not_again(stage):
    """A stage of the same name and code that must not be called."""

    def fail(*_):
        pytest.fail("made again")

    fail.__module__, fail.__name__ = stage.__module__, stage.__name__
    return fail


def test_the_tokenizer_curve_ends_at_the_last_step():
    curve = BASE.tokenizer_curve
    assert curve[-1]["step"] == 30 and 0 < curve[-1]["mse"] < 2


def test_the_curve_is_that_of_the_kept_models():
    run = BASE.ar
    assert run.steps == list(stages.evaluation_steps(30)) and run.steps[-1] == 30
    assert run.best_step in run.steps
    rows, labels = stages._sample(BASE.validation_codes)
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
    others = (BASE, changed(seed=1), changed(n_images=100), BASE.arm("uniform"))
    assert len({json.dumps(e.c.identity("ar")) for e in others}) == 4
    assert len({e.fingerprint for e in others}) == 4
    # a setting of the AR model alone leaves the tokenizer as it is
    other = changed(ar_steps=99, dropout=0.3, ar_seed=4, temperature=0.5)
    assert other.c.identity("tokenizer") == BASE.c.identity("tokenizer")
    assert other.fingerprint != BASE.fingerprint


@pytest.mark.parametrize(
    ("stage", "values"),
    [
        ("tokenizer", {"tokenizer_ema": 0.9}),
        ("tokenizer", {"tokenizer_accumulate": 2}),
        ("tokenizer", {"tokenizer_precision": "bf16"}),
        ("tokenizer", {"tokenizer_betas": (0.8, 0.9)}),
        ("tokenizer", {"pixels": "l1"}),
        ("tokenizer", {"perceptual": 0.5}),
        ("tokenizer", {"adversarial": 0.1}),
        ("tokenizer", {"lecam": 0.0}),
        ("tokenizer", {"codebook_ema": 0.9}),
        ("tokenizer", {"augment": True}),
        ("tokenizer", {"tokenizer": "mlp"}),
        ("ar", {"ar_ema": 0.9}),
        ("ar", {"ar_accumulate": 2}),
        ("ar", {"ar_precision": "bf16"}),
        ("ar", {"restricted_head": True}),
        ("ar", {"ar_snapshots": 3}),
        ("ar", {"ar_seed": 1}),
        ("samples", {"temperature": 0.9}),
        ("samples", {"guidance": "cosine"}),
        ("samples", {"n_samples": 50}),
    ],
)
def test_what_shapes_a_result_is_in_its_identity_and_in_no_earlier_one(stage, values):
    names = ("tokenizer", "ar", "samples")
    same = [changed(**values).c.identity(n) == BASE.c.identity(n) for n in names]
    assert same == [n in names[: names.index(stage)] for n in names]
    assert changed(**values).fingerprint != BASE.fingerprint


@pytest.mark.parametrize(
    "values",
    [{"workers": 2}, {"tokenizer_log_every": 1}, {"tokenizer_keep": 9}, {"ar_sample_every": 7},
     {"ar_checkpoint_minutes": 9}, {"tokenizer_compile": True}, {"ar_shard": True},
     {"evaluate_every": 5}],
)  # fmt: skip
def test_habits_are_in_no_identity(values):
    assert changed(**values).fingerprint == BASE.fingerprint


def test_samples_are_balanced_in_range_and_seeded():
    drawn = BASE.samples()
    assert drawn.codes.shape == (120, 5) and drawn.images.shape == (120, 1, 8, 8)
    assert drawn.images.dtype == torch.uint8
    assert (drawn.codes < torch.tensor(BASE.sizes)).all()
    assert (drawn.labels.bincount() == 12).all()
    model = BASE.ar.model
    assert torch.equal(drawn.codes, BASE.draw(model).codes)
    assert torch.equal(drawn.images, BASE.draw(model).images)
    assert not torch.equal(drawn.codes, BASE.draw(model, seed=1).codes)


def test_marginal_codes_keep_each_position_and_nothing_else():
    store, rows = BASE.codes, BASE.marginal_codes(20_000).numpy()
    for t, k in enumerate(BASE.sizes):
        real, drawn = (np.bincount(c[:, t], minlength=k) / len(c) for c in (store.codes, rows))
        assert np.abs(real - drawn).max() < 0.02
    joint = np.corrcoef(rows.T)
    assert np.nanmax(np.abs(joint - np.eye(5))) < 0.04


@pytest.mark.parametrize("arm", ["loglinear", "reversed"])
def test_metrics(arm):
    e = BASE.arm(arm)
    result = measures.metrics(e)
    assert {"extractor", "n_samples", "n_reference", "reconstruction", "rfd", "entropy", "used",
            "last", "best", "gfd_marginals", "real_real"} <= set(result)  # fmt: skip
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["n_samples"] == 120 and result["n_reference"] == 180
    assert sum(result["entropy"]) <= math.log2(200) + 1e-9
    assert all(1 <= u <= k for u, k in zip(result["used"], e.sizes, strict=True))
    assert result["real_real"] < result["rfd"]  # real images are nearer than reconstructions
    for which in ("last", "best"):
        assert set(result[which]) >= {"step", "gfd", "gfd_train", "precision", "recall"}


def test_prepare_runs_the_stage_for_every_arm():
    e = changed(seed=5, tokenizer_steps=3)
    arms = [e, e.arm("uniform"), e.arm("reversed")]
    prepare(arms, lambda e: e.tokenizer)
    assert all(arm.finished == ["tokenizer"] for arm in arms)


def test_a_configuration_and_its_flat_names_are_one():
    e = Experiment(Configuration.of({"length": 4, "schedule": [2, 4, 8, 8], "title": "x"}))
    assert e.sizes == (2, 4, 8, 8)
    assert Configuration.of(e.c.to_dict()) == e.c == Configuration.of(json.loads(
        json.dumps(e.c.to_dict())))  # fmt: skip
    assert e.arm("reversed", of=[2, 4, 8, 8]).sizes == (8, 8, 4, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_images": 1}, "n_images must be at least 2, got 1"),
        ({"n_images": 2.5}, "n_images must be a whole number, got 2.5"),
        ({"length": True}, "length must be a whole number, got True"),
        ({"ar_steps": 0}, "ar_steps must be at least 1, got 0"),
        ({"dropout": 1}, "dropout must be below 1, got 1"),
        ({"tokenizer": "mpl"}, "unknown tokenizer 'mpl': did you mean 'mlp'"),
        ({"ar": "tinny"}, "unknown AR model 'tinny': did you mean 'tiny'"),
        ({"device": "gpu"}, "device must be 'auto', 'cpu' or 'cuda', got 'gpu'"),
        ({"schedule": "log-linear"}, "unknown schedule 'log-linear': did you mean 'loglinear'"),
        ({"schedule": (2, 4)}, "explicit schedule needs 5 integers"),
        ({"schedule": (2, 4, 8, 16, 32)}, r"K_5 = 32 is outside 2\.\.16"),
        ({"k_min": 32}, "k_min must be at most k_max = 16, got 32"),
        ({"seed": "one"}, "seed must be a whole number, got 'one'"),
        ({"n_images": 5000}, "n_images must be at most 1437, as digits has, got 5000"),
        ({"dataset": "digit"}, "dataset must be fashion-mnist, .*, got 'digit'"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        BASE.c.changed(**changes)
    assert "\n" not in str(refused.value)


def write_folder(root, changed):
    for i in range(10):
        Image.new("L", (8, 8), changed if i == 3 else 20 * i).save(root / f"{i}.png")


def write_parquet(root, changed):
    content = []
    for i in range(10):
        Image.new("L", (8, 8), changed if i == 3 else 20 * i).save(file := BytesIO(), "PNG")
        content.append(file.getvalue())
    table = {"image": content, "label": [0, 1] * 5, "other": [1] * 10}
    pyarrow.parquet.write_table(pyarrow.table(table), root / "train.parquet")


@pytest.mark.parametrize(
    ("dataset", "write"),
    [("folder:{}", write_folder), ("parquet:{}", write_parquet),
     ("parquet:{}?label=label", write_parquet)],
)  # fmt: skip
def test_changed_files_of_the_user_change_every_stage(dataset, write, tmp_path):
    write(tmp_path, 60)
    values = {"dataset": dataset.format(tmp_path), "n_images": 8, "length": 2, "k_max": 4}
    e = Experiment(Configuration.of({**values, "image_size": 8}))

    def keys():
        experiment._files.cache_clear()  # as in another process
        inputs = [e._inputs(stage) for stage in ("tokenizer", "ar", "samples")] + [e._data()]
        return [json.dumps(each) for each in inputs] + [Experiment(e.c).fingerprint]

    before = keys()
    assert keys() == before
    write(tmp_path, 61)
    assert not set(keys()) & set(before)
