"""How far samples are from real images, asked for in the middle of a training, by all processes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from test_distributed import torchrun, weights

import vcqlib
from vcqlib.cli.app import main
from vcqlib.data.image_sets import load_images
from vcqlib.metrics.distances import frechet_distance
from vcqlib.metrics.extractors import load_extractor
from vcqlib.study import scores
from vcqlib.study.samples import draw
from vcqlib.training import distributed

TOKENIZER = (
    "train tokenizer --dataset digits --n-images 200 --tokenizer mlp-tiny --length 4 --k-max 8 "
    "--tokenizer-steps 6 --tokenizer-batch 32 --device cpu"
)
AR = (
    "train ar --codes-folder codes --ar nano --ar-steps 6 --ar-batch 16 --dropout 0 "
    "--label-dropout 0 --device cpu --ar-log-every 3"
)
WATCH = "--tokenizer-folder tok --evaluate-every 3 --evaluate-samples 61"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tokenizer of the digits and its codes."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in (
            f"{TOKENIZER} --held-out 0 --out tok",
            "encode --tokenizer-folder tok --out codes --device cpu",
            "encode --tokenizer-folder tok --out held --split test --device cpu",
        ):
            assert main(line.split()) == 0
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def log(folder):
    return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]


def test_the_log_holds_the_distance_to_the_validation_half_and_no_weight_changes(here):
    assert main(f"{AR} --out plain".split()) == 0
    assert main(f"{AR} {WATCH} --ar-ema 0 --out watched".split()) == 0
    ours, theirs = weights(here / "plain"), weights(here / "watched")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    lines = log("watched")
    assert [line["step"] for line in lines if "gfd" in line] == [3, 6]
    assert not any("gfd" in line for line in log("plain"))
    extract, real = load_extractor("pixels"), load_images("digits", "test", at_most=10_000)
    real = real.images[: len(real) // 2]
    model = vcqlib.ARModel.from_pretrained("watched")
    drawn = draw(model, vcqlib.Tokenizer.from_pretrained("tok"), torch.arange(61) % 10).images
    expected = frechet_distance(extract(drawn), extract(real))
    assert lines[-1]["gfd"] == pytest.approx(expected, rel=1e-5)


def test_a_run_that_is_watched_is_the_run_that_was_not(here, capsys):
    """How a run is watched is no part of it: it goes on, and is finished, with or without."""
    assert main(f"{AR} --out a".split()) == 0
    assert main(f"{AR} {WATCH} --out a".split()) == 0
    assert "finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--evaluate-every 3", "--evaluate-every needs --tokenizer-folder"),
        (f"{WATCH} --evaluate-samples 16", "n_samples must be above 16, the features of 'pixels'"),
        (f"{WATCH} --extractor inception --weights w.pth", "no Inception-v3 weights at 'w.pth'"),
        (f"{WATCH} --extractor classifier", "1 x 28 x 28 images"),
        ("--evaluate-every -1", "evaluate_every must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(words, message, here, capsys):
    assert main([*AR.split(), "--out", "a", *words.split()]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1, said
    assert not (here / "a").exists()


def test_features_do_not_depend_on_the_callers_precision():
    images = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8)
    extract = load_extractor("classifier")
    with torch.autocast("cpu", torch.bfloat16):
        half = extract(images)
    assert np.array_equal(half, extract(images))


SCRIPT = """
import sys
from vcqlib.cli.app import main
from vcqlib.models.autoregressive import ARModel
from vcqlib.models.tokenizer import Tokenizer
from vcqlib.training.distributed import processes, rank

def counted(kind, name):
    original = getattr(kind, name)
    def call(self, rows, *given, **more):
        if not self.training:
            with open(f"work{rank()}", "a") as file:
                print(name, len(rows), file=file)
        return original(self, rows, *given, **more)
    setattr(kind, name, call)

counted(ARModel, "both_losses")
counted(ARModel, "generate")
counted(Tokenizer, "encode")
with processes("cpu"):
    for line in open(sys.argv[1]):
        if main(line.split()):
            sys.exit(1)
"""


def test_two_processes_share_validation_and_samples(here, monkeypatch):
    """The numbers of one process, each doing half; sharded weights are gathered by both at once."""
    held = len(vcqlib.data.code_store.open_codes(here / "held").codes)
    ar = f"{AR} {WATCH} --held-out-folder held --ar-validate-every 6 --ar-snapshots 1"
    # no sheets: their sixteen samples are drawn by every process
    tokenizer = (
        f"{TOKENIZER} --held-out 101 --no-balance --tokenizer-validate-every 6 "
        "--tokenizer-sample-every 0"
    )
    for line in (f"{ar} --out one", f"{tokenizer} --out t1"):
        assert main(line.split()) == 0
    (here / "script.py").write_text(SCRIPT)
    for name, more in (("ddp", ""), ("fsdp", "--ar-shard")):
        (here / "lines").write_text(f"{ar} {more} --out {name}\n{tokenizer} --out t-{name}\n")
        for old in here.glob("work*"):
            old.unlink()
        done = torchrun("script.py", "lines")
        assert done.returncode == 0, done.stderr[-3000:]
        last, alone = log(name)[-1], log("one")[-1]
        assert last["held_out_bits"] == pytest.approx(alone["held_out_bits"], rel=1e-5)
        assert last["gfd"] == pytest.approx(alone["gfd"], rel=1e-2)  # a code may flip by rounding
        mse = [log(folder)[-1]["held_out_mse"] for folder in (f"t-{name}", "t1")]
        assert mse[0] == pytest.approx(mse[1], rel=1e-5)
        points = [json.loads(next((here / folder).glob("point-*.json")).read_text())
                  for folder in (name, "one")]  # fmt: skip
        for key in ("train", "held_out", "held_out_own"):
            assert points[0][key] == pytest.approx(points[1][key], rel=1e-5)
        work = Counter()
        for rank in (0, 1):
            for line in (here / f"work{rank}").read_text().splitlines():
                what, rows = line.split()
                work[what, rank] += int(rows)
        # of training (200) and held-out codes at the one snapshot, and of the latter once more
        for rank, extra in ((0, 0), (1, 1)):
            losses = 200 // 2 + 2 * (held // 2 + extra * (held % 2))
            assert work["both_losses", rank] == losses
            assert work["generate", rank] == 2 * (30 + extra)
        assert (work["encode", 0], work["encode", 1]) == (50 + 200, 51 + 200)


@pytest.mark.parametrize(("n", "batch", "world"), [(10, 3, 2), (7, 3, 2), (129, 128, 1), (5, 9, 5),
                                                  (257, 64, 2), (256, 64, 2)])  # fmt: skip
def test_parts_are_as_many_in_every_process_and_make_all(n, batch, world, monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: world)
    found = []
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        found.append(distributed.parts(n, batch))
    assert len({len(parts) for parts in found}) == 1
    assert [i for parts in found for part in parts for i in part] == [*range(n)]
    assert all(0 < len(part) <= batch for parts in found for part in parts)


def test_fewer_samples_than_processes_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 4)
    with pytest.raises(ValueError, match="n_samples must be at least 4, one a process, got 3"):
        scores.features_of_samples(load_extractor("pixels"), None, None, 3, 2)
