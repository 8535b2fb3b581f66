"""Trials of the lab: planned, computed side by side, resumed, judged by the committed rule."""

import copy
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
import yaml

from vcqlib.cli.app import main
from vcqlib.files import write_record
from vcqlib.lab import judge, measure, plan, records

ROOT = Path(__file__).resolve().parents[1]


CONTENT = {
    "about": "a test",
    "rule": "none",
    "claims": [{"treatment": "loglinear", "control": "uniform", "says": "below 1"}],
    "base": {"tokenizer_steps": 20, "fresh": 500},
    "sizes": {100: {"passes": [2, 4], "samples": 300}},
    "arms": {"uniform": {"schedule": "uniform"}, "loglinear": {"schedule": "loglinear"},
             "shuffled": {"schedule": "shuffled", "of": "loglinear"}},
    "groups": [{"name": "rows", "worlds": ["pinwheel"], "n": [100], "seeds": 3,
                "arms": ["uniform", "loglinear"]}],
}  # fmt: skip


def written(folder, **change):
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(copy.deepcopy(CONTENT) | change))
    return path


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A lab computed in two processes: its file and the folder of its records."""
    folder = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCQ_CACHE", str(folder / "cache"))
        path = written(folder)
        assert main(["lab", str(path), "--jobs", "2", "--results", str(folder / "records")]) == 0
        yield path, folder / "records"


def first(path):
    return next(plan.runs(plan.load_lab(path))).trial


def test_a_record_is_reproduced_and_one_process_gives_the_same(computed, tmp_path, capsys):
    path, folder = computed
    some = sorted(folder.glob("*.json"))
    assert [p.name for p in some] == [f"rows-pinwheel-n100-s{s}.json" for s in range(3)]
    assert main(["reproduce", str(some[0])]) == 0
    assert "is reproduced" in capsys.readouterr().out
    torch.set_num_threads(1)
    records.record(tmp_path, list(plan.runs(plan.load_lab(path)))[:1])
    alone = tmp_path / some[0].name
    assert records.read(alone)["arms"] == records.read(some[0])["arms"]


def test_a_record_says_what_it_took_and_an_older_one_need_not(computed, tmp_path):
    path, folder = computed
    run = next(plan.runs(plan.load_lab(path)))
    new = records.read(folder / f"{run.name}.json")
    assert new["seconds"] >= 0 and new["cpu_seconds"] >= 0
    old = {k: v for k, v in new.items() if k not in ("seconds", "cpu_seconds")}
    write_record(tmp_path / f"{run.name}.json", old)
    assert records.current(tmp_path, run) and len(records.load(tmp_path)) == 1


def test_what_is_recorded_is_not_computed_again_but_what_is_damaged_is(computed):
    path, folder = computed
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*.json")}
    damaged = min(before)
    damaged.write_text(damaged.read_text().replace('"group": "rows"', '"group": "cows"'))
    assert main(["lab", str(path), "--results", str(folder)]) == 0
    after = {p: p.stat().st_mtime_ns for p in folder.glob("*.json")}
    assert [p for p in before if before[p] != after[p]] == [damaged]
    assert records.read(damaged)["group"] == "rows"


def test_a_point_of_a_curve_is_the_end_of_a_shorter_run(computed):
    path, _ = computed
    whole = first(path)
    short = measure.run([replace(whole, passes=whole.passes[:1])])[0]
    long = measure.run([whole])[0]
    for arm in whole.arms:
        assert short[arm]["curve"][0] == long[arm]["curve"][0]
        assert len(long[arm]["forced"]) == whole.shape.length - 1


def test_arms_share_everything_but_their_sizes(computed):
    """So two arms of equal sizes come out the same, whatever their names."""
    t = first(computed[0])
    found = measure.run([replace(t, arms={name: t.arms["loglinear"] for name in "ab"})])[0]
    assert found["a"] == found["b"]


def test_a_shuffled_order_is_another_for_each_tokenizer(tmp_path):
    group = {**CONTENT["groups"][0], "arms": ["shuffled"], "seeds": 6}
    lab = plan.load_lab(written(tmp_path, groups=[group]))
    orders = [run.trial.arms["shuffled"] for run in plan.runs(lab)]
    assert len(set(orders)) > 3 and len({tuple(sorted(o)) for o in orders}) == 1


def test_crossed_seeds_are_every_triple(tmp_path):
    group = {**CONTENT["groups"][0], "seeds": 0, "crossed": [2, 2, 2]}
    found = list(plan.runs(plan.load_lab(written(tmp_path, groups=[group]))))
    assert len({run.name for run in found}) == 8
    assert {run.name for run in found} >= {"rows-pinwheel-n100-s0", "rows-pinwheel-n100-s1-t0-a1"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grups": []}, "unknown setting 'grups'"),
        ({"groups": [{**CONTENT["groups"][0], "arms": ["unifrom"]}]}, "did you mean 'uniform'"),
        (
            {"groups": [{**CONTENT["groups"][0], "worlds": ["pinwheels"]}]},
            "did you mean 'pinwheel'",
        ),
        ({"groups": [{**CONTENT["groups"][0], "n": [200]}]}, "unknown size '?200"),
        ({"groups": CONTENT["groups"] * 2}, "two trials are called rows-pinwheel-n100-s0"),
        ({"base": {"batch": 0}}, "batch must be at least 1, got 0"),
        ({"base": {"tokenizer_points": "test"}}, "tokenizer_points must be"),
        ({"sizes": {100: {"passes": [4, 2], "samples": 300}}}, "passes must grow"),
        ({"arms": {"uniform": {"schedule": [64] * 7}, "loglinear": {}}}, "needs 8 integers"),
    ],
)
def test_bad_lab_files_are_refused_by_name(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as error:
        plan.load_lab(written(tmp_path, **change))
    assert "\n" not in str(error.value) and "tiny.yaml" in str(error.value)


def test_a_record_of_something_else_is_refused(tmp_path):
    write_record(tmp_path / "x.json", {"trial": 1})
    with pytest.raises(ValueError, match="not a record of the lab"):
        records.load(tmp_path)


# --- the rule ---------------------------------------------------------------------------------


def table(ratios, floor=1e-6):
    """Distances of 20 seeds: uniform near 1, log-linear at the given multiples, at two N."""
    rows = [
        {"group": "rows", "world": "pinwheel", "n": n, "arm": arm, "set_seed": s,
         "tokenizer_seed": s, "ar_seed": s, "floor": floor, "last": True,
         "to_reconstructions": (1 + 0.01 * (s % 3)) * (ratio(s) if arm == "loglinear" else 1)}
        for n, ratio in ratios.items() for s in range(20) for arm in ("uniform", "loglinear")
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("ratio", "floor", "verdict"),
    [
        (lambda s: 0.7 + 0.01 * (s % 5), 1e-6, "reproduced"),
        (lambda s: 1.4 - 0.01 * (s % 5), 1e-6, "contradicted"),
        (lambda s: 0.5 if s % 2 else 2.0, 1e-6, "not to be told apart"),
        (lambda s: 0.7 + 0.01 * (s % 5), 5.0, "not testable here"),  # below the resolution
        (lambda s: math.exp(-0.11 + (0.2 if s % 2 else -0.2)), 1e-6, "direction only"),
    ],
)
def test_a_verdict_for_each_kind_of_ratio(tmp_path, ratio, floor, verdict):
    lab = plan.load_lab(written(tmp_path))
    found = judge.verdicts(lab, table({300: ratio, 3000: lambda s: 1.0 + 0.1 * (-1) ** s}, floor))
    assert found.set_index("n").loc[300, "verdict"] == verdict


def test_fewer_than_twenty_seeds_decide_nothing(tmp_path):
    few = table({300: lambda s: 0.5 + 0.01 * (s % 3)}).query("set_seed < 19")
    found = judge.verdicts(plan.load_lab(written(tmp_path)), few)
    assert found["verdict"].tolist() == ["not testable here"] and found["seeds"].tolist() == [19]


def test_a_distance_below_the_resolution_counts_as_the_resolution():
    part = table({300: lambda s: 1e-9 if s == 0 else 0.5})
    a, _ = judge.pairs(part, "loglinear", "uniform", 0.25)
    assert min(a) == 0.25
    assert judge.resolution(part.assign(floor=0.3)) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("source", "effect"),
    [
        ("training set", lambda s, t, a: 0.3 * s),
        ("tokenizer", lambda s, t, a: 0.3 * t),
        ("set × tokenizer", lambda s, t, a: 0.3 * (-1) ** (s + t)),
        ("AR seed", lambda s, t, a: 0.3 * (-1) ** (s + t + a)),
    ],
)
def test_scatter_names_the_source(source, effect):
    index = pd.MultiIndex.from_product([range(4), range(4), range(2)], names=judge.SOURCES)
    parts = judge.scatter(pd.Series([effect(*key) for key in index], index))
    assert max(parts, key=parts.get) == source and parts[source] > 0.2
    if source != "AR seed":  # whose mean over an even number of repeats is 0
        assert sum(parts.values()) == pytest.approx(parts[source], abs=1e-9)
    with pytest.raises(ValueError, match="2 × 2 × 2 crossed seeds, got 4 × 4 × 2"):
        judge.scatter(pd.Series([0.0] * 31, index[:31]))


def test_the_map_has_every_control_at_every_point():
    both = table({300: lambda s: 0.5, 3000: lambda s: 2.0})
    both = pd.concat([both.assign(passes=p) for p in (1, 2)])
    found = judge.ratios(both, ["uniform"]).set_index(["n", "passes"])["ratio"]
    assert found.to_dict() == pytest.approx(
        {(300, 1): 0.5, (300, 2): 0.5, (3000, 1): 2.0, (3000, 2): 2.0}
    )
    with pytest.raises(ValueError, match="no records of arm 'matched'"):
        judge.ratios(both, ["matched"])


@pytest.mark.parametrize("times", [1.0, 0.5, 2.0])
def test_an_arm_over_the_curve_of_one_size_at_its_own_rate(times):
    """Distances that grow exponentially with the rate: the curve is a line, the residual exact."""
    rates = {"uniform": 48.0, "matched": 27.7, "uniform-4": 16.0, "loglinear": 27.9, "small": 9.0}
    rows = [
        {"arm": arm, "rate": rate, "floor": 1e-9, "group": "rows", "world": "pinwheel", "n": 300,
         **dict.fromkeys(judge.SOURCES, s),
         "to_reconstructions": (1 + s) * math.exp(0.1 * rate)
         * (times if arm == "loglinear" else 1)}
        for arm, rate in rates.items() for s in range(5)
    ]  # fmt: skip
    point = pd.DataFrame(rows)
    found = judge.residual(point)
    assert found.ratio == pytest.approx(times) and found.seeds == 5
    assert judge.residual(point, "small") is None  # no curve below its rate
    alone = point[(point["arm"] != "matched") & (point["arm"] != "uniform")]
    assert judge.residual(alone) is None


def test_workers_end_with_the_process_that_started_them(tmp_path):
    """Killed, it has no chance to tell them."""
    group = {**CONTENT["groups"][0], "seeds": 20}
    path = written(tmp_path, groups=[group], base={"tokenizer_steps": 10**6})
    command = [sys.executable, "-m", "vcqlib", "lab", str(path), "--jobs", "2"]
    environment = os.environ | {"VCQ_CACHE": str(tmp_path / "cache")}
    run = subprocess.Popen([*command, "--results", str(tmp_path)], env=environment, cwd=ROOT)
    parent = psutil.Process(run.pid)
    until(lambda: len(list((tmp_path / "cache").glob("lab-*"))) >= 1 and parent.children())
    workers = parent.children(recursive=True)
    run.kill()
    run.wait()
    until(lambda: not any(w.is_running() and w.status() != "zombie" for w in workers))


def until(holds):
    end = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


# --- what is committed ------------------------------------------------------------------------


def test_the_committed_records_are_those_of_the_lab_file():
    lab = plan.load_lab(ROOT / "book/studies/lab.yaml")
    folder = ROOT / "data/results/lab"
    planned = {f"{run.name}.json": run for run in plan.runs(lab)}
    found = {path.name for path in folder.glob("*.json")}
    assert found <= planned.keys()
    assert [name for name in found if not records.current(folder, planned[name])] == []
    rows = {name for name, run in planned.items() if run.group == "rows"}
    assert rows <= found and len(rows) == 40
    for record in records.load(folder):
        assert len(record["commit"]) == 12  # a clean commit: no + behind it
    assert sum((folder / name).stat().st_size for name in found) < 1_500_000
