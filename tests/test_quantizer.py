"""The quantizer against a plain reading of its definition and against vector-quantize-pytorch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vcqlib import quantizer as module
from vcqlib.quantizer import VariableCodebookQuantizer

SIZES = (2, 2, 5, 5, 16, 7)
DIM = 6


def make(seed=0, sizes=SIZES, **options):
    vq = VariableCodebookQuantizer(sizes, DIM, **options)
    vq.reset_parameters(torch.Generator().manual_seed(seed))
    return vq


def vectors(batch=40, length=6, seed=1):
    return torch.randn(batch, length, DIM, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_nearest_of_the_first_rows(distance):
    vq, z = make(distance=distance).eval(), vectors()
    codes = vq(z).codes
    rows = vq.rows()
    for t, k in enumerate(SIZES):
        expected = torch.cdist(vq.prepare(z)[:, t], rows[:k]).argmin(-1)
        assert torch.equal(codes[:, t], expected)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("training", [False, True])
def test_uniform_equals_vector_quantize_pytorch(distance, training):
    from vector_quantize_pytorch import VectorQuantize

    ours = make(sizes=(64,) * 8, distance=distance).train(training)
    theirs = VectorQuantize(DIM, 64, use_cosine_sim=distance == "cosine").train(training)
    theirs._codebook.embed.copy_(ours.rows().detach()[None])
    z = vectors(200, 8)
    with torch.no_grad():
        quantized, codes, _ = ours(z)
        their_quantized, their_codes, _ = theirs(z, freeze_codebook=True)
    x, rows = ours.prepare(z), ours.rows()
    differ = (codes != their_codes).nonzero()
    for b, t in differ.tolist():  # only where two rows are equally near
        gap = (x[b, t] - rows[codes[b, t]]).norm() - (x[b, t] - rows[their_codes[b, t]]).norm()
        assert abs(gap) < 1e-6
    assert len(differ) < 5
    same = codes == their_codes
    torch.testing.assert_close(quantized[same], their_quantized[same], atol=1e-5, rtol=0)


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_decode_gives_the_quantized_vectors(distance, balance):
    vq, z = make(distance=distance, balance=balance), vectors()
    quantized, codes, _ = vq.train()(z)
    torch.testing.assert_close(quantized, vq.decode(codes), atol=1e-6, rtol=0)
    quantized, codes, _ = vq.eval()(z)
    assert torch.equal(quantized, vq.decode(codes))
    assert torch.equal(vq.decode(codes[:, :3]), quantized[:, :3])


def test_codes_stay_in_range_and_reach_its_end():
    codes = make()(vectors(2000)).codes
    assert codes.dtype == torch.int64
    assert codes.amin(0).tolist() == [0] * len(SIZES)
    assert codes.amax(0).tolist() == [k - 1 for k in SIZES]


def test_the_first_rows_do_not_depend_on_the_others():
    """One shared codebook: a larger table changes nothing for the positions that do not see it."""
    small, large = make(), make(num_codes=100)
    large.codebook.data[: max(SIZES)] = small.codebook.data
    assert torch.equal(small(vectors()).codes, large(vectors()).codes)


def test_straight_through_gradient_is_the_identity():
    vq = make(distance="euclidean")
    z = vectors().requires_grad_()
    seed = torch.randn(z.shape)
    vq(z).quantized.backward(seed)
    assert torch.equal(z.grad, seed)


def test_loss_trains_codebook_and_encoder_with_the_stated_weights():
    vq = make(distance="euclidean", beta=0.25)
    z = vectors().requires_grad_()
    _, codes, loss = vq(z)
    loss.backward()
    chosen = vq.codebook.detach()[codes]
    torch.testing.assert_close(loss.detach(), 1.25 * F.mse_loss(chosen, z.detach()))
    torch.testing.assert_close(z.grad, 0.25 * 2 * (z.detach() - chosen) / z.numel())
    used = torch.unique(codes)
    assert (vq.codebook.grad[used].abs().sum(-1) > 0).all()
    unused = [k for k in range(max(SIZES)) if k not in used.tolist()]
    assert vq.codebook.grad[unused].abs().sum() == 0


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_result_does_not_depend_on_the_block(distance, monkeypatch):
    vq, z = make(distance=distance).eval(), vectors()
    whole = vq(z).codes
    monkeypatch.setattr(module, "BLOCK", 1)  # one vector at a time
    assert torch.equal(vq(z).codes, whole)


def test_the_search_never_looks_beyond_k(monkeypatch):
    """Work Σ K_t: each position is multiplied with its own K_t rows, in bounded blocks."""
    seen = []
    original = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: seen.append((len(a), b.shape[1])) or original(a, b)
    )
    monkeypatch.setattr(module, "BLOCK", 64)
    make().eval()(vectors(10))
    assert sum(n * k for n, k in seen) == 10 * sum(SIZES)
    assert max(n * k for n, k in seen) <= 64


def test_autocast_does_not_touch_the_search():
    vq, z = make(num_codes=16).eval(), vectors(500)
    plain = vq(z)
    with torch.autocast("cpu", torch.bfloat16):
        cast = vq(z)
    assert torch.equal(plain.codes, cast.codes)
    assert cast.quantized.dtype == cast.loss.dtype == torch.float32
    assert torch.equal(plain.loss, cast.loss)
    assert vq(z.bfloat16()).quantized.dtype == torch.float32


def test_usage_counts_what_was_seen_in_training():
    vq, z = make(num_codes=20), vectors()
    codes = torch.cat([vq(z[:15]).codes, vq(z[15:]).codes])
    expected = torch.stack([torch.bincount(codes[:, t], minlength=20) for t in range(len(SIZES))])
    usage = vq.usage()
    assert torch.equal(usage.counts, expected)
    assert torch.equal(usage.used, (expected > 0).sum(1))
    share = expected.double() / len(z)
    entropy = torch.distributions.Categorical(share).entropy()
    torch.testing.assert_close(usage.perplexity, entropy.exp(), rtol=1e-6, atol=1e-6)
    mean = torch.stack([vq.rows()[codes[:, t]].mean(0) for t in range(len(SIZES))])
    torch.testing.assert_close(vq.mean_vectors(), mean, atol=1e-5, rtol=1e-5)
    vq.eval()(z)
    assert torch.equal(vq.usage().counts, expected)  # eval does not count
    vq.reset_usage()
    assert vq.usage().counts.sum() == 0 and (vq.mean_vectors() == 0).all()


@pytest.mark.parametrize("balance", [False, True])
def test_balance_keeps_both_of_two_codes_in_use(balance):
    """Vectors with a large common mean, as an encoder gives them at the start."""
    vq = make(sizes=(2, 2, 2, 2), balance=balance)
    z = 5 * torch.ones(DIM) + 0.3 * vectors(400, 4)
    share = vq(z).codes.float().mean(0)
    assert ((share > 0.3) & (share < 0.7)).all() == balance


def test_balance_adds_no_parameter_and_state_survives():
    plain, balanced = make(), make(balance=True)
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in balanced.named_parameters()]
    balanced.train()(vectors() + 3)
    copy = VariableCodebookQuantizer(SIZES, DIM, balance=True)
    copy.load_state_dict(balanced.state_dict())
    z = vectors(seed=5)
    assert torch.equal(copy.eval()(z).codes, balanced.eval()(z).codes)
    assert isinstance(copy.norm, nn.BatchNorm1d) and copy.norm.running_mean.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codebook_sizes": (2, 1), "dim": 4}, "K_2 = 1 is outside"),
        ({"codebook_sizes": (2, 9), "dim": 4, "num_codes": 8}, r"K_2 = 9 is outside 2\.\.8"),
        ({"codebook_sizes": (), "dim": 4}, "codebook_sizes is empty"),
        ({"codebook_sizes": (2,), "dim": 0}, "dim must be at least 1, got 0"),
        ({"codebook_sizes": (2,), "dim": 4, "distance": "l2"}, "distance must be .* got 'l2'"),
    ],
)
def test_bad_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        VariableCodebookQuantizer(**arguments)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[0, 0], [1, 2]], r"code 2 at image 1, position 2 is outside 0\.\.1"),
        ([[-1]], "code -1 at image 0, position 1"),
        ([[0] * 7], "codes must be"),
        ([0, 1], "codes must be"),
    ],
)
def test_bad_codes_are_named(codes, message):
    with pytest.raises(ValueError, match=message):
        make().decode(torch.tensor(codes))


@pytest.mark.parametrize("shape", [(4, 5, DIM), (4, 6, DIM + 1), (6, DIM)])
def test_vectors_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="z must be"):
        make()(torch.zeros(shape))
