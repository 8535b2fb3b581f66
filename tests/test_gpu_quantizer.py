"""The search that a GPU does, on a CPU: few launches, equal codes, no graph break."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from vcqlib.models import search
from vcqlib.models.quantizer import VariableCodebookQuantizer
from vcqlib.models.search import groups, nearest
from vcqlib.theory.schedules import codebook_sizes

LOGLINEAR = codebook_sizes("loglinear", 256, 16384).tolist()


def table(sizes, dim=8, images=5):
    g = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(max(sizes), dim, generator=g), dim=-1)
    z = torch.nn.functional.normalize(torch.randn(images, len(sizes), dim, generator=g), dim=-1)
    return z, rows


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("sizes", [(2, 3, 5, 9, 300, 300), (300, 2, 9, 5, 300, 3), (7,) * 4, (2,)])
def test_groups_find_the_codes_of_the_cpu(sizes, unit, monkeypatch):
    z, rows = table(sizes, images=40)
    rows = rows if unit else rows * torch.linspace(0.5, 2, len(rows))[:, None]
    plain = nearest(z, rows, sizes, unit)
    assert torch.equal(search._by_groups(z, rows, sizes, unit), plain)
    monkeypatch.setattr(search, "GPU_BLOCK", 500)  # several blocks
    assert torch.equal(search._by_groups(z, rows, sizes, unit), plain)


def test_the_growing_codebook_of_imagenet_takes_14_groups_and_twice_its_work():
    assert len(set(LOGLINEAR)) == 207 and len(groups(LOGLINEAR)) == 14
    assert sorted(t for some in groups(LOGLINEAR) for t in some) == list(range(256))
    z, rows = table(LOGLINEAR, images=2)
    with FlopCounterMode(display=False) as counter:
        found = search._by_groups(z, rows, LOGLINEAR, True)
    assert counter.get_total_flops() <= 2 * (2 * 8 * 2 * sum(LOGLINEAR))
    assert torch.equal(found, nearest(z, rows, LOGLINEAR, True))


def test_a_forward_makes_few_calls():
    """What a GPU would launch: 1,044 calls for the runs of log-linear, and the groups' here."""
    z, rows = table(LOGLINEAR, images=64)
    search._by_groups(z, rows, LOGLINEAR, True)  # its masks are kept
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        search._by_groups(z, rows, LOGLINEAR, True)
    names = (
        "aten::mm",
        "aten::masked_fill_",
        "aten::argmax",
        "aten::copy_",
        "aten::_local_scalar_dense",
    )
    calls = {name: sum(e.count for e in seen.key_averages() if e.key == name) for name in names}
    assert calls["aten::mm"] == calls["aten::argmax"] <= 16
    assert calls["aten::_local_scalar_dense"] == 0  # the host waits for nothing
    assert sum(calls.values()) <= 80


OPTIONS = ({}, {"balance": True}, {"ema": 0.9}, {"distance": "euclidean"})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_quantizer_compiles_without_a_break_and_gives_equal_codes(options):
    torch._dynamo.reset()
    sizes = (2, 3, 9, 30)

    def made():
        torch.manual_seed(0)
        return VariableCodebookQuantizer(sizes, 6, **options).train()

    plain, whole = made(), made()
    compiled = torch.compile(whole, backend="aot_eager", fullgraph=True)
    for step in range(2):
        z = torch.randn(20, 4, 6, generator=torch.Generator().manual_seed(step))
        a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
        ours, theirs = plain(a), compiled(b)
        assert torch.equal(ours.codes, theirs.codes)
        torch.testing.assert_close(ours.loss, theirs.loss)
        for out in (ours, theirs):
            (out.loss + out.quantized.square().sum()).backward()
        torch.testing.assert_close(a.grad, b.grad)
    assert torch.equal(plain.counts, whole.counts)
