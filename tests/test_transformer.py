"""The shared block: rotary positions, attention with and without a cache, GEGLU."""

import pytest
import torch
import torch.nn.functional as F

from vcqlib.models.transformer import (
    GEGLU,
    Attention,
    Block,
    Cache,
    attend,
    dropped,
    project,
    rotary_table,
    rotate,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    table = rotary_table(32, 8)
    q, k = torch.randn(2, 8, generator=generator())
    turned_q = rotate(q.expand(1, 1, 32, 8), table)[0, 0]
    turned_k = rotate(k.expand(1, 1, 32, 8), table)[0, 0]
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(32))
    scores = turned_q @ turned_k.T  # [32, 32]
    for shift in (0, 3, 11):
        diagonal = scores.diagonal(shift)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-5)
    assert torch.equal(rotate(q.expand(1, 1, 1, 8), table[:, :1])[0, 0, 0], q)  # position 1: as is


def test_attention_is_softmax_of_normalised_turned_products():
    torch.manual_seed(0)
    attention, table = Attention(16, 4).eval(), rotary_table(5, 4)
    x = torch.randn(2, 5, 16)
    q, k, v = (a.view(2, 5, 4, 4).transpose(1, 2) for a in attention.qkv(x).chunk(3, -1))
    q, k = (F.rms_norm(a, (4,)) for a in (q, k))
    q, k = rotate(q, table), rotate(k, table)
    score = (q @ k.transpose(-1, -2)) / 2  # sqrt of head width 4
    for causal in (False, True):
        masked = score.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf) if causal else score
        expected = attention.out((masked.softmax(-1) @ v).transpose(1, 2).reshape(2, 5, 16))
        torch.testing.assert_close(attention(x, table, causal), expected, atol=1e-6, rtol=1e-5)


def test_bidirectional_attention_sees_all_and_causal_attention_only_the_past():
    torch.manual_seed(0)
    block, table = Block(16, 2, 24).eval(), rotary_table(6, 8)
    x = torch.randn(1, 6, 16)
    changed = x.clone()
    changed[:, 3] += 1
    past, ahead = slice(0, 3), slice(3, 6)
    causal = (block(x, table, causal=True) - block(changed, table, causal=True)).abs()
    assert causal[:, past].max() == 0 and causal[:, ahead].amax(-1).min() > 0
    free = (block(x, table) - block(changed, table)).abs()
    assert free.amax(-1).min() > 0


@pytest.mark.parametrize("first", [1, 4])
def test_cache_equals_the_full_pass(first):
    """A prompt of several positions at once, then one position at a time."""
    torch.manual_seed(0)
    block, table = Block(16, 2, 24).eval(), rotary_table(7, 8)
    x = torch.randn(3, 7, 16)
    full = block(x, table, causal=True)
    cache = Cache((3, 2, 7, 8), x)
    parts = [block(x[:, :first], table[:, :first], causal=True, cache=cache)]
    for t in range(first, 7):
        parts.append(block(x[:, t : t + 1], table[:, t : t + 1], causal=True, cache=cache))
    assert cache.length == 7
    torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 5, 64, 65])
@pytest.mark.parametrize("out", [10, 64, 203])
def test_project_is_the_linear_layer(rows, out):
    """Few rows take another way on a CPU, unless gradients are wanted: then the same bits."""
    x, weight = torch.randn(rows, 1, 12, generator=generator()), torch.randn(out, 12)
    with torch.no_grad():
        y = project(x, weight)
    torch.testing.assert_close(y, F.linear(x, weight), atol=1e-5, rtol=1e-5)
    assert y.is_contiguous()
    assert torch.equal(project(x, weight.requires_grad_()), F.linear(x, weight))


def test_geglu_gates():
    torch.manual_seed(0)
    layer, x = GEGLU(6, 10), torch.randn(4, 6)
    gate, up = layer.gate_up.weight.chunk(2)
    expected = (F.gelu(x @ gate.T) * (x @ up.T)) @ layer.out.weight.T
    torch.testing.assert_close(layer(x), expected)


def test_dropout_only_in_training():
    torch.manual_seed(0)
    block, table, x = Block(16, 2, 24, dropout=0.5), rotary_table(4, 8), torch.randn(2, 4, 16)
    assert not torch.equal(block.train()(x, table), block(x, table))
    assert torch.equal(block.eval()(x, table), block(x, table))


@pytest.mark.parametrize("chance", [0.0, 2**-16, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropped_entries_are_a_share_and_the_rest_keeps_the_mean(chance, dtype):
    torch.manual_seed(0)
    n = 299_999  # no multiple of the entries that a random number serves
    x = torch.full((n,), 3.0, dtype=dtype, requires_grad=True)
    y = dropped(x, chance)
    zeros = (y == 0).float()
    spread = (chance * (1 - chance) / n) ** 0.5
    assert abs(zeros.mean().item() - chance) <= 5 * spread
    kept = y[y != 0].unique()
    torch.testing.assert_close(kept, torch.tensor([3 / (1 - chance)], dtype=dtype))
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)  # one mask both ways
    if chance:  # neighbours that share a random number are independent
        both = (zeros[:-1] * zeros[1:]).mean().item()
        assert abs(both - chance**2) <= 5 * chance / n**0.5
        assert not torch.equal(dropped(x, chance), y)


@pytest.mark.parametrize("length", [1, 5, 256, 257])
@pytest.mark.parametrize("causal", [True, False])
def test_attention_written_out_is_that_of_torch(length, causal):
    q, k, v = torch.randn(3, 2, 3, length, 8, generator=generator()).requires_grad_()
    y = attend(q, k, v, causal)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-5)
    slope = torch.randn(y.shape, generator=generator(1))
    ours, theirs = (torch.autograd.grad(out, (q, k, v), slope) for out in (y, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_impossible_shapes_are_named():
    with pytest.raises(ValueError, match="width 10 is not divisible by heads 4"):
        Attention(10, 4)
    with pytest.raises(ValueError, match="even head width, got 5"):
        rotary_table(4, 5)
