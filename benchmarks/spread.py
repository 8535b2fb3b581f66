"""How much of a ratio's variance is the samples': several draws from the study's AR models.

    .venv/bin/python benchmarks/spread.py            # ten minutes if the study's models are cached
    .venv/bin/python benchmarks/spread.py --small    # on the study of the tests

FD to reconstructions of uniform and log-linear, group `spread` of Fashion-MNIST, one AR seed; each
model draws four times, and each time the first half of the draw is measured as well. Models that
are not in the cache are trained. What tokenizer and AR seeds add: `vcqlib.study.spread`.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from measure import ROOT, arguments, finish

from vcqlib.study.instruments import Reconstructions
from vcqlib.study.judge import judge
from vcqlib.study.plan import load_study

ARMS = ("uniform", "loglinear")


def main() -> None:
    options = arguments(__doc__)
    name, group, seeds, draws = "fashion", "spread", 3, 4
    if options.small:
        name, group, seeds, draws = "smoke", "main", 1, 2
    study = load_study(ROOT / f"book/studies/{name}.yaml")
    runs = {(run.arm, run.experiment.c.seed): run.experiment
            for run in reversed(study.runs) if run.group == group}  # fmt: skip
    rows = []
    for seed, arm in product(range(seeds), ARMS):
        e = runs[arm, seed]
        known, whole = judge(e), e.c.sampling.n_samples
        real = Reconstructions(e, known)
        for draw in range(draws):
            features = known.extract(e.draw(e.ar.model, seed=draw).images)
            for n in (whole // 2, whole):
                value = real.distances(features[:n])["fd"]
                rows.append({"arm": arm, "seed": seed, "draw": draw, "samples": n, "fd": value})
        print(rows[-1], flush=True)
    table = {(r["arm"], r["seed"], r["samples"], r["draw"]): math.log(r["fd"]) for r in rows}
    for n in sorted({r["samples"] for r in rows}):
        logs = [[table[ARMS[1], s, n, d] - table[ARMS[0], s, n, d] for d in range(draws)]
                for s in range(seeds)]  # fmt: skip
        print(f"{n} samples: variance of the log ratio over draws "
              f"{np.var(logs, axis=1, ddof=1).mean():.2g}")  # fmt: skip
    finish("spread", options, {"study": name, "group": group, "draws": draws}, rows, [])


if __name__ == "__main__":
    main()
