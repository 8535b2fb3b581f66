"""`python -m torture.large FOLDER N SEED`: a store of N sequences written, verified and measured.

A process of its own, without torch, whose own memory is limited by the system; the pages of mapped
files are not part of it. Writes facts.json into the folder.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np

from vcqlib import codebook_sizes, conditional_entropy, expected_conditional_entropy
from vcqlib.data.code_store import code_writer, open_codes
from vcqlib.files import write_record

LENGTH, K_MAX = 32, 4096
MEMORY = 4 << 30  # bytes
CHUNK = 1 << 20  # sequences drawn at once


def main(place: Path, n: int, seed: int) -> None:
    """Refuses to take more memory than MEMORY; entropies have to be those of ideal codes."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    sizes = codebook_sizes("doubling", LENGTH, K_MAX)  # powers of two
    start = time.monotonic()
    with code_writer(place, n, sizes.tolist(), layout="position-major") as writer:
        for at in range(0, n, CHUNK):
            rng, rows = np.random.default_rng([seed, at]), min(CHUNK, n - at)
            codes = rng.integers(0, 1 << 16, (rows, LENGTH), dtype=np.uint16)
            writer.append(codes & (sizes - 1).astype(np.uint16), np.zeros(rows, np.int64))
    written = time.monotonic()
    codes = open_codes(place).codes
    opened = time.monotonic()
    bits = conditional_entropy(codes).bits
    ended = time.monotonic()
    expected = expected_conditional_entropy(n, sizes.tolist())
    if not np.allclose(bits, expected, atol=10 / np.sqrt(n)):
        raise ValueError(f"bits {bits}, expected {expected}")
    facts = {
        "gigabytes on disk": round(codes.nbytes / 1e9, 1),
        "seconds to write": round(written - start),
        "seconds to verify": round(opened - written),
        "seconds to measure": round(ended - opened),
    }
    write_record(place / "facts.json", facts)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
