"""The examples run, and their adapters are what they say."""

import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from vector_quantize_pytorch import VectorQuantize

import vcqlib

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(autouse=True)
def one_thread():
    """Small layers: a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_every_example_is_listed_and_run_here():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    readme = (EXAMPLES / "README.md").read_text()
    tests = Path(__file__).read_text()
    assert len(names) == 5
    for name in names:
        assert f"`{name}`" in readme and f'load("{name.removesuffix(".py")}")' in tests


# ---------------------------------------------------------------- VectorQuantize


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("fmap", [False, True])
def test_with_equal_sizes_the_adapter_is_vector_quantize(cosine, fmap):
    torch.manual_seed(0)
    adapter = load("replace_vector_quantize")["VariableVectorQuantize"]
    options = {"use_cosine_sim": cosine, "accept_image_fmap": fmap, "commitment_weight": 0.5}
    theirs = VectorQuantize(dim=8, codebook_size=16, rotation_trick=False, **options).eval()
    ours = adapter(dim=8, codebook_size=[16] * 12, **options).eval()
    with torch.no_grad():
        ours.quantizer.codebook.copy_(theirs.codebook)
    x = torch.randn(5, 8, 3, 4) if fmap else torch.randn(5, 12, 8)
    want, indices, _ = theirs(x)
    got, codes, loss = ours(x)
    assert torch.equal(codes, indices)
    assert got.shape == want.shape and torch.allclose(got, want, atol=1e-6)
    assert loss.shape == ()
    rows = ours.get_codes_from_indices(codes)
    assert torch.allclose(rows, theirs.get_codes_from_indices(indices), atol=1e-6)


@pytest.mark.parametrize("fmap", [False, True])
def test_in_training_the_adapter_commits_and_moves_its_codes(fmap):
    torch.manual_seed(0)
    adapter = load("replace_vector_quantize")["VariableVectorQuantize"]
    layer = adapter(dim=4, codebook_size=[2, 4, 8, 8, 8, 8], accept_image_fmap=fmap)
    x = torch.randn((7, 4, 2, 3) if fmap else (7, 6, 4), requires_grad=True)
    before = layer.quantizer.codebook.clone()
    quantized, codes, loss = layer(x)
    assert codes.shape == ((7, 2, 3) if fmap else (7, 6))
    assert (codes.flatten(1) < torch.tensor([2, 4, 8, 8, 8, 8])).all()
    assert loss.item() == pytest.approx((quantized - x).square().mean().item(), rel=1e-4)
    (quantized.sum() + loss).backward()
    assert torch.allclose(x.grad, 1 + 2 * (x - quantized).detach() / x.numel(), atol=1e-5)
    assert not torch.equal(before, layer.quantizer.codebook)


def test_replace_vector_quantize():
    measured = load("replace_vector_quantize")["main"](steps=30)
    assert list(measured) == ["VectorQuantize", "variable"]
    assert measured["variable"].bits[0] <= 1 < measured["VectorQuantize"].bits[0]


# ---------------------------------------------------------------- ResidualVQ


def test_beside_residual_vq():
    example = load("beside_residual_vq")
    sizes = torch.tensor(example["SIZES"])
    assert sizes.tolist() == [2, 4, 8, 16, 32, 64, 64, 64]
    found = example["main"](steps=60)
    for codes, error in found.values():
        assert codes.shape == (1797, 8) and (codes < sizes).all() and (codes >= 0).all()
        bits = vcqlib.conditional_entropy(codes).bits
        assert (bits <= np.log2(example["SIZES"])).all()
        assert error < 0.14  # the variance of the pixels


# ---------------------------------------------------------------- datasets


@pytest.mark.parametrize("kind", ["saved", "cache", "hub"])
def test_token_columns_are_read_as_datasets_leaves_them(kind, tmp_path):
    example = load("entropy_of_datasets")
    codes, labels = np.random.default_rng(0).integers(0, 50, (70, 6)), np.arange(70) % 3
    if kind == "saved":
        example["save"](tmp_path, codes, labels, shards=3)
        names = sorted(tmp_path.glob("*.arrow"))
        names[0].rename(tmp_path / "z.arrow")  # order is the list's, not the alphabet's
        state = (tmp_path / "state.json").read_text().replace(names[0].name, "z.arrow")
        (tmp_path / "state.json").write_text(state)
    else:
        table = pa.table({"label": labels, "tokens": codes.tolist()})
        for i, part in enumerate((table[:30], table[30:])):
            if kind == "cache":
                path = tmp_path / f"name-train-{i:05}-of-00002.arrow"
                with pa.ipc.new_stream(str(path), part.schema) as stream:
                    stream.write_table(part, max_chunksize=7)
            else:
                (tmp_path / "data").mkdir(exist_ok=True)
                pq.write_table(part, tmp_path / "data" / f"train-{i:05}-of-00002.parquet")
    table = example["read_table"](tmp_path)
    assert np.array_equal(example["matrix"](table, "tokens"), codes)
    assert np.array_equal(example["matrix"](table[30:40], "tokens"), codes[30:40])
    assert table["label"].to_pylist() == labels.tolist()


def test_entropy_of_datasets(capsys):
    example = load("entropy_of_datasets")
    result = example["main"]()
    assert result.n_sequences == 5000 and len(result.per_class) == 10
    assert "told after 2 positions" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"different lengths: \[1, 2\]"):
        example["matrix"](pa.table({"tokens": [[1], [1, 2]]}), "tokens")
    with pytest.raises(FileNotFoundError, match="neither .arrow nor .parquet"):
        example["read_table"](EXAMPLES)


# ---------------------------------------------------------------- a loop, and shards


def test_accelerate_style_loop():
    """`prepare` and `backward` are used where accelerate's stand, and change nothing here."""
    example, calls = load("accelerate_style_loop"), []

    def prepare(*things):
        calls.append([type(thing).__name__ for thing in things])
        return things

    def backward(loss):
        calls.append(loss.shape)
        loss.backward()

    result, errors = example["main"](epochs=3, prepare=prepare, backward=backward)
    assert calls[0] == ["Autoencoder", "AdamW", "DataLoader"]
    assert calls[1:] == [torch.Size([])] * (3 * (1797 // 128))
    assert errors[2] < errors[1] < errors[0]
    again, same = example["main"](epochs=3)
    assert same == errors and np.array_equal(again.bits, result.bits)


def test_sharded_with_dask():
    sharded, whole = load("sharded_with_dask")["main"](shards=3)
    assert np.allclose(sharded.bits, whole.bits, atol=1e-12)
    assert np.array_equal(sharded.distinct_prefixes, whole.distinct_prefixes)
