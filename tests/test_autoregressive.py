"""The AR model: sizes, causality, cache against full pass, sampling."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from vcqlib.models.autoregressive import PRESETS, ARConfig, ARModel
from vcqlib.models.sampler import draw, filter_logits, guidance_scales

SIZES = (2, 3, 5, 8, 8)


def make(**changes):
    torch.manual_seed(0)
    config = ARConfig(SIZES, vocabulary=8, classes=4, width=32, layers=2, heads=2, **changes)
    model = ARModel(config).eval()
    for p in model.parameters():  # far from uniform predictions
        if p.ndim == 2:
            p.data *= 8
    return model


def data(batch=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(k, (batch,), generator=g) for k in SIZES], 1)
    return codes, torch.arange(batch) % 4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "millions"), [("tiny", None), ("B", 112.6), ("L", 342.9), ("XL", 685.5)]
)
def test_parameter_counts_follow_the_formula(name, millions):
    vocabulary = 16384
    with torch.device("meta"):
        model = ARModel(ARConfig((vocabulary,) * 256, vocabulary, classes=1000, **PRESETS[name]))
    c, d = model.config, model.config.width
    count = sum(p.numel() for p in model.parameters())
    formula = c.layers * (4 * d**2 + 3 * d * (11 * d // 4)) + 2 * vocabulary * d + 1001 * d
    norms = c.layers * (2 * d + 2 * d // c.heads) + d
    assert count == formula + norms
    if millions:
        assert round(formula / 1e6, 1) == millions  # stated without the norms
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())


def test_logits_at_t_see_only_the_class_and_earlier_codes():
    model, (codes, labels) = make(), data()
    logits = model.logits(codes, labels)
    for t in range(len(SIZES)):
        changed = codes.clone()
        changed[:, t] = (changed[:, t] + 1) % SIZES[t]
        difference = (model.logits(changed, labels) - logits).abs().amax((0, 2))
        assert (difference[: t + 1] == 0).all()
        assert (difference[t + 1 :] > 0).all()
    assert ((model.logits(codes, (labels + 1) % 4) - logits).abs().amax((0, 2)) > 0).all()


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_cached_steps_equal_the_full_pass(kept):
    """What `generate` sees at each step is what the full pass gives for the same codes."""
    model, (codes, labels) = make(), data()
    seen, trunk = [], model._trunk
    model._trunk = lambda *a: seen.append(trunk(*a)) or seen[-1]
    drawn = model.generate(labels, prefix=codes[:, :kept], generator=seeded())
    assert [len(x[0]) for x in seen] == [kept + 1] + [1] * (len(SIZES) - kept - 1)
    logits = model.head(torch.cat(seen, 1))
    torch.testing.assert_close(logits, model.logits(drawn, labels), atol=1e-5, rtol=0)


def test_a_complete_prefix_comes_back():
    model, (codes, labels) = make(), data()
    assert torch.equal(model.generate(labels, prefix=codes), codes)


def test_loss_is_the_mean_cross_entropy_over_the_whole_vocabulary():
    model, (codes, labels) = make(), data()
    logits = model.logits(codes, labels)
    expected = -logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0]
    torch.testing.assert_close(model.loss(codes, labels), expected.mean())
    torch.testing.assert_close(model.position_losses(codes, labels), expected)
    for t, k in enumerate(SIZES):  # renormalised over the first K_t entries
        own = -logits[:, t, :k].log_softmax(-1).gather(-1, codes[:, t : t + 1])[:, 0]
        torch.testing.assert_close(model.position_losses(codes, labels, own=True)[:, t], own)


def test_both_losses_come_from_one_pass():
    model, (codes, labels) = make(), data()
    passes, trunk = [], model._trunk
    model._trunk = lambda *a: passes.append(1) or trunk(*a)
    full, own = model.both_losses(codes, labels)
    assert len(passes) == 1
    assert torch.equal(full, model.position_losses(codes, labels))
    assert torch.equal(own, model.position_losses(codes, labels, own=True))


def test_restricted_head_is_the_renormalised_loss_and_its_gradient():
    full, (codes, labels) = make(dropout=0.0, label_dropout=0.0), data()
    restricted = make(dropout=0.0, label_dropout=0.0, restricted_head=True)
    assert [p.shape for p in full.parameters()] == [p.shape for p in restricted.parameters()]
    masked = full.logits(codes, labels).masked_fill(full._beyond(codes.device), -math.inf)
    expected = F.cross_entropy(masked.transpose(1, 2), codes)
    expected.backward()
    for model in (restricted, restricted.train()):
        loss = model.loss(codes, labels)
        torch.testing.assert_close(loss, expected)
    loss.backward()
    for a, b in zip(full.parameters(), restricted.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)
    restricted.eval()
    own = full.position_losses(codes, labels, own=True)
    for either in restricted.both_losses(codes, labels):
        torch.testing.assert_close(either, own)
    logits = restricted.logits(codes, labels)
    assert ((logits == -math.inf) == restricted._beyond(codes.device)).all()
    assert torch.equal(
        restricted.generate(labels, generator=seeded()), full.generate(labels, generator=seeded())
    )


def test_restricted_head_computes_only_its_columns():
    """Positions with K_t codes multiply with K_t columns: the head costs Σ K_t, not T · V."""
    codes, labels = data()
    flops = {}
    for restricted in (False, True):
        model = make(restricted_head=restricted)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.loss(codes, labels)
        flops[restricted] = counter.get_total_flops()
    columns = 8 * len(SIZES) - sum(SIZES)
    assert flops[False] - flops[True] == 2 * len(codes) * 32 * columns


def test_codebook_sizes_do_not_touch_training():
    """Same weights, other K_t: the same loss (claim C5)."""
    model, (codes, labels) = make(), data()
    other = ARModel(ARConfig((8,) * 5, vocabulary=8, classes=4, width=32, layers=2, heads=2))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval().loss(codes, labels), model.loss(codes, labels))


def test_label_dropout_only_in_training():
    model, (codes, labels) = make(dropout=0.0, label_dropout=0.9), data(64)
    free = model.loss(codes, torch.full_like(labels, model.null_label))
    kept = model.loss(codes, labels)
    dropped = model.train().loss(codes, labels, generator=seeded())
    assert not torch.equal(dropped, kept)
    assert abs(dropped - free) < abs(dropped - kept)
    assert torch.equal(dropped, model.loss(codes, labels, generator=seeded()))


def test_samples_stay_in_range_and_follow_the_seed():
    model, labels = make(), torch.arange(400) % 4
    codes = model.generate(labels, temperature=3.0, generator=seeded(1))
    assert codes.amin(0).tolist() == [0] * 5
    assert codes.amax(0).tolist() == [k - 1 for k in SIZES]
    assert torch.equal(codes, model.generate(labels, temperature=3.0, generator=seeded(1)))
    assert not torch.equal(codes, model.generate(labels, temperature=3.0, generator=seeded(2)))
    state = torch.random.get_rng_state()
    model.generate(labels, generator=seeded(1))
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is not used


def test_a_generator_for_each_row_makes_samples_independent_of_the_others():
    model, labels = make(), torch.arange(12) % 4

    def generators(rows):
        return [seeded(100 + i) for i in rows]

    together = model.generate(labels, generator=generators(range(12)))
    alone = [model.generate(labels[i : i + 1], generator=generators([i])) for i in range(12)]
    assert torch.equal(together, torch.cat(alone))
    some = [7, 2, 9]
    assert torch.equal(together[some], model.generate(labels[some], generator=generators(some)))
    guided = model.generate(labels, cfg_scale=2.0, generator=generators(range(12)))
    one = model.generate(labels[3:4], cfg_scale=2.0, generator=generators([3]))
    assert torch.equal(guided[3:4], one)
    assert len(torch.unique(together, dim=0)) > 6
    with pytest.raises(ValueError, match="one generator a row is 12, got 3"):
        model.generate(labels, generator=generators(range(3)))


def test_a_longer_prefix_goes_on_as_the_sample_would():
    """The number that chooses a code belongs to row and position: keeping codes changes nothing."""
    model, labels = make(), torch.arange(8) % 4
    codes = model.generate(labels, generator=seeded())
    for kept in range(len(SIZES) + 1):
        again = model.generate(labels, generator=seeded(), prefix=codes[:, :kept])
        assert torch.equal(again, codes)


def test_draw_inverts_the_distribution_and_never_takes_what_was_masked():
    logits = torch.tensor([-math.inf, 0.2, 0.5, -math.inf, 0.3, -math.inf]).clone()
    logits[[1, 2, 4]] = logits[[1, 2, 4]].log()
    u = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 1 - 2**-24])
    drawn = draw(logits.expand(6, -1), u)
    assert drawn.tolist() == [1, 1, 2, 2, 4, 4]
    wide = torch.randn(300, 5000, generator=seeded())
    wide[:, 2500:] = -math.inf
    assert (draw(wide, torch.full((300,), 1 - 2**-24)) < 2500).all()
    assert (draw(wide, torch.zeros(300)) == 0).all()


def test_samples_have_the_model_s_distribution():
    """Frequencies of the first two codes against the exact chain rule; 5 sigma."""
    model, n = make(), 20_000
    codes = model.generate(torch.ones(n, dtype=torch.int64), generator=seeded())
    for a in range(2):
        for b in range(3):
            probe = torch.zeros(1, 5, dtype=torch.int64)
            probe[0, 0], probe[0, 1] = a, b
            losses = model.position_losses(probe, torch.tensor([1]), own=True)[0, :2]
            p = math.exp(-losses.sum())
            share = ((codes[:, 0] == a) & (codes[:, 1] == b)).float().mean().item()
            assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / n) + 1e-4


def test_greedy_choices_agree():
    model, (_, labels) = make(), data()
    greedy = model.generate(labels, temperature=0)
    assert torch.equal(model.generate(labels, top_k=1, generator=seeded()), greedy)
    assert torch.equal(model.generate(labels, top_p=1e-9, generator=seeded()), greedy)
    logits = model.logits(greedy, labels).masked_fill(model._beyond(greedy.device), -math.inf)
    assert torch.equal(logits.argmax(-1), greedy)


def test_guidance_combines_the_two_predictions():
    model, (_, labels) = make(), data()
    greedy = model.generate(labels, temperature=0, cfg_scale=3.0)
    free = model.logits(greedy, torch.full_like(labels, model.null_label))
    mixed = free + 3.0 * (model.logits(greedy, labels) - free)
    mixed = mixed.masked_fill(model._beyond(greedy.device), -math.inf)
    assert torch.equal(mixed.argmax(-1), greedy)


def test_the_steps_of_sampling_come_in_the_stated_order():
    """Against a plain reading on the logits of the full pass; two other orders give other codes."""
    model, labels = make(), torch.arange(300) % 4
    none, temperature = torch.full_like(labels, model.null_label), 1.7
    scales = guidance_scales(2.5, 5, "cosine")
    chances = torch.rand(300, 5, generator=seeded())

    def mask(logits, t):
        beyond = torch.arange(8) >= SIZES[t]
        return logits.masked_fill(beyond, -math.inf)

    def cut(logits):
        return filter_logits(logits, top_k=3, top_p=0.8)

    orders = {
        "stated": lambda x, t: cut(mask(x / temperature, t)),
        "cut before mask": lambda x, t: mask(cut(x / temperature), t),
        "cut before temperature": lambda x, t: cut(mask(x, t)) / temperature,
    }
    drawn = {}
    for name, order in orders.items():
        codes = torch.zeros(300, 5, dtype=torch.int64)
        for t in range(5):
            free = model.logits(codes, none)[:, t]
            guided = free + scales[t] * (model.logits(codes, labels)[:, t] - free)
            last = order(guided, t)
            codes[:, t] = draw(last.nan_to_num(neginf=-1e9), chances[:, t]) % SIZES[t]
        drawn[name] = codes
    found = model.generate(labels, temperature, 3, 0.8, 2.5, "cosine", generator=seeded())
    assert (found == drawn.pop("stated")).all(1).float().mean() > 0.99  # rounding at an edge
    assert all((found == other).all(1).float().mean() < 0.9 for other in drawn.values())


def test_guidance_scale_one_changes_nothing():
    model, (_, labels) = make(), data(50)
    plain = model.generate(labels, generator=seeded())
    # a scale one ulp above 1 takes the guided path and must draw the same codes
    nearly = model.generate(labels, cfg_scale=1 + 1e-7, generator=seeded())
    assert torch.equal(plain, nearly)
    assert torch.equal(plain, model.generate(labels, guidance="cosine", generator=seeded()))


def test_guidance_schedules():
    assert guidance_scales(4.0, 3) == [4.0, 4.0, 4.0]
    ramp = guidance_scales(19.0, 256, "cosine", 1.75)
    assert ramp[0] == 1.0 and ramp[-1] < 19.0
    assert all(a < b for a, b in zip(ramp, ramp[1:], strict=False))
    t = 100
    assert math.isclose(ramp[t], 1 + 18 * 0.5 * (1 - math.cos(math.pi * (t / 256) ** 1.75)))
    with pytest.raises(ValueError, match="guidance must be .* got 'linear'"):
        guidance_scales(2.0, 4, "linear")


def test_filters_keep_what_they_say():
    logits = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.05, 0.05, 0.8, 0.1]]))
    kept = filter_logits(logits, top_k=2).isfinite()
    assert kept.tolist() == [[True, True, False, False], [False, False, True, True]]
    kept = filter_logits(logits, top_p=0.65).isfinite()
    assert kept.tolist() == [[True, True, False, False], [False, False, True, False]]
    assert torch.equal(filter_logits(logits, top_k=9, top_p=1.0), logits)


def test_prefix_is_kept_and_conditions_the_rest():
    model = make()
    labels = torch.zeros(300, dtype=torch.int64)
    rest = []
    for first in (0, 1):
        prefix = torch.full((300, 1), first)
        codes = model.generate(labels, prefix=prefix, generator=seeded())
        assert torch.equal(codes[:, :1], prefix)
        rest.append(codes[:, 1:])
    assert not torch.equal(*rest)


def test_generate_restores_the_mode_and_is_deterministic_in_training_mode():
    model, (_, labels) = make(), data()
    expected = model.generate(labels, generator=seeded())
    assert torch.equal(model.train().generate(labels, generator=seeded()), expected)
    assert model.training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": 7}, "vocabulary must be at least K_max = 8, got 7"),
        ({"codebook_sizes": ()}, "codebook_sizes must have at least 1 item"),
        ({"classes": 0}, "classes must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout must be below 1, got 1.0"),
        ({"width": 30, "heads": 4}, "width 30 is not divisible by heads 4"),
    ],
)
def test_bad_settings_are_named(changes, message):
    settings = {"codebook_sizes": SIZES, "vocabulary": 8, "classes": 4} | changes
    with pytest.raises(ValueError, match=message):
        ARModel(ARConfig(**settings))


def test_config_round_trip_refuses_unknown_names():
    config = make().config
    assert ARConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="unknown setting 'depth'"):
        ARConfig.from_dict(config.to_dict() | {"depth": 3})


def test_bad_input_is_named():
    model, (codes, labels) = make(), data()
    with pytest.raises(ValueError, match=r"codes must be \[B, 5\], got \(6, 4\)"):
        model.logits(codes[:, :4], labels)
    for options, message in (
        ({"temperature": -1}, "temperature must be 0 or more, got -1"),
        ({"temperature": math.nan}, "temperature must be 0 or more, got nan"),
        ({"cfg_scale": math.inf}, "cfg_scale must be a finite number, got inf"),
        ({"cfg_scale": 2.0, "guidance_power": 0.0}, "guidance_power must be positive .* got 0.0"),
        ({"cfg_scale": 2.0, "guidance": "linear"}, "guidance must be .* got 'linear'"),
        ({"generator": [torch.Generator()]}, "one generator a row is 6, got 1"),
        ({"prefix": codes[:, :2] + 8}, r"at image 0, position 1 is outside 0\.\.1"),
        ({"top_k": -2}, "top_k must be 0 .all. or more, got -2"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"prefix": codes[:3]}, r"prefix must be \[6, m <= 5\], got \(3, 5\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.train().generate(labels, **options)
        assert model.training  # as it was
    for call in (model.logits, model.loss, model.position_losses):
        for wrong, named in (
            (codes + 8, rf"code {codes[0, 0] + 8} at image 0, position 1 is outside 0\.\.1"),
            (codes.index_fill(1, torch.tensor([1]), 3), "code 3 at image 0, position 2 is outside"),
            (codes.float(), "codes must be integers, got torch.float32"),
        ):
            with pytest.raises(ValueError, match=named):
                call(wrong, labels)
        with pytest.raises(ValueError, match=r"label 5 at row 0 is outside 0\.\.4"):
            call(codes, labels + 5)
    with pytest.raises(ValueError, match=r"label 7 at row 1 is outside 0\.\.4"):
        model.generate(torch.tensor([0, 7]))


@pytest.mark.parametrize("scale", [4.0, 0.0, 1.5, -1])
def test_guidance_by_a_label_that_was_never_learned_is_refused(scale):
    """Without label dropout the row of "no class" holds what it was drawn with."""
    labels = torch.tensor([0, 1])
    message = f"cfg_scale {scale} needs a model trained with label dropout, this one had none"
    with pytest.raises(ValueError, match=message):
        make(label_dropout=0.0).generate(labels, cfg_scale=scale)
    make(label_dropout=0.0).generate(labels, cfg_scale=1)
    make(label_dropout=0.1).generate(labels, cfg_scale=scale)


def test_generate_gives_back_each_parts_own_mode_after_an_error_too():
    model = make().train()
    model.blocks[0].eval()  # frozen by its user
    before = [part.training for part in model.modules()]
    model.generate(torch.tensor([0]))
    assert [part.training for part in model.modules()] == before

    def broken(*_):
        raise RuntimeError("out of memory")

    hook = model.norm.register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.generate(torch.tensor([0]))
    hook.remove()
    assert [part.training for part in model.modules()] == before


def test_uniform_prediction_costs_log_of_the_vocabulary():
    model, (codes, labels) = make(), data()
    model.head.weight.data.zero_()
    assert math.isclose(model.loss(codes, labels).item(), math.log(8), rel_tol=1e-6)
    own = model.position_losses(codes, labels, own=True)
    expected = torch.tensor(SIZES).log().expand_as(own)
    torch.testing.assert_close(own, expected)
    assert F.cross_entropy(model.logits(codes, labels).transpose(1, 2), codes) > 0
