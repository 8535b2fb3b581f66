"""Studies on the digits at a tiny size: from the YAML file to records, stale or recomputed."""

import copy
import json
import math
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vcqlib.cli import app as cli
from vcqlib.data.vendored import read_vendored
from vcqlib.files import read_record, rounded, write_record
from vcqlib.study import measures, plan, records, stages
from vcqlib.study.configuration import Configuration
from vcqlib.study.experiment import Experiment
from vcqlib.training.run import memory_advice

ROOT = Path(__file__).resolve().parents[1]
BASE = {
    "dataset": "digits", "n_images": 200, "length": 4, "k_max": 16, "tokenizer": "mlp-tiny",
    "tokenizer_steps": 20, "tokenizer_batch": 50, "ar": "nano", "ar_steps": 20, "ar_batch": 50,
    "n_samples": 100, "device": "cpu",
}  # fmt: skip
MAIN = {"name": "main", "arms": ["uniform"]}  # an entry of a group
CONTENT = {
    "about": "tests",
    "base": BASE,
    "arms": {"uniform": {"schedule": "uniform"}, "reversed": {"schedule": "reversed"}},
    "groups": [
        {"name": "main", "arms": ["uniform"], "seeds": [0], "sweeps": True},
        {"name": "more", "arms": ["uniform", "reversed"], "set": {"ar_steps": 10}},
    ],
}


def tiny(**changes):
    return Experiment(Configuration.of(BASE | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("study")
        patch.setenv("VCQ_CACHE", str(path / "cache"))
        (path / "tiny.yaml").write_text(yaml.safe_dump(CONTENT))
        yield path


@pytest.fixture(scope="module")
def computed(folder):
    loaded = plan.load_study(folder / "tiny.yaml")
    assert [run.name for run in plan.compute(loaded.runs, folder / "results")] == [
        "main-uniform-s0", "more-uniform-s0", "more-reversed-s0",
    ]  # fmt: skip
    return records.load("tiny", folder / "results")


def test_study_files_of_the_book_are_valid():
    for path in set((ROOT / "book/studies").glob("*.yaml")) - {ROOT / "book/studies/lab.yaml"}:
        loaded = plan.load_study(path)
        assert len({run.experiment.fingerprint for run in loaded.runs}) == len(loaded.runs), path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grups": []}, r"unknown setting 'grups' \(known: arms, groups, base, about\)"),
        ({"arms": ...}, "bad.yaml: arms is missing"),
        ({"groups": ...}, "bad.yaml: groups is missing"),
        ({"arms": {}}, "group 'main', arm 'uniform': unknown arm 'uniform'"),
        ({"arms": {"uniform": None}}, "arms.uniform must be a valid mapping, got None"),
        ({"base": ...}, "arm 'uniform': give n_images"),
        ({"base": [1]}, r"base must be a valid mapping, got \[1\]"),
        ({"groups": []}, r"groups must have at least 1 item, got \[\]"),
        ({"groups": ["a"]}, "groups.0 must be a mapping .* got 'a'"),
        ({"groups": [{"arms": ["uniform"]}]}, "groups.0.name is missing"),
        ({"groups": [{"name": "a"}]}, "groups.0.arms is missing"),
        ({"groups": [{"name": "a/../b", "arms": ["uniform"]}]}, "groups.0.name must match"),
        ({"groups": [{"name": "a", "arms": "uniform"}]}, "groups.0.arms must be a valid list"),
        ({"groups": [{"name": "a", "arms": ["uniform"], "seeds": 3}]}, "groups.0.seeds must be"),
        ({"groups": [{"name": "a", "arms": ["uniform"], "seeds": [-1]}]}, "seed must be at least"),
        ({"groups": [{"name": "a", "arms": ["uniform"], "sets": {}}]}, "unknown .*'groups.0.sets'"),
        ({"groups": [{"name": "a", "arms": ["uniforn"]}]}, "unknown arm 'uniforn': did you mean"),
        ({"groups": [{"name": "a", "arms": ["uniform"], "set": {"n_image": 3}}]},
         "unknown setting 'n_image': did you mean 'n_images'"),
        ({"groups": [{"name": "a", "arms": ["uniform"], "set": {"n_images": 1}}]},
         "arm 'uniform': n_images must be at least 2, got 1"),
        ({"groups": [{"name": "a", "arms": ["uniform", "uniform"]}]}, "two runs are called"),
        ({"groups": [{"name": "a", "arms": ["uniform"], "stages": "codes"}]},
         "groups.0.stages must be 'all' or 'tokenizer', got 'codes'"),
        ({"groups": [{"name": "a", "arms": ["uniform"], "stages": "tokenizer", "sweeps": True}]},
         "group 'a' has sweeps, which need an AR model"),
        ({"groups": [{"name": "a", "arms": ["uniform"], "stages": "tokenizer", "ar_seeds": [1]}]},
         "group 'a' has ar_seeds, which need an AR model"),
        ({"groups": [MAIN, MAIN | {"arms": ["reversed"], "set": {"ar_steps": 10}}]},
         "group 'main' has set {} in one entry, {'ar_steps': 10} in another"),
        ({"groups": [MAIN, MAIN | {"seeds": [1], "sweeps": True}]}, "'main' has sweeps False in"),
        ({"groups": [MAIN, MAIN | {"seeds": [1], "stages": "tokenizer"}]}, "has stages 'all' in"),
        ({"groups": [MAIN, MAIN | {"ar_seeds": [1]}]}, r"has ar_seeds \[None\] in one"),
        ({"groups": [MAIN | {"seeds": [0, 3]}, MAIN | {"arms": ["reversed"]}]},
         "group 'main', arm 'reversed' lacks seed 3, which 'uniform' has"),
    ],
)  # fmt: skip
def test_bad_study_files_are_refused_by_name(tmp_path, change, message):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (CONTENT | change).items() if v != ...}))
    with pytest.raises(ValueError, match=message) as error:
        plan.load_study(path)
    assert "bad.yaml" in str(error.value) and "\n" not in str(error.value)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(["uniform", "small", "reversed"]),
                       st.sets(st.integers(0, 2), min_size=1), min_size=1))  # fmt: skip
def test_arms_that_are_compared_have_equal_seeds(folder, seeds):
    """However their entries are cut; codebooks of one size alone are points of a curve."""
    groups = [MAIN | {"arms": [arm], "seeds": [s]} for arm, some in seeds.items() for s in some]
    arms = CONTENT["arms"] | {"small": {"schedule": [4] * 4}}
    path = folder / "seeds.yaml"
    path.write_text(yaml.safe_dump(CONTENT | {"arms": arms, "groups": groups}))
    if "reversed" in seeds and len(set(map(frozenset, seeds.values()))) > 1:
        with pytest.raises(ValueError, match="lacks seed [012], which"):
            plan.load_study(path)
    else:
        assert len(plan.load_study(path).runs) == len(groups)


def test_a_yaml_tag_is_refused(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("about: !!python/object/apply:os.system ['true']")
    with pytest.raises(ValueError, match="is not YAML"):
        plan.load_study(path)


def test_records_hold_what_the_study_says(computed, folder):
    by_name = {(r["group"], r["arm"]): r for r in computed}
    main = by_name["main", "uniform"]
    assert not main["stale"] and main["sizes"] == [16] * 4
    m = main["measures"]
    by = {name: tuned["validation"] for name, tuned in m["tuned"].items()}
    assert list(by["temperature"]) == [str(t) for t in measures.TEMPERATURES]
    assert by["temperature"]["1.0"] == by["cfg_scale"]["1.0"]  # the same samples
    assert m["gfd_by_step"]["20"] == pytest.approx(m["last"]["gfd"])
    assert set(m["probe"]) == {"encoder outputs", "code vectors", "one-hot codes"}
    assert all(len(a) == 4 and min(a) >= 0 and max(a) <= 1 for a in m["probe"].values())
    assert "probe" not in by_name["more", "uniform"]["measures"]
    flipped = by_name["more", "reversed"]
    assert flipped["sizes"] == flipped["sizes"][::-1][::-1] and flipped["sizes"][-1] == 2
    assert flipped["measures"]["parameters"] == m["parameters"]
    table = records.frame(computed)
    assert len(table) == 3 and table["bits"].max() == 16
    text = (folder / "results/tiny/main-uniform-s0.json").read_text()
    assert os.uname().nodename not in text


def test_probe_of_the_reversed_arm_reads_the_same_vectors_backwards(computed):
    e = tiny(ar_steps=10, schedule="loglinear")
    images, backward = e.test.images[:20], e.arm("reversed")
    a, b = measures.encoder_outputs(e, images), measures.encoder_outputs(backward, images)
    assert np.array_equal(a.flip(1), b)
    c, d = e.test_codes.codes[:20], backward.test_codes.codes[:20]
    own, flipped = measures.code_vectors(e, c), measures.code_vectors(backward, d)
    assert np.array_equal(own.flip(1), flipped)


@pytest.fixture(scope="module")
def alone(folder):
    """Records of two tokenizers of 40 positions, made where training an AR model is an error."""
    group = {"name": "main", "arms": ["uniform", "reversed"], "set": {"length": 40},
             "stages": "tokenizer"}  # fmt: skip
    (folder / "alone.yaml").write_text(yaml.safe_dump(CONTENT | {"groups": [group]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "train_ar", lambda *_: pytest.fail("an AR model is trained"))
        list(plan.compute(plan.load_study(folder / "alone.yaml").runs, folder / "results"))
        assert not records.reproduce(folder / "results/alone/main-uniform-s0.json").failed
    return records.load("alone", folder / "results")


@given(st.integers(2, 10**7), st.lists(st.integers(1, 10**6), min_size=1, max_size=256))
def test_rounding_a_record_takes_no_run_below_its_floor(computed, n, parts):
    """Conditional entropies that spend all of log2 N, and one that claims a thousandth more."""
    r = copy.deepcopy(computed[0]) | {"config": computed[0]["config"] | {"n_images": n}}
    bits = [math.log2(n) * part / sum(parts) for part in parts]
    r["measures"]["entropy"] = rounded(bits, records.DIGITS)
    assert records.floors(r)["entropy at most log2 N"]
    r["measures"]["entropy"] = rounded([1.001 * b for b in bits], records.DIGITS)
    assert not records.floors(r)["entropy at most log2 N"]


def test_a_tokenizer_alone_is_recorded_without_an_ar_model(alone, computed, folder):
    uniform, run = alone[1], plan.load_study(folder / "alone.yaml").runs[0]
    assert not uniform["stale"] and "ar" not in uniform["seconds"]
    found, lengths = uniform["measures"], measures.prefix_lengths(40)
    assert lengths[0] == 1 and lengths[-1] == 40 and 10 in lengths and len(lengths) < 40
    assert all(len(curve) == len(lengths) for curve in found["probe"].values())
    full = found["prefix_mse"][-1]  # of all codes: the error of reconstruction, but for rounding
    assert full == pytest.approx(found["reconstruction"]["mse"], rel=0.01)
    assert len(records.floors(uniform)) == 2 and len(records.floors(computed[0])) == 4
    assert records.summary(found).keys() == {"mse", "rfd", "entropy"}
    table = records.frame([*alone, *computed])
    assert table["gfd"].isna().sum() == 2 and not table["rfd"].isna().any()
    assert len(records.pairs(alone, "uniform", "reversed")) == 1
    assert records.current(folder / "results", run)
    assert not records.current(folder / "results", replace(run, stages="all"))


def test_a_record_without_a_curve_is_one_of_a_tokenizer_only(alone, folder, tmp_path):
    source = folder / "results/alone/main-uniform-s0.json"
    path = tmp_path / source.name
    path.with_suffix(".png").write_bytes(source.with_suffix(".png").read_bytes())
    write_record(path, records.read(source) | {"stages": "all"})
    with pytest.raises(ValueError, match="is not a record of a study"):
        records.read(path)


def test_a_second_pass_computes_nothing(computed, folder, monkeypatch):
    monkeypatch.setattr(plan, "measure", lambda *_: pytest.fail("computed again"))
    loaded = plan.load_study(folder / "tiny.yaml")
    assert len(list(plan.compute(loaded.runs, folder / "results"))) == 3


def test_reproduce_recomputes_in_an_empty_cache(computed, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VCQ_CACHE", str(tmp_path))
    path = folder / "results/tiny/more-uniform-s0.json"
    comparison = records.reproduce(path)
    assert not comparison.failed and not comparison.elsewhere
    assert all(
        old == pytest.approx(new, rel=1e-5) for _, old, new, _ in comparison.rows
    )  # six digits
    record = records.read(path)
    record["measures"]["last"]["gfd"] *= 2
    wrong = tmp_path / path.name
    wrong.with_suffix(".png").write_bytes(path.with_suffix(".png").read_bytes())
    for processor, other in ((record["hardware"]["processor"], False), ("Another", True)):
        record["hardware"]["processor"] = processor
        write_record(wrong, record)
        with pytest.raises(SystemExit) as stopped:
            cli.main(["reproduce", str(wrong)])
        said = capsys.readouterr()
        assert stopped.value.code == 1 and "outside the tolerance: gfd" in said.err
        assert ("the same seed is another run" in said.err) is other
        assert ("recorded on Another, torch" in said.out) is other


def test_a_record_says_what_each_training_took(computed, folder, tmp_path):
    """Also where a stage of the cache is older than its `cpu_seconds`."""
    assert all(r["cpu_seconds"].keys() == r["seconds"].keys() for r in computed)
    assert all(taken >= 0 for r in computed for taken in r["cpu_seconds"].values())
    run = plan.load_study(folder / "tiny.yaml").runs[1]
    done = run.experiment.tokenizer_folder / "done.json"
    before = read_record(done)
    write_record(done, {k: v for k, v in before.items() if k != "cpu_seconds"})
    old = records.read(records.write(tmp_path, run, computed[-1]["measures"]))
    write_record(done, before)
    assert old["cpu_seconds"]["tokenizer"] is None and old["cpu_seconds"]["ar"] >= 0
    assert old["seconds"] == computed[-1]["seconds"]


def test_stale_damaged_and_foreign_records_are_named(computed, folder, tmp_path, capsys):
    source = folder / "results/tiny/main-uniform-s0.json"
    record = records.read(source)
    path = tmp_path / source.name
    path.with_suffix(".png").write_bytes(source.with_suffix(".png").read_bytes())

    def refused(changed, message):
        if changed is not None:
            write_record(path, changed)
        assert cli.main(["reproduce", str(path)]) == 2
        assert message in capsys.readouterr().err

    refused(record | {"fingerprint": "0" * 16}, "is stale")
    refused(record | {"config": record["config"] | {"gone": 1}}, "is stale")
    path.write_text(path.read_text().replace('"format": 1', '"format": 0'))
    refused(None, "has format 0, this vcqlib reads 1")
    write_record(path, record)
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    refused(None, "is damaged: its SHA-256")
    refused({"a": 1}, "is not a record")
    sheets = ("sheet", {"file": "../x.png"}), ("sheet", {}), ("sheet", "x.png")
    for part, value in (("measures", 3), ("config", []), *sheets):
        refused(record | {part: value}, "is not a record")
    refused({k: v for k, v in record.items() if k != "sweeps"}, "is not a record")
    path.with_suffix(".png").write_bytes(b"x")
    refused(record, "is missing or damaged")
    path.with_suffix(".png").unlink()
    refused(record, "is missing or damaged")
    write_record(path, record | {"sheet": None})  # of another seed than 0
    assert records.read(path)["measures"] == record["measures"]
    with pytest.raises(ValueError, match="no records in"):
        records.load("absent", tmp_path)


def test_a_changed_configuration_makes_the_record_stale_and_is_computed_again(computed, folder):
    loaded = plan.load_study(folder / "tiny.yaml")
    run = loaded.runs[0]
    assert records.current(folder / "results", run)
    other = replace(run, experiment=Experiment(run.experiment.c.changed(dropout=0.2)))
    assert not records.current(folder / "results", other)
    assert not records.current(folder / "results", replace(run, sweeps=False))


def test_jobs_share_the_work_and_leave_the_same_records(computed, folder, tmp_path):
    command = [sys.executable, "-m", "vcqlib", "study", str(folder / "tiny.yaml")]
    done = subprocess.run(
        [*command, "--jobs", "2", "--results", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "[3/3]" in done.stdout
    for path in tmp_path.glob("tiny/*.json"):
        there, here = (
            json.loads(p.read_text()) for p in (folder / "results/tiny" / path.name, path)
        )
        assert there["measures"] == here["measures"]


@pytest.mark.parametrize(
    ("count", "told", "expected"),
    [
        (2, None, ["0", "1", "0", "1", "0"]),
        (8, None, ["0", "1", "2", "3", "4"]),
        (2, "5,3", ["5", "3", "5", "3", "5"]),  # as a scheduler gives them
        (1, "GPU-8f, -1", ["GPU-8f"] * 5),  # what follows -1 is not there
        (0, None, [None] * 5),
        (0, "", [""] * 5),
    ],
)
def test_jobs_are_spread_over_the_gpus(count, told, expected, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(plan.subprocess, "Popen", lambda _, env, **__: started.append(env))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if told is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    plan.start_workers(tmp_path / "study.yaml", tmp_path, 5)
    assert [env.get("CUDA_VISIBLE_DEVICES") for env in started] == expected


def test_arms_that_differ_in_more_than_their_codebooks_are_not_compared(computed):
    assert len(records.pairs(computed, "uniform", "reversed", "more")) == 1
    other = next(r for r in computed if r["arm"] == "reversed")
    rest = [r for r in computed if r is not other]
    for change in (
        {"config": other["config"] | {"ar_steps": 11}},
        {"measures": other["measures"] | {"parameters": {"ar": 1}}},
    ):
        with pytest.raises(ValueError, match="differ in (ar_steps|parameters)$"):
            records.pairs([*rest, other | change], "uniform", "reversed", "more")
    with pytest.raises(ValueError, match=r"no records of arm 'unifrm' .*'reversed', 'uniform'"):
        records.pairs(computed, "unifrm", "reversed", "more")


def test_a_run_that_fails_is_named_and_keeps_no_other_from_being_computed(computed, folder, capsys):
    groups = [{"name": "few", "arms": ["uniform"], "set": {"n_samples": 16}}, *CONTENT["groups"]]
    path = folder / "tiny.yaml"
    broken = folder / "broken" / path.name  # records of the same name are there for the others
    broken.parent.mkdir()
    broken.write_text(yaml.safe_dump(CONTENT | {"groups": groups}))
    assert cli.main(["study", str(broken), "--results", str(folder / "results")]) == 2
    said = capsys.readouterr()
    assert "few-uniform-s0 failed: n_samples must be above 16, the features" in said.err
    assert "runs that failed, for the reasons above: few-uniform-s0" in said.err
    assert not list((folder / "results/tiny").glob("few*"))


def _too_large(*_):
    with memory_advice("out of memory: choose a smaller model"):
        torch.empty(2**55)  # 128 PiB


def _no_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")


def _no_package(*_):
    import a_package_that_nobody_has  # noqa: F401


def _no_file(*_):
    return read_vendored("fashion-mnist/gone.gz")


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (_too_large, "out of memory: choose a smaller model"),
        (_no_memory, "failed: CUDA out of memory. Tried to allocate 2 GiB\n"),
        (_no_package, "No module named 'a_package_that_nobody_has'"),
        (_no_file, "gone.gz is not listed"),
    ],
)
def test_one_arm_that_cannot_be_computed_leaves_the_others(
    trouble, said, computed, folder, tmp_path, monkeypatch, capsys
):
    """Whatever goes wrong with one arm while it is trained, the others are recorded."""
    arms = {"broken": {"schedule": "linear"}, **CONTENT["arms"]}
    groups = [{"name": "few", "arms": ["broken", "uniform", "reversed"], "set": {"ar_steps": 10}}]
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(CONTENT | {"arms": arms, "groups": groups}))
    original = stages.train_tokenizer

    def train(c, *arguments):
        if c.codes.schedule == "linear":
            trouble()
        return original(c, *arguments)

    monkeypatch.setattr(stages, "train_tokenizer", train)
    assert cli.main(["study", str(path), "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "few-broken-s0 failed: " in error and said in error
    assert "runs that failed, for the reasons above: few-broken-s0" in error
    assert sorted(r["arm"] for r in records.load("tiny", tmp_path)) == ["reversed", "uniform"]


def test_slurm_gets_one_task_a_run(computed, folder, tmp_path, monkeypatch, capsys):
    line = ["study", str(folder / "tiny.yaml"), "--results", str(tmp_path / "results"), "--slurm"]
    assert cli.main(line) == 2
    assert "sbatch not found" in capsys.readouterr().err
    fake = tmp_path / "sbatch"
    # does what a cluster would for one task: the last argument is the job
    fake.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@"\nfor job; do :; done\n'
        'SLURM_ARRAY_TASK_ID=1 exec sh -c "export SLURM_ARRAY_TASK_ID; $job"\n'
    )
    fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert cli.main(line) == 0
    said = capsys.readouterr().out
    assert "--array=0-2" in said and "--only $SLURM_ARRAY_TASK_ID" in said
    assert [r["group"] for r in records.load("tiny", tmp_path / "results")] == ["more"]


def test_command_line_refuses_impossible_requests(folder, capsys):
    for arguments, message in (
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--only", "3"], "--only must be at most 2, got 3"),
        (["--only", "1", "--jobs", "2"], "--jobs, --only and --slurm do not go with"),
        (["--slurm", "--jobs", "2"], "--jobs, --only and --slurm do not go with"),
        (["--slurm", "--only", "1"], "--jobs, --only and --slurm do not go with"),
    ):
        assert cli.main(["study", str(folder / "tiny.yaml"), *arguments]) == 2
        assert message in capsys.readouterr().err


def test_a_tokenizer_may_see_more_images_than_the_ar_model(folder):
    e = tiny(tokenizer_images=400, ar_steps=10)
    assert len(e.codes.codes) == 200
    assert e.fingerprint != tiny(ar_steps=10).fingerprint
    assert e.tokenizer_folder == tiny(n_images=400, ar_steps=10).tokenizer_folder
    with pytest.raises(ValueError, match="tokenizer_images 100 must be at least n_images 200"):
        tiny(tokenizer_images=100)
