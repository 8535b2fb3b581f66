"""The training loops: they learn, stop, resume bit for bit, and fail loudly."""

import json
import os
import signal

import pytest
import torch

from vcqlib import training
from vcqlib.autoregressive import ARConfig, ARModel
from vcqlib.order import batch_indices
from vcqlib.recipe import Recipe
from vcqlib.tokenizer import Tokenizer, TokenizerConfig
from vcqlib.training import position_bits, train_ar, train_tokenizer

SIZES = (2, 4, 8, 8)
RECIPE = Recipe(steps=20, batch=16, lr=3e-3, warmup=5, checkpoint_minutes=1e9)
OFTEN = Recipe(steps=20, batch=16, lr=3e-3, warmup=5, checkpoint_minutes=0)


def images(n=50):
    return torch.randint(256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()


def codes(n=50):
    g = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(k, (n,), generator=g) for k in SIZES], 1)


def tokenizer():
    torch.manual_seed(0)
    return Tokenizer(TokenizerConfig(SIZES, 8, 8, 1, 4, balance=True, width=16, depth=1))


def ar():
    torch.manual_seed(0)
    return ARModel(ARConfig(SIZES, 8, 3, width=16, layers=1, heads=2, dropout=0.2))


LOOPS = {
    "tokenizer": (tokenizer, lambda m, r, f=None: train_tokenizer(m, images(), r, f)),
    "ar": (ar, lambda m, r, f=None: train_ar(m, codes(), torch.arange(50) % 3, r, f)),
}
both = pytest.mark.parametrize("loop", list(LOOPS))


def run(loop, recipe=RECIPE, folder=None):
    make, train = LOOPS[loop]
    return train(make(), recipe, folder).state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def interrupt(monkeypatch, loop, step, action):
    """Do `action` while step number `step` (from 1) is being computed."""
    name = {"tokenizer": "to_float", "ar": "take"}[loop]
    original, calls = getattr(training, name), []

    def wrapped(*arguments):
        calls.append(1)
        result = original(*arguments)
        return action(result) if len(calls) == step else result

    monkeypatch.setattr(training, name, wrapped)


def terminate(result):
    os.kill(os.getpid(), signal.SIGTERM)
    return result


@both
def test_runs_are_repeatable_and_checkpoints_do_not_change_them(loop, tmp_path):
    whole = run(loop)
    assert equal(run(loop), whole)
    assert equal(run(loop, OFTEN, tmp_path), whole)
    assert not equal(run(loop, Recipe(steps=20, batch=16, lr=3e-3, warmup=5, seed=1)), whole)


@both
def test_stopped_by_sigterm_and_resumed_equals_not_stopped(loop, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as m:
        interrupt(m, loop, 10, terminate)
        with pytest.raises(SystemExit, match="after step 10"):
            run(loop, RECIPE, tmp_path)
    assert signal.getsignal(signal.SIGTERM) == before
    assert [p.name for p in tmp_path.glob("step-*")] == ["step-00000010.safetensors"]
    assert equal(run(loop, RECIPE, tmp_path), run(loop))


@both
def test_the_last_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(loop, tmp_path):
    whole = run(loop, OFTEN, tmp_path)
    kept = sorted(tmp_path.glob("step-*"))
    assert [p.name[5:13] for p in kept] == ["00000019", "00000020"]
    kept[1].write_bytes(kept[1].read_bytes()[:-100])
    with pytest.warns(UserWarning, match="step-00000020.safetensors is not readable"):
        again = run(loop, RECIPE, tmp_path)
    assert equal(again, whole)


@both
def test_with_every_checkpoint_damaged_the_run_starts_over(loop, tmp_path):
    whole = run(loop, OFTEN, tmp_path)
    for path in tmp_path.glob("step-*"):
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="not readable"):
        assert equal(run(loop, RECIPE, tmp_path), whole)


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        interrupt(m, "tokenizer", 7, lambda x: x * float("nan"))
        with pytest.raises(FloatingPointError, match="loss is nan at step 7"):
            run("tokenizer", OFTEN, tmp_path)
    assert (tmp_path / "step-00000006.safetensors").exists()
    assert equal(run("tokenizer", RECIPE, tmp_path), run("tokenizer"))


@both
def test_the_log_has_each_step_once_after_a_resume(loop, tmp_path, monkeypatch):
    """Steps logged after the last checkpoint are done again, and must not be listed twice."""
    recipe = Recipe(steps=250, batch=4, lr=1e-3, checkpoint_minutes=1e9)
    with monkeypatch.context() as m:
        interrupt(m, loop, 90, terminate)
        with pytest.raises(SystemExit):
            run(loop, recipe, tmp_path)
    saved = {p.name: p.read_bytes() for p in tmp_path.glob("step-*")}
    run(loop, recipe, tmp_path)  # the whole run …
    whole = (tmp_path / "log.jsonl").read_text()
    for name, raw in saved.items():  # … which is then lost back to step 90
        (tmp_path / name).write_bytes(raw)
    run(loop, recipe, tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == whole
    assert [json.loads(line)["step"] for line in whole.splitlines()] == [100, 200, 250]


@both
def test_global_generators_are_left_alone(loop, tmp_path):
    make, train = LOOPS[loop]
    model, state = make(), torch.random.get_rng_state()
    train(model, RECIPE, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not model.training


@pytest.mark.parametrize(("n", "batch"), [(12, 4), (13, 4), (3, 8)])
def test_each_epoch_takes_every_row_at_most_once(n, batch):
    per_epoch = max(1, n // batch)
    epochs = [
        torch.cat([batch_indices(n, batch, e * per_epoch + i, seed=0) for i in range(per_epoch)])
        for e in range(3)
    ]
    for rows in epochs:
        assert len(rows.unique()) == len(rows) == min(n, per_epoch * batch)
    if n > batch:
        assert not torch.equal(epochs[0], epochs[1])
        assert not torch.equal(epochs[0][:batch], batch_indices(n, batch, 0, seed=1))


def test_learning_rate_warms_up_and_decays():
    r = Recipe(steps=1000, batch=1, lr=2.0, warmup=100, final_lr=0.1)
    rates = [r.lr_at(s) for s in range(1000)]
    assert rates[0] == pytest.approx(0.02) and max(rates) == pytest.approx(2.0, rel=0.03)
    assert rates[-1] == pytest.approx(0.2, rel=1e-3)
    assert all(a >= b for a, b in zip(rates[99:], rates[100:], strict=False))
    assert Recipe(steps=3, batch=1, lr=1.0, warmup=50).lr_at(2) > 0.2  # warm-up fits a short run


def test_both_loops_learn():
    before, x = tokenizer().eval(), training.to_float(images())
    after = tokenizer()
    train_tokenizer(after, images(), Recipe(steps=300, batch=25, lr=3e-3))
    assert (after(x).images - x).square().mean() < 0.8 * (before(x).images - x).square().mean()
    labels = torch.arange(50) % 3
    trained = train_ar(ar(), codes(), labels, Recipe(steps=300, batch=25, lr=1e-2))
    memorised = position_bits(trained, codes(), labels)
    assert memorised.sum() < 0.7 * position_bits(ar(), codes(), labels).sum()


def test_usage_holds_one_pass_over_the_training_images():
    model = train_tokenizer(tokenizer(), images(), RECIPE)
    assert (model.quantizer.counts.sum(1) == 50).all()
    rows = torch.cat(list(training.encode(model, images(), batch=7)))
    for t, counts in enumerate(model.quantizer.counts):
        assert torch.equal(rows[:, t].bincount(minlength=8), counts)


def test_position_bits_is_the_mean_over_all_rows_whatever_the_batch():
    model, labels = ar().train(), torch.arange(50) % 3
    bits = position_bits(model, codes(), labels, batch=7)
    assert model.training
    expected = (
        model.eval().position_losses(codes(), labels).double().mean(0) / torch.tensor(2.0).log()
    )
    torch.testing.assert_close(bits, expected, rtol=1e-5, atol=1e-6)


def test_evaluations_happen_at_the_named_steps_and_do_not_disturb():
    seen = []

    def evaluate(model, step):
        torch.rand(3)  # a careless evaluation
        seen.append((step, position_bits(model, codes(), torch.arange(50) % 3).sum().item()))

    arguments = (codes(), torch.arange(50) % 3, RECIPE)
    watched = train_ar(ar(), *arguments, evaluate_at=(1, 5, 20), evaluate=evaluate)
    assert [step for step, _ in seen] == [1, 5, 20]
    assert equal(watched.state_dict(), run("ar"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps and batch must be at least 1, got 0 and 16"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"lr": float("nan")}, "lr must be positive, got nan"),
    ],
)
def test_bad_recipes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**({"steps": 5, "batch": 16, "lr": 1e-3} | changes))
