"""The training step of a GPU, on a CPU: looked at late, compiled by the block."""

import pytest
import torch
from torch import nn

from vcqlib.models import transformer
from vcqlib.models.autoregressive import ARConfig, ARModel
from vcqlib.models.tokenizer import Tokenizer, TokenizerConfig
from vcqlib.progress import say
from vcqlib.training import autoregressive
from vcqlib.training.autoregressive import train_ar
from vcqlib.training.inference import changed_codes, in_precision
from vcqlib.training.recipe import Recipe, halves
from vcqlib.training.run import Run

SIZES = (2, 4, 8, 8)
RECIPE = Recipe(12, 16, 1e-2, log_every=5, checkpoint_minutes=0, ema=0.5)


def ar(**changes):
    torch.manual_seed(0)
    return ARModel(ARConfig(SIZES, 8, 3, width=16, layers=3, heads=2, dropout=0.2, **changes))


def train(recipe=RECIPE, folder=None, **options):
    g = torch.Generator().manual_seed(0)
    codes = torch.stack([torch.randint(k, (50,), generator=g) for k in SIZES], 1)
    model = ar()
    return train_ar(model, codes, torch.arange(50) % 3, recipe, folder, **options).state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def late(monkeypatch):
    """Read a step's numbers once the next one has been started, as on a GPU."""
    begin = Run.__init__

    def changed(self, *arguments, **options):
        begin(self, *arguments, **options)
        self.late = 1

    monkeypatch.setattr(Run, "__init__", changed)


def test_numbers_read_late_change_no_weight_and_no_log(tmp_path, request):
    plain = train(folder=tmp_path / "a")
    request.getfixturevalue("late")
    assert equal(train(folder=tmp_path / "b"), plain)
    a, b = ((tmp_path / x / "log.jsonl").read_text() for x in "ab")
    assert a == b and a.count("\n") == 3


@pytest.mark.parametrize("step", [3, 5, 7])
def test_an_update_that_is_not_finite_is_left_out_and_refused_by_its_number(
    step, tmp_path, late, monkeypatch
):
    seen, calls = [], []

    def broken(codes, rows, device, take=autoregressive.take):
        calls.append(1)
        if len(calls) == step:
            monkeypatch.setattr(
                ARModel, "loss", lambda self, *_: self.head.weight.sum() * torch.nan
            )
        return take(codes, rows, device)

    monkeypatch.setattr(autoregressive, "take", broken)
    update = Run.update

    def watched(self):
        before = {k: v.clone() for k, v in self.model.state_dict().items()}
        try:
            update(self)
        finally:
            seen.append(equal(before, self.model.state_dict()))

    monkeypatch.setattr(Run, "update", watched)
    with pytest.raises(FloatingPointError, match=f"loss is nan at step {step};"):
        train(folder=tmp_path)
    assert seen[: step - 1] == [False] * (step - 1) and all(seen[step - 1 :])
    newest = max(int(p.stem[5:]) for p in tmp_path.glob("step-*.safetensors"))
    assert newest < step  # a step is stored once it is known to be sound


def test_blocks_compile_as_one_function_without_a_break(monkeypatch):
    torch._dynamo.reset()
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph

    plain = train(Recipe(2, 16, 1e-2))
    whole = torch.compile(transformer.Block._compute, backend=count, fullgraph=True)
    monkeypatch.setattr(transformer, "_compiled", lambda: whole)
    monkeypatch.setattr("vcqlib.training.run.need_compiler", lambda device: None)
    got = train(Recipe(2, 16, 1e-2, compile=True))
    assert len(graphs) == 1  # for three blocks and two steps
    for name, weight in plain.items():
        torch.testing.assert_close(got[name], weight, msg=name)


def test_attention_has_a_dropout_of_its_own():
    assert {b.attention.dropout for b in ar().blocks} == {0.2}
    other = ar(attention_dropout=0.0).blocks
    assert {b.attention.dropout for b in other} == {0.0} and {b.dropout.p for b in other} == {0.2}


def test_norms_may_be_spared_the_decay():
    class Watched(Run):
        pass

    for spared in (False, True):
        recipe = Recipe(2, 4, 1e-2, weight_decay=0.1, decay_norms=not spared)
        groups = Run("a run", ar(), recipe, None, {}).optimiser.param_groups
        decay = {p.ndim > 1: g["weight_decay"] for g in groups for p in g["params"]}
        assert decay == {True: 0.1, False: 0.0 if spared else 0.1}


def test_the_rate_is_held_and_falls_in_a_line():
    r = Recipe(1000, 1, 2.0, final_lr=0.1, warmup=100, hold=300, decay="linear")
    rates = [r.lr_at(s) for s in range(1000)]
    assert rates[99:401] == [2.0] * 302
    falls = [a - b for a, b in zip(rates[400:], rates[401:], strict=False)]
    assert falls == pytest.approx([1.8 / 600] * 599)
    assert Recipe(10, 1, 1.0, warmup=50, decay="linear").lr_at(9) > 0  # never below its start


def test_a_norm_of_any_length_where_clip_is_0():
    assert not equal(train(Recipe(3, 16, 1e-2, clip=0)), train(Recipe(3, 16, 1e-2, clip=1e-3)))


def test_bf16_weights_are_a_copy_and_the_share_of_changed_codes_is_measured():
    model = ar()
    assert in_precision(model) is model and in_precision(model, "fp32") is model
    half = in_precision(model, "bf16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig((256,) * 8, 256, 16, 3, 8, width=64, depth=2))
    images = torch.randint(256, (32, 3, 16, 16), dtype=torch.uint8)
    share = changed_codes(tokenizer, images)
    assert 0 < share < 0.3  # bf16 has 8 bits: some of 256 neighbours change places
    for layer in tokenizer.encoder.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = torch.zeros_like(layer.weight)
    assert changed_codes(tokenizer, images) == 0


def test_a_gpu_without_bf16_takes_fp32_or_says_so(monkeypatch, capsys):
    has = [True]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has[0])
    say.cache_clear()
    assert halves("auto", "cuda") and halves("bf16", "cuda") and not halves("fp32", "cuda")
    has[0] = False  # an older one, which would emulate it
    assert not halves("auto", "cuda") and not halves("auto", "cuda")
    assert capsys.readouterr().err == "this GPU has no bf16: fp32 is used\n"
    with pytest.raises(ValueError, match="precision must be fp32 or auto on this GPU, .* got bf16"):
        halves("bf16", "cuda")
    assert halves("bf16", "cpu") and not halves("auto", "cpu")
