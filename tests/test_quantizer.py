"""The quantizer against a plain reading of its definition and against vector-quantize-pytorch."""

import multiprocessing

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from vcqlib.models import search as module
from vcqlib.models.quantizer import VariableCodebookQuantizer

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
@pytest.mark.parametrize("dim", [8, 14])
def test_uniform_equals_vector_quantize_pytorch(distance, training, dim):
    from vector_quantize_pytorch import VectorQuantize

    ours = VariableCodebookQuantizer((300,) * 8, dim, distance=distance).train(training)
    ours.reset_parameters(torch.Generator().manual_seed(0))
    theirs = VectorQuantize(dim, 300, use_cosine_sim=distance == "cosine").train(training)
    theirs._codebook.embed.copy_(ours.rows().detach()[None])
    z = torch.randn(200, 8, dim, generator=torch.Generator().manual_seed(1))
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


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_search_never_looks_beyond_k(distance):
    """Work Σ K_t: each position is multiplied with its own K_t rows and with no others."""
    vq = make(sizes=(2, 2, 500, 5, 300), num_codes=1000, distance=distance).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vq(vectors(10, 5))
    assert counter.get_total_flops() == 2 * DIM * 10 * sum(vq.sizes)


class Largest(TorchDispatchMode):
    """Remembers the largest number of entries that any operation has returned."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, torch.Tensor):
                self.entries = max(self.entries, x.numel())
        return result


@pytest.mark.parametrize("options", [{}, {"ema": 0.9, "revive": 1}, {"distance": "euclidean"}])
def test_memory_is_bounded_by_the_block(options, monkeypatch):
    """No [B · T, K_max] scores or one-hots: nothing larger than a block and the counts."""
    monkeypatch.setattr(module, "BLOCK", 5000)
    vq, z = make(sizes=(2, 900, 1000), **options).train(), vectors(400, 3)
    with Largest() as seen:
        vq(z)
        vq(z)
        vq.encode(z)
    assert seen.entries <= max(5000, vq.counts.numel(), z.numel())
    assert seen.entries < 400 * 1000  # what scores of a single position would take


@pytest.mark.parametrize("k", [256, 257, 300, 1024])
def test_the_first_of_equal_rows_wins_whatever_the_number_of_rows(k):
    vq = make(sizes=(k, k)).eval()
    half = k // 2
    with torch.no_grad():
        vq.codebook[half : 2 * half] = vq.codebook[:half].clone()  # every row twice
    z = vq.rows()[torch.arange(2 * half)[:, None].expand(-1, 2)].detach()
    assert torch.equal(vq(z).codes[:, 0], torch.arange(2 * half) % half)


def test_products_are_exact_where_coarser_ones_are_allowed():
    """TF32 is switched off for the search, and only for it."""
    matmul = torch.backends.cuda.matmul
    before, seen = matmul.fp32_precision, []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "mm" in str(function):
                seen.append(matmul.fp32_precision)
            return function(*args, **(kwargs or {}))

    try:
        matmul.fp32_precision = "tf32"
        with Watch():
            make()(vectors())
        assert seen and set(seen) == {"ieee"}
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


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
    vq.counts += 2**60  # far beyond what 32 bits or a float hold
    vq.count(codes)
    assert torch.equal(vq.usage().counts, 2 * expected + 2**60)
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


def test_ema_rows_follow_the_mean_of_their_vectors():
    vq, z = make(distance="euclidean", ema=0.9).train(), vectors()
    before = vq.codebook.clone()
    z.requires_grad_()
    _, codes, loss = vq(z)
    loss.backward()
    assert vq.codebook.grad is None and "codebook" in vq.state_dict()
    torch.testing.assert_close(loss.detach(), 0.25 * F.mse_loss(before[codes], z.detach()))
    for k in range(max(SIZES)):
        mine = z.detach()[codes == k]  # of all positions
        mean = (0.9 * before[k] + 0.1 * mine.sum(0)) / (0.9 + 0.1 * len(mine))
        torch.testing.assert_close(vq.codebook[k], mean)
    for _ in range(200):  # a row without vectors stays where it is, however long
        vq(torch.zeros(4, len(SIZES), DIM))
    assert vq.codebook.isfinite().all()
    expected = vq.decode(vq.eval()(z).codes)
    assert torch.equal(vq(z).quantized, expected)


def test_options_are_off_by_default_and_add_no_state():
    assert set(make().state_dict()) == {"codebook", "counts"}
    added = set(make(ema=0.9, revive=5).state_dict()) - set(make().state_dict())
    assert added == {"ema_uses", "ema_sums", "recent", "age"}


def one_sided(vq, batch=50):
    """Vectors of which every position takes row 0, whatever its K_t."""
    noise = torch.randn(batch, len(vq.sizes), DIM, generator=torch.Generator().manual_seed(3))
    return vq.rows()[0].detach() + 0.01 * noise


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_revival_moves_dead_rows_onto_vectors_of_the_positions_they_matter_to(ema):
    vq = make(sizes=(2, 4, 4, 8), num_codes=12, ema=ema, revive=3).train()
    z = one_sided(vq)
    start = vq.codebook.detach().clone()
    for _ in range(3):
        assert (vq(z).codes == 0).all()
    vq(z)  # the fourth batch begins with a revival
    place = F.normalize(z, dim=-1)
    pools = {1: place[:, :1], 2: place[:, 1:3], 3: place[:, 1:3]} | dict.fromkeys(
        range(4, 8), place[:, 3:]
    )
    if not ema:  # else this batch has moved them on already
        for k, pool in pools.items():
            assert (pool == vq.codebook[k]).all(-1).any(), k
        assert torch.equal(vq.codebook[0].detach(), start[0])
    assert torch.equal(vq.codebook[8:].detach(), start[8:])  # no position may use these
    vq.reset_usage()
    vq(z)
    assert (vq.usage().used == torch.tensor([2, 4, 4, 8])).all()


def test_a_row_used_elsewhere_is_dead_where_it_matters():
    """Row 1 serves position 2 (K = 4), yet position 1 (K = 2) has lost its bit."""
    vq = make(sizes=(2, 4), revive=1).train()
    z = one_sided(vq)
    z[:, 1] = vq.rows()[torch.arange(50) % 4].detach()
    vq(z)
    before = vq.codebook.detach().clone()
    codes = vq(z).codes
    assert not torch.equal(vq.codebook[1], before[1])
    assert torch.equal(vq.codebook[[0, 2, 3]], before[[0, 2, 3]])
    assert set(codes[:, 0].tolist()) == {0, 1}


def test_a_resumed_run_revives_the_same_rows():
    vq = make(revive=2).train()
    z = one_sided(vq)
    vq(z)
    copy = VariableCodebookQuantizer(SIZES, DIM, revive=2)
    copy.load_state_dict(vq.state_dict())
    for _ in range(2):
        vq(z), copy.train()(z)
    assert torch.equal(vq.codebook, copy.codebook)
    assert not torch.equal(vq.codebook, make().codebook)


def test_rows_can_start_from_data():
    vq = make(num_codes=20)
    z = vq.prepare(vectors())
    outside = vq.codebook[16:].detach().clone()
    vq.place(z)
    for t, first, last in ((0, 0, 2), (2, 2, 5), (5, 5, 7), (4, 7, 16)):  # the smallest K_t > k
        pool = z[:, [i for i, k in enumerate(SIZES) if k == SIZES[t]]].flatten(0, 1)
        for k in range(first, last):
            assert (pool == vq.codebook[k]).all(-1).any()
    assert torch.equal(vq.codebook[16:], outside)
    assert len(torch.unique(vq.codebook, dim=0)) == 20


def one_of_two(rank, path, queue):
    """A process of a pair that has half of each batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{path}", rank=rank, world_size=2)
    mean, revived = make(ema=0.9).train(), make(sizes=(4, 4), revive=1).train()
    for step in range(3):
        mean(vectors(seed=step)[rank::2])
        revived(one_sided(revived)[rank::2])
        spoilt = vectors(seed=9)[rank::2] * (float("nan") if rank else 1)  # in one process alone
        mean(spoilt), revived(spoilt[:, :2])
    queue.put((rank, mean.codebook.tolist(), revived.codebook.tolist()))
    torch.distributed.destroy_process_group()


def test_two_processes_move_the_rows_as_one(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    pair = [context.Process(target=one_of_two, args=(r, tmp_path / "f", queue)) for r in (0, 1)]
    for process in pair:
        process.start()
    (_, mean, revived), (_, *other) = sorted(queue.get(timeout=120) for _ in pair)
    for process in pair:
        process.join()
    assert [mean, revived] == other
    alone = make(ema=0.9).train()
    for step in range(3):
        alone(vectors(seed=step))
    torch.testing.assert_close(torch.tensor(mean), alone.codebook.detach())
    start = make(sizes=(4, 4)).codebook.detach()
    assert not torch.equal(torch.tensor(revived)[1], start[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codebook_sizes": (2, 1), "dim": 4}, "K_2 = 1 is outside"),
        ({"codebook_sizes": (2, 9), "dim": 4, "num_codes": 8}, r"K_2 = 9 is outside 2\.\.8"),
        ({"codebook_sizes": (), "dim": 4}, "codebook_sizes must be .*, got none"),
        ({"codebook_sizes": (2,), "dim": 0}, "dim must be at least 1, got 0"),
        ({"codebook_sizes": (2,), "dim": 4, "distance": "l2"}, "distance must be .* got 'l2'"),
        ({"codebook_sizes": (2,), "dim": 4, "ema": 1.0}, r"ema must be in \[0, 1\), got 1.0"),
        ({"codebook_sizes": (2,), "dim": 4, "revive": -1}, "revive must be 0 .* got -1"),
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
