"""A token matrix in shards, counted on dask: the same numbers as in one piece.

Without a client dask works in threads of this process. With one the same call runs on a cluster:

    from dask.distributed import Client
    Client("scheduler:8786")
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import vcqlib
from vcqlib.entropy.sharded import sharded_conditional_entropy


def main(shards: int = 4) -> tuple[vcqlib.ConditionalEntropy, vcqlib.ConditionalEntropy]:
    codes = np.random.default_rng(0).integers(0, 256, (40_000, 16), dtype=np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        for i, rows in enumerate(np.array_split(codes, shards)):
            np.save(Path(folder) / f"codes-{i}.npy", rows)
        sharded = sharded_conditional_entropy(f"{folder}/codes-*.npy")
    whole = vcqlib.conditional_entropy(codes)
    print(
        f"{shards} shards: {sharded.total_bits:.4f} bits, cliff after {sharded.cliff()} positions"
    )
    print(f"one piece: {whole.total_bits:.4f} bits, cliff after {whole.cliff()} positions")
    return sharded, whole


if __name__ == "__main__":
    main()
