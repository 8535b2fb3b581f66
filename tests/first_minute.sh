#!/bin/sh
# The first minute, in an environment that holds the base install alone: first_minute.sh ENV/bin
# What is printed is what a new user sees. Run by `make dist`.
set -eu
vcq="$(cd "$1" && pwd)/vcq"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"  # away from the clone: only what is installed counts

"$vcq" --version
"$vcq" cliff -n 1281167 -k 16384 --plot cliff.svg --json cliff.json
"$vcq" cliff -n 1281167 --sizes $("$vcq" schedule loglinear --length 256 -k 16384)
"$vcq" completion bash >/dev/null

"$1/python" - <<'PYTHON'
import importlib.util
from pathlib import Path

import numpy as np

assert importlib.util.find_spec("torch") is None, "this environment has torch: it proves nothing"
rng = np.random.default_rng(0)
for name, rows in {
    "imagenet256_codes": rng.integers(0, 16384, (2000, 1, 10, 256), dtype=np.uint16),  # LlamaGen's
    "imagenet256_labels": rng.integers(0, 1000, (2000, 1)),
}.items():
    Path(name).mkdir()
    for i, row in enumerate(rows):
        np.save(f"{name}/{i}.npy", row)
PYTHON
"$vcq" entropy imagenet256_codes --sizes 16384 --plot entropy.png --json entropy.json
"$vcq" diagnose imagenet256_codes --sizes 16384 --html page.html --json diagnosis.json
ls -l cliff.svg cliff.json entropy.png entropy.json page.html diagnosis.json

if said=$("$vcq" train tokenizer 2>&1); then echo "training without torch?" >&2; exit 1; fi
[ "$said" = "vcq: this needs torch, which is not installed: pip install 'vcqlib[models]'" ]
echo "The first commands work without torch."
