"""The cliff of a token column of Hugging Face `datasets`, without loading the package.

`datasets` keeps tables of Arrow. `save_to_disk` and its cache write Arrow streams (`*.arrow`), the
Hub stores Parquet (`data/train-00000-of-00002.parquet`); pyarrow reads both, memory-mapped. With
the object at hand the same function takes its table:

    matrix(dataset.with_format("arrow")[:], "tokens")
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import vcqlib


def read_table(folder: Path) -> pa.Table:
    """The rows of a data set on disk, in their order."""
    if streams := sorted(folder.glob("*.arrow")):
        if (state := folder / "state.json").is_file():  # as save_to_disk has left it
            streams = [folder / f["filename"] for f in json.loads(state.read_text())["_data_files"]]
        tables = [pa.ipc.open_stream(pa.memory_map(str(path))).read_all() for path in streams]
        return pa.concat_tables(tables)
    shards = sorted(folder.rglob("*.parquet"))
    if not shards:
        raise FileNotFoundError(f"{folder} holds neither .arrow nor .parquet files")
    return pa.concat_tables(pq.read_table(path) for path in shards)


def matrix(table: pa.Table, column: str) -> np.ndarray:
    """A column of equally long lists as one array [N, T], without copying a single part."""
    lists = table[column].combine_chunks()
    lists = lists if isinstance(lists, pa.Array) else pa.concat_arrays(lists.chunks)
    lengths = lists.value_lengths().unique().to_pylist()
    if len(lengths) != 1:
        raise ValueError(f"{column}: sequences of different lengths: {lengths[:5]}")
    return lists.flatten().to_numpy().reshape(-1, lengths[0])


def save(folder: Path, codes: np.ndarray, labels: np.ndarray, shards: int = 2) -> None:
    """Write a data set as `save_to_disk` does: Arrow streams and a list of them."""
    names = [f"data-{i:05}-of-{shards:05}.arrow" for i in range(shards)]
    parts = zip(np.array_split(codes, shards), np.array_split(labels, shards), strict=True)
    for name, (rows, own) in zip(names, parts, strict=True):
        table = pa.table({"tokens": rows.tolist(), "label": own})
        with (
            pa.OSFile(str(folder / name), "wb") as file,
            pa.ipc.new_stream(file, table.schema) as out,
        ):
            out.write_table(table)
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "0", "_format_columns": None, "_format_kwargs": {},
        "_format_type": None, "_output_all_columns": False, "_split": None,
    }  # fmt: skip
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def main(folder: str | None = None, column: str = "tokens") -> vcqlib.ConditionalEntropy:
    with tempfile.TemporaryDirectory() as made:
        if folder is None:
            rng = np.random.default_rng(0)
            save(Path(made), rng.integers(0, 256, (5000, 16)), rng.integers(0, 10, 5000))
        table = read_table(Path(folder or made))
        codes = matrix(table, column)
        labels = table["label"].to_numpy() if "label" in table.column_names else None
        result = vcqlib.conditional_entropy(codes, labels)
    print(result.to_frame().query("`class` == 'all'" if labels is not None else "bits > 0").head())
    print(f"99 % of {result.total_bits:.2f} bits are told after {result.cliff()} positions")
    return result


if __name__ == "__main__":
    main()
