"""Which columns are positions: the right ones, and said; or a refusal that names the option."""

import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vcqlib.cli.app import main
from vcqlib.data.token_files import read_tokens
from vcqlib.entropy.estimates import conditional_entropy
from vcqlib.entropy.sharded import sharded_conditional_entropy

N, T = 300, 5
SEQUENCES = np.random.default_rng(0).integers(0, 9, (20, T))
CODES = SEQUENCES[np.arange(N) % 20]  # 300 rows of 20 different sequences: log2 20 = 4.32 bits
WIDE = {f"p{t}": CODES[:, t] for t in range(T)}
LISTS = CODES.tolist()
ROWS = np.arange(N)


def shuffled():
    """A table whose index pandas stores: what sampling or filtering leaves behind."""
    return pd.DataFrame(WIDE).sample(frac=1, random_state=0)


def table(**columns):
    return pa.table({name: pa.array(np.asarray(v).tolist()) for name, v in columns.items()})


# what the file holds; the columns that are read; what is left out
READ = {
    "pandas index": (lambda: pa.Table.from_pandas(shuffled()), "p0", ["__index_level_0__"]),
    "named index": (
        lambda: pa.Table.from_pandas(pd.DataFrame(WIDE, index=pd.Index(ROWS, name="image_id"))),
        "p0", ["image_id"],
    ),
    "two indices": (
        lambda: pa.Table.from_pandas(
            pd.DataFrame(WIDE, index=pd.MultiIndex.from_arrays([ROWS, ROWS[::-1]]))
        ),
        "p0", ["__index_level_0__", "__index_level_1__"],
    ),
    "index without pandas' note": (
        lambda: table(**WIDE, __index_level_0__=ROWS), "p0", ["__index_level_0__"],
    ),
    "id and label": (lambda: table(id=ROWS, label=ROWS % 2, **WIDE), "p0", ["id"]),
    "numbered from 1": (
        lambda: table(**{f"t{t + 1}": CODES[:, t] for t in range(T)}, width=ROWS), "t1", ["width"],
    ),
    "plain numbers": (lambda: pa.Table.from_pandas(pd.DataFrame(CODES)), "0", []),
    "written out of order": (
        lambda: table(**{f"p{t}": CODES[:, t] for t in (3, 0, 4, 2, 1)}), "p0", [],
    ),
    "lists and ids": (lambda: table(id=ROWS, tokens=LISTS, y=ROWS), "tokens", ["id"]),
    "the only lists": (lambda: table(id=ROWS, vq=LISTS, split=["a"] * N), "vq", ["id", "split"]),
    "known lists among others": (
        lambda: table(input_ids=LISTS, attention_mask=np.ones((N, T), int)),
        "input_ids", ["attention_mask"],
    ),
    "lists of floats beside": (
        lambda: table(embedding=np.zeros((N, 2)), Tokens=LISTS), "Tokens", ["embedding"],
    ),
}  # fmt: skip


def save(content, folder, name="a.parquet"):
    pq.write_table(content, folder / name)
    return folder / name


@pytest.mark.parametrize("case", READ)
def test_only_positions_are_read_and_the_rest_is_named(case, tmp_path, capsys):
    content, first, left_out = READ[case]
    path = save(content(), tmp_path)
    read = read_tokens(path)
    order = np.lexsort(read.codes.T)
    assert np.array_equal(read.codes[order], CODES[np.lexsort(CODES.T)])
    assert read.columns[0] == first and list(read.left_out) == left_out
    assert conditional_entropy(read.codes).total_bits == pytest.approx(np.log2(20))
    assert sharded_conditional_entropy([path]).total_bits == pytest.approx(np.log2(20))
    assert main(["entropy", str(path)]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (first, *left_out)) and "4.322 bits" in said


AMBIGUOUS = {
    "no numbers": (lambda: table(a=ROWS, b=ROWS), "a int64, b int64"),
    "two families": (lambda: table(**WIDE, q0=ROWS, q1=ROWS), "q0 int64"),
    "a gap": (lambda: table(p0=ROWS, p1=ROWS, p3=ROWS), "number 2"),
    "from 5": (lambda: table(p5=ROWS, p6=ROWS), "number 0"),
    "one number twice": (lambda: table(p0=ROWS, p1=ROWS, p01=ROWS), "number twice"),
    "one column": (lambda: table(token=ROWS), "token int64"),
    "two lists": (lambda: table(a=LISTS, b=LISTS), "a list<"),
    "two known lists": (lambda: table(codes=LISTS, tokens=LISTS), "codes list<"),
    "lists and numbers": (lambda: table(vq=LISTS, **WIDE), "vq list<"),
    "nothing": (lambda: table(caption=["a"] * N), "caption string"),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_is_ambiguous_is_refused_with_the_option(case, tmp_path, capsys):
    content, message = AMBIGUOUS[case]
    path = save(content(), tmp_path)
    assert main(["entropy", str(path)]) == 2
    said = capsys.readouterr().err
    assert message in said and "--columns" in said and str(path) in said and said.count("\n") == 1
    with pytest.raises(ValueError, match="--columns"):
        sharded_conditional_entropy([path])


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["q*"], ["q1", "q2", "q10"]),
        (["q10", "q1"], ["q10", "q1"]),
        (["vq"], ["vq"]),
        (["q2", "vq"], ["q2", "vq"]),
    ],
)
def test_columns_are_taken_as_they_are_named(columns, expected, tmp_path):
    names = {"q1": CODES[:, 0], "q10": CODES[:, 1], "q2": CODES[:, 2]}
    content = {**names, "vq": CODES}
    path = save(table(vq=LISTS, p0=ROWS, p1=ROWS, **names), tmp_path)
    read = read_tokens(path, columns)
    assert list(read.columns) == expected
    joined = np.concatenate([content[name].reshape(N, -1) for name in expected], axis=1)
    assert np.array_equal(read.codes, joined)
    sharded = sharded_conditional_entropy([path], columns=columns)
    assert sharded.total_bits == pytest.approx(conditional_entropy(joined).total_bits)


@pytest.mark.parametrize(
    ("columns", "message"),
    [(["tokns"], "unknown column 'tokns': did you mean 'tokens'?"), (["x*"], "unknown column 'x*'"),
     (["p1", "p*"], "names p1 twice"), (["word"], "tokens must be integers, got string")],
)  # fmt: skip
def test_wrong_columns_are_named(columns, message, tmp_path, capsys):
    path = save(table(tokens=LISTS, p0=ROWS, p1=ROWS, word=["a"] * N), tmp_path)
    assert main(["entropy", str(path), "--columns", *columns]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_shards_have_to_agree_and_the_columns_are_logged(tmp_path, caplog):
    for i in range(2):
        save(table(id=ROWS, **WIDE), tmp_path, f"{i}.parquet")
    with caplog.at_level(logging.INFO, "vcqlib.entropy.sharded"):
        sharded_conditional_entropy(tmp_path)
    assert "tokens: p0, p1, p2, p3, p4; left out: id" in caplog.text
    save(table(codes=LISTS), tmp_path, "1.parquet")
    with pytest.raises(
        ValueError, match=r"1\.parquet: tokens: codes; but .*0\.parquet: tokens: p0"
    ):
        sharded_conditional_entropy(tmp_path)
    with pytest.raises(ValueError, match=r"1\.parquet: tokens: codes; but 0\.parquet: tokens: p0"):
        read_tokens(tmp_path)
