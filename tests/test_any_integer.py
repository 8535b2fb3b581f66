"""Integers of any width, of NumPy or torch, go where codes go; floats of any width into metrics.

Doors and types are tables: the next case is one line.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vcqlib.data.token_files import read_tokens
from vcqlib.metrics import distances as ev
from vcqlib.models.autoregressive import ARConfig, ARModel
from vcqlib.models.quantizer import VariableCodebookQuantizer
from vcqlib.models.tokenizer import Tokenizer, TokenizerConfig
from vcqlib.training.autoregressive import train_ar
from vcqlib.training.inference import decode, position_bits
from vcqlib.training.recipe import Recipe

SIZES, ROWS = (2, 4, 8), np.array([[0, 3, 7], [1, 0, 0], [1, 2, 5], [0, 1, 4]])
LABELS = np.array([0, 2, 1, 0])


def fixed(kind, *arguments, **options):
    torch.manual_seed(0)
    return kind(*arguments, **options)


QUANTIZER = fixed(VariableCodebookQuantizer, SIZES, 4)
TOKENIZER = fixed(Tokenizer, TokenizerConfig(SIZES, 8, 8, 1, 4, width=8, depth=1)).eval()
TOKENIZER.quantizer.count(ROWS)
AR = fixed(ARModel, ARConfig(SIZES, 8, 3, width=16, layers=1, heads=2)).eval()


def trained(rows, labels):
    recipe = Recipe(2, 4, 1e-2)
    return train_ar(fixed(ARModel, AR.config), rows, labels, recipe).head.weight


def counted(rows, _):
    QUANTIZER.reset_usage()
    QUANTIZER.count(rows)
    return QUANTIZER.usage().counts


def sampled(rows, labels):
    generator = torch.Generator().manual_seed(0)
    return AR.generate(labels, prefix=rows[:, :1], generator=generator)


DOORS = {  # codes [4, 3], labels [4] → a tensor
    "quantizer.decode": lambda rows, _: QUANTIZER.decode(rows),
    "quantizer.count": counted,
    "tokenizer.decode": lambda rows, _: TOKENIZER.decode(rows),
    "tokenizer.decode of a prefix": lambda rows, _: TOKENIZER.decode(rows[:, :2]),
    "decode in batches": lambda rows, _: decode(TOKENIZER, rows, batch=3),
    "logits": lambda rows, labels: AR.logits(rows, labels),
    "loss": lambda rows, labels: AR.loss(rows, labels),
    "position losses": lambda rows, labels: AR.position_losses(rows, labels, own=True),
    "position bits": lambda rows, labels: position_bits(AR, rows, labels, batch=3),
    "generate": sampled,
    "train_ar": trained,
}
WIDTHS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
KINDS = {
    **{f"NumPy {name}": lambda x, name=name: x.astype(name) for name in WIDTHS},
    **{f"torch {name}": lambda x, name=name: torch.from_numpy(x.astype(name)) for name in WIDTHS},
    "big-endian": lambda x: x.astype(">u2"),
    "read-only": lambda x: np.broadcast_to(x, x.shape),
    "strides that are no array's": lambda x: np.asfortranarray(x[::-1].astype(np.uint16))[::-1],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", DOORS)
def test_every_width_gives_what_int64_gives(door, kind):
    expected = DOORS[door](torch.from_numpy(ROWS), torch.from_numpy(LABELS))
    assert torch.equal(DOORS[door](KINDS[kind](ROWS), KINDS[kind](LABELS)), expected)


REFUSED = {
    "floats": (lambda x: torch.from_numpy(x).float(), "must be integers, got torch.float32"),
    "NumPy floats": (lambda x: x.astype(float), "must be integers, got float64"),
    "half floats": (lambda x: torch.from_numpy(x).bfloat16(), "must be integers, got torch.bfl"),
    "truth values": (lambda x: torch.from_numpy(x > 0), "must be integers, got torch.bool"),
    "NumPy truth values": (lambda x: x > 0, "must be integers, got bool"),
    "complex": (lambda x: x + 0j, "must be integers, got complex128"),
    "strings": (lambda x: x.astype(str), "must be integers, got <U"),
    "masked": (lambda x: np.ma.masked_equal(x, 0), "must be integers, got masked entries"),
    "dates": (lambda x: x.astype("datetime64[s]"), "must be integers, got datetime64"),
}


NO_LABELS = ("quantizer", "tokenizer", "decode")


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_integer_is_refused_by_name(door, kind):
    make, message = REFUSED[kind]
    with pytest.raises(ValueError, match=f"^(codes|prefix) {message}"):
        DOORS[door](make(ROWS), LABELS)
    if not door.startswith(NO_LABELS):
        with pytest.raises(ValueError, match=f"^labels {message}"):
            DOORS[door](ROWS, make(LABELS))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.full((4, 3), -1, np.int16), "code -1 at image 0, position 1"),
        (torch.full((4, 3), -1, dtype=torch.int32), "code -1 at image 0, position 1"),
        (np.full((4, 3), 200, np.uint8), "code 200 at image 0, position 1"),
        (np.full((4, 3), 2**63 + 5, np.uint64), rf"must be below 2\^63, got {2**63 + 5}"),
    ],
)
def test_values_out_of_range_are_named_as_they_were_given(door, rows, message):
    with pytest.raises(ValueError, match=message):
        DOORS[door](rows, LABELS)


def test_rows_beyond_the_first_part_are_numbered_from_the_start(monkeypatch):
    from vcqlib.training import inference

    monkeypatch.setattr(inference, "ROWS", 3)
    rows, labels = np.tile(ROWS, (2, 1)), np.tile(LABELS, 2)
    rows[6, 1] = 4
    with pytest.raises(ValueError, match=r"code 4 at image 6, position 2 is outside 0\.\.3"):
        trained(rows, labels)
    rows[6, 1], labels[7] = 0, 9
    with pytest.raises(ValueError, match=r"label 9 at row 7 is outside 0\.\.3"):
        trained(rows, labels)


def test_what_our_reader_gives_is_taken_as_it_is(tmp_path):
    np.save(tmp_path / "codes.npy", ROWS.astype(np.uint16))
    rows = read_tokens(tmp_path / "codes.npy").codes
    assert torch.equal(QUANTIZER.decode(rows), QUANTIZER.decode(torch.from_numpy(ROWS)))
    assert AR.loss(rows, LABELS) == AR.loss(torch.from_numpy(ROWS), LABELS)


# ------------------------------------------------------------ features of any precision

FEATURES = [np.random.default_rng(seed).normal(size=(60, 4)) for seed in (0, 1)]
METRICS = {
    "frechet": ev.frechet_distance,
    "kernel": lambda a, b: ev.kernel_distance(a, b, subsets=3),
    "precision and recall": ev.precision_recall,
    "nearest": lambda a, b: ev.nearest_training(a, b)[1],
    "copies": lambda a, b: ev.count_copies(abs(a[:, 0]), abs(b[:, 0])),
    "class score": lambda a, b: ev.class_score(_softmax(a)),
    "probe": lambda a, b: ev.linear_probe(a, np.arange(60) % 2, b, np.arange(60) % 2),
}


def _softmax(x):
    if isinstance(x, torch.Tensor):
        return x.softmax(1)
    odds = np.exp(x)
    return odds / odds.sum(1, keepdims=True)


PRECISIONS = {
    "bf16": lambda x: torch.from_numpy(x).bfloat16(),
    "fp16": lambda x: torch.from_numpy(x).half(),
    "NumPy fp16": lambda x: x.astype(np.float16),
    "fp32": lambda x: x.astype(np.float32),
    "long double": lambda x: x.astype(np.longdouble),
    "with a gradient": lambda x: torch.from_numpy(x).requires_grad_(),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("metric", METRICS)
def test_a_score_is_that_of_the_rounded_values_in_float64(metric, precision):
    """Reading loses nothing: the same numbers in float64 give the same score."""
    given = [PRECISIONS[precision](x) for x in FEATURES]
    exact = [x.detach().double().numpy() if isinstance(x, torch.Tensor) else x.astype(float)
             for x in given]  # fmt: skip
    tolerance = 5e-3 if metric == "class score" and "16" in precision else 1e-6
    np.testing.assert_allclose(METRICS[metric](*given), METRICS[metric](*exact), rtol=tolerance)
