"""The training loops: they learn, stop, resume bit for bit, and fail loudly."""

import json
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch

from vcqlib.data.batches import batch_indices
from vcqlib.data.image_sets import to_float
from vcqlib.models.autoregressive import ARConfig, ARModel
from vcqlib.models.tokenizer import Tokenizer, TokenizerConfig
from vcqlib.training import autoregressive, inference
from vcqlib.training import tokenizer as tokenizers
from vcqlib.training.autoregressive import train_ar
from vcqlib.training.inference import both_bits, encode, position_bits, reconstruction_error
from vcqlib.training.recipe import Losses, Recipe
from vcqlib.training.run import Run, fast_products
from vcqlib.training.tokenizer import train_tokenizer

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
    module, name = {"tokenizer": (tokenizers, "to_float"), "ar": (autoregressive, "take")}[loop]
    original, calls = getattr(module, name), []

    def wrapped(*arguments):
        calls.append(1)
        result = original(*arguments)
        return action(result) if len(calls) == step else result

    monkeypatch.setattr(module, name, wrapped)


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
        with pytest.raises(FloatingPointError, match="nan at step 7; the checkpoint of step 6"):
            run("tokenizer", OFTEN, tmp_path)
    assert (tmp_path / "step-00000006.safetensors").exists()
    assert equal(run("tokenizer", RECIPE, tmp_path), run("tokenizer"))


@both
def test_a_gradient_that_is_not_a_number_never_reaches_a_checkpoint(loop, tmp_path, monkeypatch):
    """The loss of that step is still finite: weights moved by it would be the last ones saved."""

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, slope):
            return slope * float("nan")

    original, calls = Run.backward, []

    def backward(self, loss, **values):
        calls.append(1)
        original(self, Broken.apply(loss) if len(calls) == 7 else loss, **values)

    with monkeypatch.context() as m:
        m.setattr(Run, "backward", backward)
        with pytest.raises(FloatingPointError, match="gradient's length is nan at step 7; the ch"):
            run(loop, OFTEN, tmp_path)
    assert sorted(p.name[5:13] for p in tmp_path.glob("step-*")) == ["00000005", "00000006"]
    assert equal(run(loop, RECIPE, tmp_path), run(loop))


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (torch.full((20, 4), 4), torch.zeros(20), r"code 4 at image 0, position 1 is outside 0..1"),
        (torch.full((20, 4), -1), torch.zeros(20), "code -1 at image 0, position 1"),
        (torch.zeros(20, 4), torch.zeros(20), "codes must be integers, got torch.float32"),
        (codes(20), torch.full((20,), 9), r"label 9 at row 0 is outside 0\.\.3"),
        (codes(20), torch.zeros(19), r"labels must be \[20\], got \(19,\)"),
        (codes(20)[:, :3], torch.zeros(20), r"codes must be \[B, 4\], got \(20, 3\)"),
        (codes(0), torch.zeros(0), "there are no images to train on"),
    ],
)
def test_codes_and_labels_that_cannot_be_learned_are_named(rows, labels, message):
    with pytest.raises(ValueError, match=message):
        train_ar(ar(), rows if "integers" in message else rows.long(), labels.long(), RECIPE)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (torch.zeros(20, 1, 8, 8), "images must be uint8, got torch.float32"),
        (torch.zeros(20, 1, 9, 8).byte(), r"images must be \[B, 1, 8, 8\], got \(16, 1, 9, 8\)"),
        (torch.zeros(20, 3, 8, 8).byte(), r"got \(16, 3, 8, 8\)"),
    ],
)
def test_images_of_another_kind_are_refused(pictures, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(tokenizer(), pictures, RECIPE)


def test_a_sharded_codebook_is_trained_by_gradients_only():
    settings = dict(revive=2, width=16, depth=1)
    model = Tokenizer(TokenizerConfig(SIZES, 8, 8, 1, 4, **settings))
    with pytest.raises(ValueError, match="by gradients only: no codebook_ema, no revive"):
        train_tokenizer(model, images(), Recipe(2, 16, 1e-3, shard=True))


def test_measuring_takes_few_large_examples_at_once(monkeypatch):
    """Memory is bounded whatever the size of an image; what is measured stays the same."""
    model, labels, seen = tokenizer().eval(), torch.arange(50) % 3, []
    whole = [torch.cat(list(encode(model, images()))),
             reconstruction_error(model, images()),
             position_bits(ar(), codes(), labels)]  # fmt: skip
    monkeypatch.setattr(inference, "PIXELS", 7 * 64)
    monkeypatch.setattr(inference, "LOGITS", 7 * 4 * 8)
    model.encoder.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    few = [
        torch.cat(list(encode(model, images()))),
        reconstruction_error(model, images()),
        position_bits(ar(), codes(), labels),
    ]
    assert max(seen) == 7 and sum(seen) == 100
    assert torch.equal(few[0], whole[0]) and few[1] == pytest.approx(whole[1])
    torch.testing.assert_close(few[2], whole[2], rtol=1e-5, atol=1e-6)


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
    before, x = tokenizer().eval(), to_float(images())
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
    rows = torch.cat(list(encode(model, images(), batch=7)))
    for t, counts in enumerate(model.quantizer.counts):
        assert torch.equal(rows[:, t].bincount(minlength=8), counts)


def test_bits_are_the_mean_over_all_rows_whatever_the_batch():
    model, labels = ar().train(), torch.arange(50) % 3
    both = both_bits(model, codes(), labels, batch=7)
    assert model.training
    for own, bits in zip((False, True), both, strict=True):
        assert torch.equal(position_bits(model, codes(), labels, own, batch=7), bits)
        losses = model.eval().position_losses(codes(), labels, own)
        expected = losses.double().mean(0) / torch.tensor(2.0).log()
        torch.testing.assert_close(bits, expected, rtol=1e-5, atol=1e-6)


def test_fast_products_are_products_in_fp32():
    a, b = torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(0))
    exact, matmul = a.double() @ b.double(), torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    with fast_products():
        y = a @ b
    assert matmul.fp32_precision == before
    assert (y - exact).abs().max() < 1e-4  # bf16 would be off by 0.1


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
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"lr": float("nan")}, "lr must be above 0, got nan"),
        ({"lr": float("inf")}, "lr must be a finite number, got inf"),
        ({"clip": -1.0}, "clip must be at least 0, got -1.0"),
        ({"final_lr": 2.0}, "final_lr must be at most 1, got 2.0"),
        ({"betas": (0.9, 1.5)}, "betas must be in .0, 1., got 1.5"),
        ({"warmup": -1}, "warmup must be at least 0, got -1"),
        ({"validate_every": -1}, "validate_every must be at least 0, got -1"),
        ({"ema": 1.0}, "ema must be below 1, got 1.0"),
        ({"precision": "fp8"}, "precision must be 'auto', 'bf16' or 'fp32', got 'fp8'"),
        ({"accumulate": 0}, "accumulate must be at least 1, or auto, got 0"),
    ],
)
def test_bad_recipes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**({"steps": 5, "batch": 16, "lr": 1e-3} | changes))


# ------------------------------------------------------------ what surrounds the loss

FULL = dict(steps=12, batch=16, lr=3e-3, warmup=2, ema=0.8, log_every=3, validate_every=4,
            sample_every=6)  # fmt: skip


def plain_ar():
    torch.manual_seed(0)
    return ARModel(ARConfig(SIZES, 8, 3, 16, 1, 2, dropout=0.0, label_dropout=0.0))


def plain_tokenizer():
    torch.manual_seed(0)
    return Tokenizer(TokenizerConfig(SIZES, 8, 8, 1, 4, width=16, depth=1))


def close(a, b):
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-6, msg=name)


def test_accumulated_parts_equal_one_batch():
    labels = torch.arange(50) % 3
    for parts in (2, 4):
        cut = Recipe(steps=5, batch=16, lr=3e-3, accumulate=parts)
        one = Recipe(steps=5, batch=16, lr=3e-3)
        a, b = (train_ar(plain_ar(), codes(), labels, r) for r in (one, cut))
        close(a.state_dict(), b.state_dict())
        a, b = (train_tokenizer(plain_tokenizer(), images(), r) for r in (one, cut))
        close(a.state_dict(), b.state_dict())
    half = train_ar(plain_ar(), codes(), labels, Recipe(steps=5, batch=8, lr=3e-3))
    whole = train_ar(plain_ar(), codes(), labels, one)
    assert (half.head.weight - whole.head.weight).abs().max() > 1e-4


def test_the_moving_average_is_what_is_kept_and_evaluated(tmp_path):
    seen, weights = [], []

    def watch(model, step):
        seen.append(model.head.weight.detach().clone())

    steps = tuple(range(1, 6))
    labels = torch.arange(50) % 3
    train_ar(ar(), codes(), labels, Recipe(5, 16, 3e-3), None, steps,
             lambda m, s: weights.append(m.head.weight.detach().clone()))  # fmt: skip
    kept = train_ar(ar(), codes(), labels, Recipe(5, 16, 3e-3, ema=0.7), None, steps, watch)
    average = ar().head.weight.detach().clone()
    for raw, shown in zip(weights, seen, strict=True):
        average.lerp_(raw, 0.3)
        assert torch.equal(shown, average)
    assert torch.equal(kept.head.weight, average)


def adversarial(folder=None, **changes):
    torch.manual_seed(1)
    wanted = Losses(pixels="l1", perceptual=1.0, adversarial=0.1, adaptive=True, critic_width=4)

    class Maps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return [self.layer(x)]

    recipe = Recipe(**(FULL | {"checkpoint_minutes": 1e9} | changes))
    return train_tokenizer(
        tokenizer(), images(), recipe, folder, images()[:9], Maps(), losses=wanted
    )


def test_all_losses_average_and_critic_resume_bit_for_bit(tmp_path, monkeypatch):
    whole = adversarial(tmp_path / "whole")
    with monkeypatch.context() as m:
        interrupt(m, "tokenizer", 8, terminate)
        with pytest.raises(SystemExit):
            adversarial(tmp_path / "cut")
    assert equal(adversarial(tmp_path / "cut").state_dict(), whole.state_dict())
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]
    lines = {x["step"]: x for x in map(json.loads, logs[0].splitlines())}
    assert sorted(lines) == [3, 4, 6, 8, 9, 12]
    terms = {"step", "mse", "perceptual", "adversarial", "critic", "quantizer"}
    assert lines[3].keys() == terms and lines[12].keys() == terms | {"held_out_mse"}
    x = to_float(images()[:9])
    error = (whole.decode(whole.encode(x)) - x).square().mean().item()
    assert lines[12]["held_out_mse"] == pytest.approx(error, rel=1e-4)
    sheets = sorted(p.name for p in (tmp_path / "cut" / "samples").iterdir())
    assert sheets == ["step-00000006.png", "step-00000012.png"]
    assert (tmp_path / "cut" / "samples" / sheets[0]).read_bytes().startswith(b"\x89PNG")


def test_the_critic_depends_on_the_seed_and_not_on_what_was_drawn_before():
    losses = Losses(adversarial=0.5, critic_width=4)
    found = []
    for seed in (0, 0, 1):
        model, recipe = tokenizer(), Recipe(3, 16, 1e-3, seed=seed)
        torch.rand(len(found) + 1)  # whatever else a process has drawn
        found.append(train_tokenizer(model, images(), recipe, losses=losses).state_dict())
    assert equal(found[0], found[1]) and not equal(found[0], found[2])


def test_held_out_bits_are_logged_by_position(tmp_path):
    labels = torch.arange(50) % 3
    model = train_ar(ar(), codes(), labels, Recipe(**FULL), tmp_path,
                     held_out=(codes()[:20], labels[:20]),
                     draw=lambda m: images()[:4])  # fmt: skip
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    expected = position_bits(model, codes()[:20], labels[:20])
    assert last["held_out_bits"] == pytest.approx(expected.tolist())
    assert len(list((tmp_path / "samples").iterdir())) == 2


def test_a_checkpoint_of_another_configuration_lists_the_differences(tmp_path):
    run("ar", OFTEN, tmp_path)
    other = Recipe(steps=30, batch=16, lr=1e-3, warmup=5)
    with pytest.raises(ValueError, match="another configuration") as error:
        run("ar", other, tmp_path)
    message = str(error.value)
    assert "recipe.lr 0.003 there, 0.001 here" in message
    assert "recipe.steps 20 there, 30 here" in message and "batch" not in message
    torch.manual_seed(0)
    wider = ARModel(ARConfig(SIZES, 8, 3, width=32, layers=1, heads=2, dropout=0.2))
    with pytest.raises(ValueError, match="ar.width 16 there, 32 here"):
        train_ar(wider, codes(), torch.arange(50) % 3, RECIPE, tmp_path)


def test_a_checkpoint_of_other_losses_is_refused(tmp_path):
    train_tokenizer(tokenizer(), images(), OFTEN, tmp_path)
    with pytest.raises(ValueError, match="losses.pixels l2 there, l1 here"):
        train_tokenizer(tokenizer(), images(), OFTEN, tmp_path, losses=Losses(pixels="l1"))


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    from vcqlib.files import load_tensors, save_tensors

    run("ar", OFTEN, tmp_path)
    last = tmp_path / "step-00000020.safetensors"
    tensors, header = load_tensors(last, None)
    save_tensors(last, tensors, {k: v for k, v in header.items() if k != "format"}, 99)
    with pytest.raises(ValueError, match="checkpoint format 99 is not 2; move it away"):
        run("ar", RECIPE, tmp_path)


def test_the_last_k_checkpoints_are_kept(tmp_path):
    run("ar", Recipe(steps=5, batch=16, lr=3e-3, checkpoint_minutes=0, keep=4), tmp_path)
    assert [p.name[5:13] for p in sorted(tmp_path.glob("step-*"))] == [
        f"{s:08d}" for s in (2, 3, 4, 5)
    ]


def test_out_of_memory_names_what_to_try():
    class Greedy(Tokenizer):
        def forward(self, x):
            torch.empty(2**55)  # 128 PiB
            return super().forward(x)

    model = Greedy(TokenizerConfig(SIZES, 8, 8, 1, 4, width=16, depth=1))
    message = r"with 8 images at a time: try accumulate=4 \(4 at a time.*or batch=8"
    with pytest.raises(MemoryError, match=message):
        train_tokenizer(model, images(), Recipe(5, 16, 1e-3, accumulate=2))


def test_compiling_without_a_compiler_is_one_clear_line(monkeypatch):
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler .* found none: install one"):
        run("ar", Recipe(5, 16, 1e-3, compile=True))
    run("ar", Recipe(5, 16, 1e-3))


def test_bf16_is_used_where_asked_and_weights_stay_fp32():
    seen = []
    model = ar()
    model.head.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    train_ar(model, codes(), torch.arange(50) % 3, Recipe(3, 16, 1e-3, precision="bf16"))
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_codes_on_disk_train_what_codes_in_memory_train(tmp_path):
    from vcqlib.data.code_store import open_codes, resident, write_codes

    labels = torch.arange(50) % 3
    write_codes(tmp_path, codes().numpy(), labels.numpy(), SIZES)
    store = resident(open_codes(tmp_path), torch.device("cpu"))
    assert equal(train_ar(ar(), store, labels, RECIPE).state_dict(), run("ar"))


def test_tensorboard_is_given_what_the_log_holds(tmp_path, monkeypatch):
    seen = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            seen.append((folder, purge_step))

        def add_scalar(self, tag, value, step):
            seen.append((tag, value, step))

        def close(self):
            seen.append("closed")

    package = SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", package)
    labels = torch.arange(50) % 3
    recipe = Recipe(2, 16, 1e-3, log_every=2, validate_every=2, tensorboard=True)
    train_ar(ar(), codes(), labels, recipe, tmp_path, held_out=(codes(), labels))
    line = json.loads((tmp_path / "log.jsonl").read_text())
    bits = [(f"held_out_bits/{t}", b, 2) for t, b in enumerate(line["held_out_bits"], start=1)]
    assert seen[:-5] == [(str(tmp_path / "tensorboard"), 1), ("bits", line["bits"], 2), *bits]
    machine = {tag: value for tag, value, _ in seen[-5:-1]}
    assert machine.keys() == {"lr", "gradient_norm", "images_per_second", "memory_gb"}
    assert machine["lr"] == recipe.lr_at(1) and 0 < machine["gradient_norm"] < float("inf")
    assert seen[-1] == "closed" and line.keys() == {"step", "bits", "held_out_bits"}


def test_wandb_is_given_what_the_log_holds(tmp_path, monkeypatch):
    """Once with a stand-in that notes every call; where the package is, itself writes offline."""
    seen = []
    online = SimpleNamespace(log=lambda values, step: seen.append((step, values)),
                             finish=lambda: seen.append("closed"))  # fmt: skip
    package = SimpleNamespace(init=lambda **how: seen.append(how) or online)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", package)
        recipe = Recipe(2, 16, 1e-3, log_every=2, wandb=True)
        train_ar(ar(), codes(), torch.arange(50) % 3, recipe, tmp_path / "run")
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    how, *logged, closed = seen
    assert how["id"] == "run" and how["resume"] == "allow" and closed == "closed"
    assert {step for step, _ in logged} == {2}
    together = {name: value for _, values in logged for name, value in values.items()}
    assert together["bits"] == line["bits"]
    assert {"lr", "gradient_norm", "images_per_second", "memory_gb"} <= together.keys()


def test_wandb_itself_keeps_a_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    recipe = Recipe(2, 16, 1e-3, log_every=2, wandb=True)
    train_ar(ar(), codes(), torch.arange(50) % 3, recipe, tmp_path / "run")
    assert [*(tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")]


def test_wandb_without_its_package_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install 'vcqlib\[wandb\]'"):
        run("ar", Recipe(5, 16, 1e-3, wandb=True), tmp_path)


def test_tensorboard_without_its_package_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        run("ar", Recipe(5, 16, 1e-3, tensorboard=True), tmp_path)
