"""What a step takes, counted without a GPU; and a batch cut so that it fits."""

import json
from pathlib import Path

import pytest
import torch

from vcqlib.files import read_yaml
from vcqlib.models.autoregressive import ARConfig, ARModel
from vcqlib.models.tokenizer import Tokenizer
from vcqlib.models.transformer import Block
from vcqlib.study.configuration import Configuration
from vcqlib.study.stages import ar_config, tokenizer_config
from vcqlib.training import memory
from vcqlib.training.autoregressive import train_ar
from vcqlib.training.checkpoints import Checkpoints
from vcqlib.training.losses import ImageLosses
from vcqlib.training.recipe import Losses, Recipe
from vcqlib.training.run import Run

PROFILES = Path(__file__).parents[1] / "book" / "profiles"
GPU = 80e9  # bytes
SIZES = (2, 4, 8, 8)


def configuration(profile):
    content = read_yaml(PROFILES / f"{profile}.yaml")
    return Configuration.of(content["parameters"] | (content.get("settings") or {}))


class Network(torch.nn.Module):
    """VGG's shape, whose weights hold nothing."""

    def __init__(self):
        from torchvision.models import vgg16

        super().__init__()
        self.layers = vgg16(weights=None).features

    def forward(self, x):
        maps = []
        for layer in self.layers:
            if isinstance(layer, torch.nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return maps


def ar_trial(c, classes=1000):
    with torch.device("meta"):
        model = ARModel(ar_config(c, c.sizes, c.codes.k_max, classes))

    def trial(n):
        hollow, rows = memory.hollow(model), torch.zeros(n, c.codes.length, dtype=torch.int64)
        return lambda: hollow._loss(rows, rows[:, 0])

    return trial, sum(p.numel() for p in model.parameters())


def tokenizer_trial(c, size):
    with torch.device("meta"):
        model = Tokenizer(tokenizer_config(c, 3, size))
        features = Network() if c.losses.perceptual else None
        criterion = ImageLosses(c.losses, 3, size, features)

    def trial(n):
        hollow, judge, x = (
            memory.hollow(model),
            memory.hollow(criterion),
            torch.zeros(n, 3, size, size),
        )

        def loss():
            out = hollow(x)
            return judge(out.images, x, hollow.decoder.out.weight).total + out.loss

        return loss

    weights = [*model.parameters(), *(criterion.critic.parameters() if criterion.critic else ())]
    return trial, sum(p.numel() for p in weights)


@pytest.fixture(scope="module")
def xl():
    """The paper's configuration, what XL takes by number of images, and its weights."""
    c = configuration("paper")
    trial, weights = ar_trial(c)
    known, counted = {}, memory.peak

    def once(n):  # the same sizes come up for every number of GPUs
        if n not in known:
            known[n] = counted(trial, n)
        return known[n]

    return c, once, weights


@pytest.mark.parametrize(("gpus", "expected"), [(1, 32), (8, 4), (16, 2)])
def test_xl_is_cut_into_what_80_gb_hold(xl, gpus, expected, monkeypatch):
    c, once, weights = xl
    assert weights == 685_564_416 and c.ar_recipe.accumulate == "auto"
    monkeypatch.setattr(memory, "peak", lambda trial, n, bf16: trial(n))
    plan = memory.Plan(GPU, weights, c.ar_recipe.ema > 0, compiled=c.ar_recipe.compile)
    assert memory.parts(once, plan, c.ar_recipe.batch, gpus) == expected
    images = c.ar_recipe.batch // gpus // expected
    assert 30e9 < plan.need(once(images)) < 0.9 * GPU < plan.need(once(2 * images))
    with pytest.raises(ValueError, match=rf"accumulate {expected // 2} takes about .* {expected}"):
        small = memory.Plan(70e9, weights, False, compiled=True)
        memory.parts(once, small, c.ar_recipe.batch, gpus, asked=expected // 2)
    with pytest.raises(ValueError, match="2048 does not divide into 3 processes"):
        memory.parts(once, plan, c.ar_recipe.batch, 3)
    with pytest.raises(ValueError, match="too little memory: one image at a time takes about 1"):
        memory.parts(once, memory.Plan(8e9, weights, False), c.ar_recipe.batch, gpus)


def test_the_tokenizers_of_both_profiles_fit_one_gpu():
    for profile, size, most in (("gpu", 32, 10e9), ("paper", 256, 0.9 * GPU)):
        c = configuration(profile)
        trial, weights = tokenizer_trial(c, size)
        r = c.tokenizer_recipe
        plan = memory.Plan(GPU, weights, r.ema > 0, compiled=r.compile)
        cut = memory.parts(trial, plan, r.batch, 1)
        assert plan.need(memory.peak(trial, r.batch // cut)) < most and cut <= 4


def small(**changes):
    torch.manual_seed(0)
    return ARModel(ARConfig(SIZES, 8, 3, width=16, layers=2, heads=2, dropout=0.2, **changes))


def codes(n=48):
    g = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(k, (n,), generator=g) for k in SIZES], 1)


def train(model, recipe, folder=None):
    return train_ar(model, codes(), torch.arange(48) % 3, recipe, folder).state_dict()


def equal(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_recomputing_keeps_less_and_trains_the_same_weights():
    plain = train(small(), Recipe(4, 16, 1e-2))
    assert equal(train(small(), Recipe(4, 16, 1e-2, recompute=True)), plain)

    def trial(recompute):
        model = small()
        for part in model.modules():
            if isinstance(part, Block):
                part.recompute = recompute

        def step(n):
            hollow, rows = memory.hollow(model), torch.zeros(n, 4, dtype=torch.int64)
            return lambda: hollow._loss(rows, rows[:, 0])

        return step

    assert memory.peak(trial(True), 500) < 0.7 * memory.peak(trial(False), 500)


def test_auto_takes_what_is_free_and_goes_on_with_another_number(tmp_path, monkeypatch):
    """A run that was cut into parts by one machine's memory continues on another machine."""
    cut = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, save=Checkpoints.save: (
        save(self, step), step == 2 and self.__setattr__("stop", True)))  # fmt: skip
    parts = Run.parts
    monkeypatch.setattr(Run, "parts", lambda run, stream: (cut.append(run.accumulate),
                                                           parts(run, stream))[1])  # fmt: skip
    recipe = Recipe(4, 16, 1e-2, accumulate="auto", checkpoint_minutes=0)
    monkeypatch.setattr(memory, "OWN", 0)
    whole = memory.Plan(0, sum(p.numel() for p in small().parameters()), False).need(0)

    def hold(images):
        model = small()

        def step(n):
            hollow, rows = memory.hollow(model), torch.zeros(n, 4, dtype=torch.int64)
            return lambda: hollow._loss(rows, rows[:, 0])

        plan = memory.Plan(0, sum(p.numel() for p in model.parameters()), False)
        return plan.need(memory.peak(step, images, False)) / memory.MARGIN - 4 * plan.weights + 1

    monkeypatch.setattr(memory, "free", lambda device: hold(4))
    with pytest.raises(SystemExit):
        train(small(), recipe, tmp_path)
    monkeypatch.setattr(memory, "free", lambda device: hold(16))
    train(small(), recipe, tmp_path)
    assert cut[0] == 4 and cut[-1] == 1 and whole > 0
    header = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert header["step"] == 4


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "some", True])
def test_other_words_for_the_parts_are_refused(wrong):
    with pytest.raises(ValueError, match="accumulate must be at least 1, or auto, got"):
        Recipe(accumulate=wrong)
    assert Losses().pixels == "l2"
