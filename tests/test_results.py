"""The committed records: complete, current, comparable, above their floors, and reproducible."""

import subprocess
from pathlib import Path

import pytest

from vcqlib.study import plan, records
from vcqlib.study.configuration import Configuration

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data/results"
MAIN = ("uniform", "loglinear", "matched", "reversed", "shuffled")
STUDIES = ("fashion", "mnist", "smoke")


@pytest.fixture(scope="module")
def found():
    return [r for study in STUDIES for r in records.load(study)]


@pytest.fixture(scope="module")
def main(found):
    return [r for r in found if (r["study"], r["group"]) == ("fashion", "main")]


def test_every_main_arm_has_five_paired_seeds_at_6000_images(main):
    for arm in MAIN:
        assert {r["seed"] for r in main if r["arm"] == arm} == set(range(5)), arm
    assert {r["config"]["n_images"] for r in main} == {6000}


@pytest.mark.parametrize("study", (*STUDIES, "order"))
def test_records_are_those_of_the_study_file_and_current(study):
    """A study may have runs without a record yet; no record is of a run that it does not have."""
    runs = plan.load_study(ROOT / f"book/studies/{study}.yaml").runs
    there = {path.stem for path in (RESULTS / study).glob("*.json")}
    assert there <= {run.name for run in runs}
    mine = [run for run in runs if run.name in there]
    assert [run.name for run in mine if not records.current(RESULTS, run)] == []


def test_no_record_is_stale_or_of_another_edition(found):
    assert [r["arm"] for r in found if r["stale"] or r["edition"] != records.EDITION] == []


def test_arms_differ_in_codebook_sizes_and_in_nothing_else(found):
    by_group: dict[tuple, list] = {}
    for r in found:
        seeds = r["seed"], r["config"].get("ar_seed")
        by_group.setdefault((r["study"], r["group"], *seeds), []).append(r)
    for group in by_group.values():
        codes = {"schedule": "uniform", "of": "loglinear", "ramp": None}
        # settings that came after a record are at their defaults
        alike = {str(Configuration.of(r["config"] | codes)) for r in group}
        assert len(alike) == 1
        assert len({str(r["measures"]["parameters"]) for r in group}) == 1


def test_every_run_of_the_main_group_clears_its_floors(main):
    below = [(r["arm"], f) for r in main for f, ok in records.floors(r).items() if not ok]
    assert below == []


def test_a_record_says_where_it_comes_from(found):
    for r in found:
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
