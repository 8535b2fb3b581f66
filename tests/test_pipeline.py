"""One path from images to samples: whoever takes it, a study or the shell, gets the same."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import vcqlib
from vcqlib.cli.app import main
from vcqlib.data.code_store import open_codes
from vcqlib.files import read_json, read_record
from vcqlib.metrics import extractors
from vcqlib.models import saved
from vcqlib.study import cache, experiment, judge, measures, samples, stages
from vcqlib.study.configuration import Configuration
from vcqlib.study.experiment import Experiment
from vcqlib.study.samples import read_samples

TINY = {
    "dataset": "digits", "n_images": 120, "length": 4, "k_max": 8, "tokenizer": "mlp-tiny",
    "tokenizer_steps": 6, "tokenizer_batch": 32, "ar": "nano", "ar_steps": 6, "ar_batch": 32,
    "n_samples": 60, "seed": 3, "device": "cpu",
}  # fmt: skip


def options(*names: str) -> str:
    return " ".join(f"--{name.replace('_', '-')} {TINY[name]}" for name in names)


TOKENIZER = "train tokenizer --held-out 0 " + options(
    "dataset", "n_images", "length", "k_max", "tokenizer", "tokenizer_steps", "tokenizer_batch",
    "seed", "device",
)  # fmt: skip
AR = options("ar", "ar_steps", "ar_batch", "seed", "device")


def vcq(line: str) -> None:
    assert main(line.split()) == 0, line


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VCQ_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("schedule", ["loglinear", "reversed"])
def test_the_shell_and_a_study_make_the_same_weights_codes_and_samples(here, schedule) -> None:
    e = Experiment(Configuration.of(TINY | {"schedule": schedule}))
    flipped = "--reverse" if schedule == "reversed" else ""
    # the shell's tokenizer is the one that the reversed arm flips
    vcq(f"{TOKENIZER} --schedule loglinear --out t")
    vcq(f"encode --tokenizer-folder t --out c {flipped} --device cpu")
    vcq(f"train ar --codes-folder c {AR} --out a")
    vcq("sample --ar-folder a --tokenizer-folder t --out s.npz --n-samples 60 --device cpu")
    cpu = e.device
    assert equal(e.tokenizer, type(e.tokenizer).from_pretrained(here / "t", cpu))
    assert np.array_equal(e.codes.codes, open_codes(here / "c").codes)
    assert equal(e.ar.model, type(e.ar.model).from_pretrained(here / "a", cpu))
    ours, theirs = e.samples(), read_samples(here / "s.npz")
    assert torch.equal(ours.codes, theirs.codes) and torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.labels, theirs.labels)


def test_a_run_of_one_is_read_by_the_other(here, capsys) -> None:
    """Each goes on from where the other stands, and takes it as its own."""
    c = Configuration.of(TINY)
    e = Experiment(c)
    vcq(f"{TOKENIZER} --out t")
    before = (here / "t/weights.safetensors").read_bytes()
    # the study's stage, in the folder of the shell: finished already
    model = stages.train_tokenizer(c, e.images, here / "t", e.device)
    assert "t: finished already" in capsys.readouterr().out
    assert (here / "t/weights.safetensors").read_bytes() == before
    store = stages.encode(c, model, e.images, here / "c", e.codes.info)
    run = stages.train_ar(c, store, here / "a", e.device)
    # and the shell in those of the study
    vcq(f"{TOKENIZER} --out {e.tokenizer_folder}")
    vcq(f"train ar --codes-folder {here / 'c'} {AR} --out {here / 'a'}")
    assert capsys.readouterr().out.count("finished already") == 2
    vcq(f"sample --ar-folder {e.ar.folder} --tokenizer-folder {e.tokenizer_folder} --out s.npz "
        "--n-samples 60 --device cpu")  # fmt: skip
    assert torch.equal(read_samples(here / "s.npz").codes, e.samples().codes)
    assert equal(run.model, e.ar.model)


SCRIPT = """
import sys
from vcqlib.cli.app import main
from vcqlib.metrics import extractors
from vcqlib.study import samples, scores, stages
from vcqlib.training.distributed import processes, rank

def counted(module, name, size):
    original = getattr(module, name)
    def call(*given, **more):
        made = original(*given, **more)
        with open(f"work{rank()}", "a") as file:
            print(name, size(made), file=file)
        return made
    setattr(module, name, call)

counted(stages, "encode_batch", len)
counted(samples, "draw", lambda drawn: len(drawn.codes))
counted(scores, "draw", lambda drawn: len(drawn.codes))
counted(extractors.BatchedExtractor, "__call__", len)
with processes("cpu"):
    for line in open(sys.argv[1]):
        if main(line.split()):
            sys.exit(1)
"""


def test_two_processes_share_encoding_sampling_and_evaluation(here) -> None:
    """The same codes, samples and scores as one process gives, each process doing half."""
    vcq(f"{TOKENIZER} --out t")
    encode = "encode --tokenizer-folder t --device cpu --batch 50"
    sample = "sample --ar-folder a --tokenizer-folder t --n-samples 61 --batch 20 --device cpu"
    evaluate = "evaluate --extractor pixels --n-reference 300 --device cpu --json"
    sweep = ("sweep --ar-folder a --tokenizer-folder t --n-samples 61 --batch 20 --device cpu "
             "--n-reference 300 --extractor pixels --cfg-scales 1 2 --temperatures 1")  # fmt: skip
    vcq(f"{encode} --out c")
    vcq(f"train ar --codes-folder c {AR} --out a")
    vcq(f"{sample} --out s.npz")
    vcq(f"{evaluate} one.json s.npz")
    vcq(f"{sweep} --out sweep")
    lines = [f"{encode} --out c2", f"{encode} --ten-crop --out ten2", f"{sample} --out s2.npz",
             f"{evaluate} two.json s.npz", f"{sweep} --out sweep2"]  # fmt: skip
    vcq(f"{encode} --ten-crop --out ten")
    (here / "script.py").write_text(SCRIPT)
    (here / "lines").write_text("\n".join(lines))
    root = str(Path(vcqlib.__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "script.py", "lines"], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for one, two in (("c", "c2"), ("ten", "ten2")):
        a, b = open_codes(here / one), open_codes(here / two)
        assert np.array_equal(a.codes, b.codes) and np.array_equal(a.labels, b.labels)
        assert a.info == b.info
    a, b = read_samples(here / "s.npz"), read_samples(here / "s2.npz")
    assert torch.equal(a.codes, b.codes) and torch.equal(a.images, b.images)
    assert torch.equal(a.labels, b.labels)
    for image in ("s", "s2"):
        assert (here / f"{image}.png").read_bytes() == (here / "s.png").read_bytes()
    one, two = read_json(here / "one.json"), read_json(here / "two.json")
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == (pytest.approx(value, rel=1e-6) if name != "extractor" else value)
    one, two = (read_record(here / name / "sweep.json") for name in ("sweep", "sweep2"))
    assert one["about"] == two["about"]
    for a, b in zip(one["points"], two["points"], strict=True):
        assert a == pytest.approx(b, rel=1e-6)
    left = {p.name for p in here.iterdir()}
    assert not [name for name in left if ".part" in name or name.startswith(".")]
    work = Counter()
    for rank in (0, 1):
        for line in (here / f"work{rank}").read_text().splitlines():
            what, count = line.split()
            work[what, rank] += int(count)
    for what, halves in {
        "encode_batch": (60 + 600, 60 + 600),
        "draw": (30 + 2 * 30, 31 + 2 * 31),
        "__call__": (30 + 75 + 75 + 2 * 30, 31 + 75 + 75 + 2 * 31),
    }.items():
        assert (work[what, 0], work[what, 1]) == halves, what


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often files are hashed, stages asked for, weights loaded, and which samples are drawn."""
    found: Counter = Counter()

    def count(module: object, name: str, key) -> None:  # noqa: ANN001
        original = getattr(module, name)

        def call(*given, **more):  # noqa: ANN002, ANN003
            found[key(*given, **more)] += 1
            return original(*given, **more)

        monkeypatch.setattr(module, name, call)

    count(cache, "stage", lambda *_: "stages")
    count(cache, "sha256_file", lambda *_: "hashes")
    count(saved, "load_tensors", lambda *_: "weights")
    for module in (samples, experiment):
        count(module, "draw", _what_is_drawn)
    count(judge.Judge, "gfd", lambda *_: "distances")
    count(extractors.BatchedExtractor, "__call__", lambda _, images: ("seen", _digest(images)))
    return found


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()[:12]


def _what_is_drawn(model, _, labels, seed=0, first=0, flipped=False, **how) -> tuple:  # noqa: ANN001, ANN003
    usual = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "cfg_scale": 1.0,
             "guidance": "constant", "guidance_power": 1.75}  # fmt: skip
    weights = _digest(model.head.weight)
    return "drawn", weights, seed, first, len(labels), json.dumps(usual | how, sort_keys=True)


def test_one_record_asks_for_little_and_draws_and_looks_at_nothing_twice(here, counts) -> None:
    """Before: 45 stages, 221 hashes, 44 loads of weights, the same samples drawn five times."""
    e = Experiment(Configuration.of(TINY | {"n_samples": 100}))
    found = measures.measure(e, sweeps=True)
    drawn = {key: n for key, n in counts.items() if key[0] == "drawn"}
    assert set(drawn.values()) == {1}
    steps, tuned = len(e.ar.steps), len(measures.TEMPERATURES) + len(measures.GUIDANCE) - 2
    assert len(drawn) == steps + tuned
    seen = {key: n for key, n in counts.items() if key[0] == "seen"}
    # with all T codes given, redrawn images are the reconstructions: seen once more
    assert [n for n in seen.values() if n > 1] == [2, 2]
    asked = {key: counts[key] for key in ("stages", "hashes", "weights")}
    # tokenizer, codes of three splits, AR model, samples of each step, metrics, measures
    assert asked["stages"] == 1 + 3 + 1 + steps + 2
    made = sum(1 for p in (here / "cache").rglob("*") if p.is_file()
               and p.name != "done.json" and p.suffix != ".lock")  # fmt: skip
    assert asked["hashes"] == made  # each file once, when it is sealed
    assert asked["weights"] <= 2 + 2 + 2 * steps
    counts.clear()
    assert measures.measure(Experiment(e.c), sweeps=True) == found
    assert counts == {"stages": 1, "hashes": 1}
