"""The committed records: complete, current, comparable, above their floors, and reproducible."""

import subprocess
from pathlib import Path

import pytest

from vcqlib.study import plan, records

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data/results"
MAIN = ("uniform", "loglinear", "matched", "doubling", "reversed")


@pytest.fixture(scope="module")
def cpu():
    return records.load("cpu")


def test_every_main_arm_has_three_paired_seeds_at_6000_images(cpu):
    for arm in MAIN:
        seeds = {r["seed"] for r in cpu if (r["group"], r["arm"]) == ("main", arm)}
        assert len(seeds) >= 3 and seeds == {0, 1, 2}, arm
    assert {r["config"]["n_images"] for r in cpu if r["group"] == "main"} == {6000}


def test_study_files_and_their_records_agree(cpu):
    """The first edition's by name; those of the second one by what they would compute today."""
    runs = plan.load_study(ROOT / "book/studies/cpu.yaml").runs
    assert {run.name for run in runs} == {f"{r['group']}-{r['arm']}-s{r['seed']}" for r in cpu}
    assert {r["edition"] for r in cpu} == {1}
    smoke = plan.load_study(ROOT / "book/studies/smoke.yaml").runs
    assert [run.name for run in smoke if not records.current(RESULTS, run)] == []


def test_no_record_is_stale(cpu):
    assert [r["arm"] for r in (*cpu, *records.load("smoke")) if r["stale"]] == []


def test_arms_differ_in_codebook_sizes_and_in_nothing_else(cpu):
    by_group: dict[tuple, list] = {}
    for r in cpu:
        by_group.setdefault((r["group"], r["seed"]), []).append(r)
    for group in by_group.values():
        free = ("schedule", "of", "ramp")
        assert (
            len({str({k: v for k, v in r["config"].items() if k not in free}) for r in group}) == 1
        )
        assert len({str(r["measures"]["parameters"]) for r in group}) == 1


def test_every_run_of_the_main_group_clears_its_floors(cpu):
    main = [r for r in cpu if r["group"] == "main"]
    below = [(r["arm"], f) for r in main for f, ok in records.floors(r).items() if not ok]
    assert below == []


def test_the_uniform_tokenizer_of_all_images_reaches_the_reconstruction_asked_for(cpu):
    (record,) = [r for r in cpu if (r["group"], r["arm"]) == ("n60000", "uniform")]
    assert record["config"]["n_images"] == 60_000
    assert record["measures"]["reconstruction"]["mse"] <= 0.04


def test_the_long_training_goes_on_until_the_held_out_likelihood_has_turned(cpu):
    long = [r for r in cpu if r["group"] == "long"]
    assert {r["arm"] for r in long} == {"uniform", "loglinear", "matched"}
    for r in long:
        bits = [sum(point["held_out"]) for point in r["measures"]["curve"]]
        assert bits[-1] > min(bits), r["arm"]


def test_a_record_says_where_it_comes_from(cpu):
    for r in cpu:
        assert r["hardware"]["cores"] and r["versions"]["torch"]
        assert len(r["commit"]) == 12  # a clean commit: no + behind it
        assert r["seconds"]["ar"] > 0


def test_a_small_record_is_reproduced(tmp_path, monkeypatch):
    monkeypatch.setenv("VCQ_CACHE", str(tmp_path))
    comparison = records.reproduce(RESULTS / "smoke/main-loglinear-s0.json")
    assert comparison.failed == [], str(comparison)


def test_tracked_files_stay_below_45_mb():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    sizes = {name: (ROOT / name).stat().st_size for name in listed.split("\0") if name}
    assert sum(sizes.values()) < 45e6, sorted(sizes, key=sizes.get)[-5:]
