"""The sampling that a GPU does, on a CPU: the same work at every position, and no look at it."""

import shutil

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from vcqlib.models import sampler
from vcqlib.models.autoregressive import ARConfig, ARModel
from vcqlib.models.guards import evaluating

SIZES = (2, 4, 8, 16, 16, 16)


def model(**changes):
    torch.manual_seed(0)
    made = ARModel(ARConfig(SIZES, 16, 3, width=32, layers=2, heads=2, **changes)).eval()
    for weight in made.parameters():  # far from uniform, so that codes differ
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.3)
    return made


def codes(made, fixed, scale=1.0, how=(1.0, 0, 1.0), kept=0, step=None):
    labels, g = torch.arange(9) % 3, torch.Generator().manual_seed(1)
    chances = sampler.uniform(9, len(SIZES), g, labels.device)
    prefix = torch.stack([torch.randint(k, (9,), generator=g) for k in SIZES[:kept]] or
                         [torch.zeros(9)], 1)[:, :kept].long()  # fmt: skip
    scales = sampler.guidance_scales(scale, len(SIZES), "cosine")
    with torch.no_grad(), evaluating(made):
        return sampler.sample(made, labels, scales, how, chances, prefix, fixed, bool(step))


@pytest.mark.parametrize("kept", [0, 1, 3, 6])
@pytest.mark.parametrize(("scale", "how"), [(1.0, (1.0, 0, 1.0)), (3.0, (0.8, 3, 0.9)),
                                            (2.0, (0.0, 0, 1.0))])  # fmt: skip
def test_fixed_work_gives_the_codes_of_growing_work(kept, scale, how):
    (a, sane), (b, _) = (codes(model(), fixed, scale, how, kept) for fixed in (False, True))
    assert torch.equal(a, b) and sane.all()


def test_a_code_beyond_its_size_is_never_drawn():
    drawn = torch.cat([codes(model(), True, how=(5.0, 0, 1.0))[0] for _ in range(3)])
    assert (drawn < torch.tensor(SIZES)).all()


def test_no_position_waits_for_the_device():
    """On fake tensors any look of the host at a value is an error."""
    with FakeTensorMode(), torch.no_grad():
        made, labels = model(), torch.zeros(4, dtype=torch.int64)
        drawn, sane = sampler.sample(made.eval(), labels, [2.0] * 6, (0.9, 3, 0.9),
                                     torch.rand(4, 6), labels.new_empty(4, 0), True)  # fmt: skip
        assert drawn.shape == (4, 6) and sane.shape == (6,)


def test_every_position_launches_the_same_work():
    """Counted by the profiler: what is captured once can be replayed."""
    made, counts = model(), []
    for kept in (0, 3):
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            codes(made, True, kept=kept)
        counts.append(sum(e.count for e in seen.key_averages() if e.key == "aten::index_copy_"))
    layers = 2 * 2  # keys and values
    assert counts == [6 * layers, 3 * layers]


def test_half_precision_samples_and_keeps_its_range():
    drawn, sane = codes(model().bfloat16(), True, 2.0)
    assert sane.all() and (drawn < torch.tensor(SIZES)).all()


def test_the_step_has_no_graph_break_and_compiles_once():
    torch._dynamo.reset()
    made, graphs = model(), []

    def count(graph, _):
        graphs.append(graph)
        return graph

    whole = torch.compile(sampler._step, fullgraph=True, backend=count)
    plain, sampler_step = codes(made, True, 2.0)[0], sampler._step
    try:
        sampler._step = whole
        assert torch.equal(codes(made, True, 2.0)[0], plain)
    finally:
        sampler._step = sampler_step
    assert len(graphs) == 1


@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")
def test_compiled_sampling_gives_the_same_codes():
    torch._dynamo.reset()
    made, labels = model(), torch.arange(4) % 3
    seeds = [torch.Generator().manual_seed(i) for i in range(4)]
    again = [torch.Generator().manual_seed(i) for i in range(4)]
    plain = made.generate(labels, generator=seeds)
    assert torch.equal(made.generate(labels, generator=again, compiled=True), plain)
