"""The lab: stacks equal single models, distances are unbiased, worlds are what they say."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from vcqlib.lab import trial, worlds
from vcqlib.lab.distances import Cloud, energy_distance
from vcqlib.lab.models import PointTokenizer, Shape, StackedAR, StackedTokenizer, ar_config
from vcqlib.lab.stack import CLIP, WARMUP, Stack, seeded
from vcqlib.models.autoregressive import ARModel
from vcqlib.theory.schedules import codebook_sizes

ROOT = Path(__file__).resolve().parents[1]
SHAPE = Shape(length=4, k_max=16, hidden=16, width=16, layers=2)
ARMS = [codebook_sizes(s, 4, 16).tolist() for s in ("uniform", "loglinear", "matched", "reversed")]
SIGNLESS = "encoder.4.bias"  # `balance` takes it out again: its gradient is rounding alone


def points(n, seed=0):
    return worlds.draw("pinwheel", n, torch.Generator().manual_seed(seed))


# --- stacks against single models -------------------------------------------------------------


@pytest.fixture
def tokenizers():
    """The same weights twice: as twins for a stack, and as the library's own modules."""
    twins = [seeded(lambda s=s: StackedTokenizer(s, SHAPE), i) for i, s in enumerate(ARMS)]
    real = [PointTokenizer(s, SHAPE) for s in ARMS]
    for a, b in zip(twins, real, strict=True):
        b.load_state_dict(a.state_dict())
    return twins, real


def test_the_stacked_quantizer_is_the_variable_codebook_quantizer(tokenizers):
    twins, real = tokenizers
    z = torch.randn(64, 4, 2, generator=torch.Generator().manual_seed(0))
    for twin, model in zip(twins, real, strict=True):
        found = []
        for quantizer in (twin.quantizer.train(), model.quantizer.train()):
            x = z.clone().requires_grad_()
            quantized, codes, loss = quantizer(x)
            (quantized.square().sum() + loss).backward()
            found.append((codes, quantized, loss, x.grad, quantizer.codebook.grad,
                          quantizer.norm.running_mean, quantizer.norm.running_var))  # fmt: skip
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b)
        assert torch.equal(twin.quantizer.encode(z), model.quantizer.encode(z))
        assert (model.quantizer.codebook[1] == -model.quantizer.codebook[0]).all()  # balanced


def _alone(model, inputs, lr, betas, decay, steps=None):
    """The plain loop of one model: what a stack of it has to equal."""
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas, weight_decay=decay)
    for step, batch in enumerate(inputs):
        optimizer.zero_grad()
        model.loss(*batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        warm = min(1.0, (step + 1) / WARMUP)
        down = 1.0 if steps is None else 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = lr * warm * down
        optimizer.step()


def test_a_stack_of_tokenizers_learns_what_each_would_learn_alone(tokenizers):
    twins, real = tokenizers
    batches = [points(32, seed).points for seed in range(6)]
    stack = Stack(twins, 0.1, (0.9, 0.99), steps=6)
    for batch in batches:
        stack.train(batch.expand(len(twins), -1, -1))
    for i, model in enumerate(real):
        _alone(model, [(batch,) for batch in batches], 0.1, (0.9, 0.99), 0.0, 6)
        for name, value in model.named_parameters():
            if name != SIGNLESS:
                torch.testing.assert_close(stack.parameters[name][i], value, rtol=1e-3, atol=1e-5)
        spread = stack.buffers["quantizer.norm.running_var"][i]
        torch.testing.assert_close(spread, model.quantizer.norm.running_var, rtol=1e-3, atol=1e-5)


def test_a_stack_of_ar_models_learns_what_each_would_learn_alone():
    configs = [ar_config(s, 5, SHAPE) for s in ARMS]
    twins = [seeded(lambda c=c: StackedAR(c), i) for i, c in enumerate(configs)]
    real = [seeded(lambda c=c: ARModel(c), i) for i, c in enumerate(configs)]
    draw = torch.Generator().manual_seed(0)
    codes = torch.stack([torch.stack([torch.randint(k, (32,), generator=draw) for k in s], 1)
                         for s in ARMS])  # fmt: skip
    labels = torch.randint(5, (len(ARMS), 32), generator=draw)
    stack = Stack(twins, 0.05, (0.9, 0.96), 0.03)
    first = stack.train(codes, labels)
    for _ in range(4):
        stack.train(codes, labels)
    for i, model in enumerate(real):
        torch.testing.assert_close(first[i], model.loss(codes[i], labels[i]).detach())
        _alone(model, [(codes[i], labels[i])] * 5, 0.05, (0.9, 0.96), 0.03)
        for name, value in model.named_parameters():
            torch.testing.assert_close(stack.parameters[name][i], value, rtol=1e-3, atol=1e-5)


def test_no_model_of_a_stack_depends_on_its_neighbours(tokenizers):
    twins, _ = tokenizers
    batch = points(32).points
    together, alone = Stack(twins, 0.1, (0.9, 0.99)), Stack(twins[1:2], 0.1, (0.9, 0.99))
    for _ in range(3):
        together.train(batch.expand(len(twins), -1, -1))
        alone.train(batch[None])
    for name, value in alone.parameters.items():
        if name != SIGNLESS:
            mine = together.parameters[name][1]
            torch.testing.assert_close(mine, value[0], rtol=1e-3, atol=1e-5)


def test_a_stack_hands_out_the_average_of_its_weights():
    twin = seeded(lambda: StackedTokenizer(ARMS[0], SHAPE), 0)
    stack, seen = Stack([twin], 0.1, (0.9, 0.99)), []
    for _ in range(3):
        stack.train(points(32).points[None])
        seen.append(stack.parameters["encoder.0.weight"][0].detach().clone())
    expected = twin.encoder[0].weight.detach()
    for step, value in enumerate(seen, 1):
        expected = torch.lerp(expected, value, 9 / (9 + step))
    model = stack.load_into(PointTokenizer(ARMS[0], SHAPE), 0)
    torch.testing.assert_close(model.encoder[0].weight.detach(), expected)


def test_a_loss_that_is_not_finite_is_named():
    stack = Stack([seeded(lambda: StackedTokenizer(ARMS[0], SHAPE), 0)], 0.1, (0.9, 0.99))
    with pytest.raises(FloatingPointError, match="not finite at step 0"):
        stack.train(torch.full((1, 8, 2), torch.nan))


# --- distances --------------------------------------------------------------------------------


def _by_hand(x, y):
    d = lambda a, b: torch.stack([(p - q).norm() for p in a for q in b])  # noqa: E731
    n, m = len(x), len(y)
    return (2 * d(x, y).mean() - d(x, x).sum() / n / (n - 1) - d(y, y).sum() / m / (m - 1)).item()


@pytest.mark.parametrize("copies", [1, 3])
def test_the_energy_distance_is_the_mean_over_all_pairs(copies):
    x, y = points(20, 1).points.repeat(copies, 1), points(30, 2).points + 0.3
    found = energy_distance(Cloud.of(x), Cloud.of(y))
    assert found == pytest.approx(_by_hand(x.double(), y.double()), abs=1e-6)
    assert found == pytest.approx(energy_distance(Cloud.of(y), Cloud.of(x)), abs=1e-6)
    assert len(Cloud.of(x).points) == 20 and Cloud.of(x).size == 20 * copies


def test_two_places_are_twice_their_distance_apart():
    x, y = torch.zeros(5, 2), torch.tensor([[3.0, 4.0]]).expand(7, 2)
    assert energy_distance(Cloud.of(x), Cloud.of(y)) == pytest.approx(10.0)


def test_it_is_unbiased_where_few_points_of_one_density_meet():
    clouds = [Cloud.of(points(8, seed).points) for seed in range(800)]
    found = [energy_distance(x, y) for x, y in zip(clouds[::2], clouds[1::2], strict=True)]
    mean, error = pd.Series(found).mean(), pd.Series(found).sem()
    assert abs(mean) < 3 * error and min(found) < 0


@pytest.mark.parametrize(
    "bad", [torch.zeros(1, 2), torch.zeros(4, 3), torch.full((4, 2), torch.inf)]
)
def test_what_is_no_cloud_is_refused(bad):
    with pytest.raises(ValueError, match="points must be"):
        Cloud.of(bad)


# --- worlds -----------------------------------------------------------------------------------


def test_the_board_is_dark_where_it_should_be():
    found, labels = worlds.draw("checkerboard", 4000, torch.Generator().manual_seed(0))
    column, row = ((found + 1.5) / 0.75).floor().long().T
    assert torch.equal(row, labels) and ((column - row) % 2 == 0).all()
    assert set(column.tolist()) == {0, 1, 2, 3}


def test_a_blade_of_the_pinwheel_turned_by_a_fifth_is_the_next_one():
    found, labels = points(4000)
    angle = 2 * math.pi / 5
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    for label in range(5):
        blade, following = found[labels == label], found[labels == (label + 1) % 5]
        assert energy_distance(Cloud.of(blade @ turn), Cloud.of(following)) < 0.01
        assert energy_distance(Cloud.of(blade), Cloud.of(following)) > 0.3


def test_streams_are_repeatable_and_apart():
    same = [torch.rand(3, generator=worlds.stream("a", 1)) for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], torch.rand(3, generator=worlds.stream("a", 11)))


def test_by_heart_is_the_distance_of_training_points_drawn_again_and_again():
    t = trial.Trial(arms={"a": (2,) * 8}, n=100, passes=(1,), fresh=2000)
    points_, labels = t.points("training", t.n)
    draws = torch.Generator().manual_seed(0)
    found = []
    for _ in range(40):
        chosen = [
            torch.nonzero(labels == c)[:, 0] for c in torch.randint(5, (400,), generator=draws)
        ]
        rows = [c[torch.randint(len(c), (), generator=draws)] for c in chosen]
        found.append(energy_distance(Cloud.of(points_[torch.stack(rows)]), trial.truth_of(t)))
    mean, error = pd.Series(found).mean(), pd.Series(found).sem()
    assert abs(mean - trial.by_heart(t)) < 4 * error and error < 0.2 * mean
