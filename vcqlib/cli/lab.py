"""`vcq lab`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from ..progress import bar


def lab(path: Positional[Path], jobs: int = 1, results: Path | None = None) -> None:
    """Compute every trial of a lab file that has no current record; go on at any time.

    Points in the plane, many small models side by side. Tokenizers lie in $VCQ_CACHE (default
    build/cache); each finished trial is one record, RESULTS/NAME.json, which `vcq reproduce`
    computes anew. Afterwards the claims of the file are judged on what is recorded.

    Args:
        path: the lab file, book/studies/lab.yaml.
        jobs: processes of one thread that share the work.
        results: folder of the records; default data/results/lab.
    """
    from ..lab import judge, records
    from ..lab.plan import LabRun, load_lab, runs

    if jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {jobs}")
    loaded = load_lab(path)
    results = results or records.default_results() / path.stem
    every = list(runs(loaded))
    left = [run for run in every if not records.current(results, run)]
    print(f"{path.stem}: {len(every)} trials, {len(every) - len(left)} recorded", flush=True)
    with bar(total=sum(run.cost for run in left), desc="model-steps", unit_scale=True) as shown:

        def done(block: Sequence[LabRun]) -> None:
            shown.update(sum(run.cost for run in block))

        records.compute(loaded, results, jobs, done)
    table = judge.verdicts(loaded, judge.frame(records.load(results)))
    print(table.to_string(index=False, float_format="{:.3g}".format))
