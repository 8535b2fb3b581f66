"""`vcq sweep`: the whole grid, each point once, on validation images, and a command that draws."""

from __future__ import annotations

import shlex
from itertools import product

import numpy as np
import pytest
import torch

from vcqlib.cli.app import main
from vcqlib.data.image_sets import load_images
from vcqlib.files import read_json, read_record
from vcqlib.metrics import distances
from vcqlib.metrics.extractors import load_extractor
from vcqlib.study import scores
from vcqlib.study.pretrained import load_pretrained
from vcqlib.study.samples import draw, read_samples
from vcqlib.study.tuning import Point, grid, sweep

LINE = "sweep --pretrained loglinear --n-samples 80 --n-reference 300 --device cpu"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def drawn(monkeypatch):
    """How often samples were drawn, and how."""
    found, original = [], scores.draw

    def call(*given, **more):
        found.append(Point(more["cfg_scale"], more["temperature"]))
        return original(*given, **more)

    monkeypatch.setattr(scores, "draw", call)
    return found


def points(folder="runs/sweep"):
    rows = read_record(f"{folder}/sweep.json")["points"]
    return {Point(row["cfg_scale"], row["temperature"]): row for row in rows}


def test_each_point_is_the_distance_to_the_validation_half(here, capsys):
    assert main(f"{LINE} --cfg-scales 1 2 --temperatures 0.9 --top-k 20 --seed 3".split()) == 0
    given, extract = load_pretrained("loglinear"), load_extractor("classifier")
    held_out = load_images("fashion-mnist", "test", at_most=300).images
    labels = torch.arange(80) % 10
    for scale in (1.0, 2.0):
        images = draw(given.ar, given.tokenizer, labels, 3, cfg_scale=scale, temperature=0.9,
                      top_k=20).images  # fmt: skip
        expected = distances.frechet_distance(extract(images), extract(held_out[:150]))
        assert points()[Point(scale, 0.9)]["distance"] == pytest.approx(expected, rel=1e-6)
    assert "FD (classifier) of 80 samples to 150 validation images" in capsys.readouterr().out


def test_what_is_finished_is_not_drawn_again(here, drawn, capsys, monkeypatch):
    small = f"{LINE} --cfg-scales 1 2 --temperatures 0.9 1"
    with monkeypatch.context() as patch:  # interrupted in the third point
        original = scores.features_of_samples
        monkey = iter(range(9))
        patch.setattr(scores, "features_of_samples",
                      lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt)
                      if next(monkey) == 2 else original(*a, **k))  # fmt: skip
        assert main(small.split()) == 130
    assert points().keys() == {Point(1, 0.9), Point(1, 1)}
    drawn.clear()
    assert main(small.split()) == 0
    assert {*drawn} == {Point(2, 0.9), Point(2, 1)}
    before, first = points(), capsys.readouterr().out
    drawn.clear()
    assert main(small.split()) == 0
    assert drawn == [] and points() == before and capsys.readouterr().out == first
    assert main(f"{LINE} --cfg-scales 2 3 --temperatures 1".split()) == 0  # another grid adds to it
    assert {*drawn} == {Point(3, 1)} and len(points()) == 5
    assert main(f"{small} --seed 1".split()) == 2
    said = capsys.readouterr().err
    assert "holds another sweep (seed 0 there, 1 here): give another --out" in said


def test_the_command_that_is_printed_draws_with_the_best_point(here, capsys):
    line = f"{LINE} --cfg-scales 1 4 --temperatures 0.5 1 --guidance cosine"
    assert main(line.split()) == 0
    best = min(points().values(), key=lambda row: row["distance"])
    sample, judge = capsys.readouterr().out.splitlines()[-2:]
    assert main([*shlex.split(sample)[1:], "--n-samples", "80", "--device", "cpu"]) == 0
    how = read_json("runs/samples.json")
    assert (how["cfg_scale"], how["temperature"]) == (best["cfg_scale"], best["temperature"])
    assert how["guidance"] == "cosine" and how["pretrained"] == "loglinear"
    assert how["seed"] == 1  # none of the samples that chose
    assert main([*shlex.split(judge)[1:], "--json", "m.json"]) == 0
    extract = load_extractor("classifier")
    test = load_images("fashion-mnist", "test", at_most=300).images[150:]
    expected = distances.frechet_distance(
        extract(read_samples(here / "runs/samples.npz").images), extract(test)
    )
    found = read_json("m.json")
    assert found["reference images"] == 150
    assert found["FD (classifier)"] == pytest.approx(expected, rel=1e-6)


WRONG = {
    "--temperatures -1": "temperature must be at least 0, got -1",
    "--cfg-scales nan": "cfg_scale",
    "--cfg-scales --temperatures 1": "at least one of --cfg-scales",
    "--n-samples 64": "n_samples must be above 64, the features of 'classifier', got 64",
    "--n-reference 100": "validation images must be above 64",
    "--extractor inception --weights none.pth": "no Inception-v3 weights at 'none.pth'",
    "--dataset synthetic:28x3": "images of 3 channels",
    "--pretrained loglinaer": "unknown pretrained model",
    "--batch 0": "--batch must be at least 1, got 0",
}


@pytest.mark.parametrize("words", WRONG)
def test_bad_input_is_one_line_before_anything_is_drawn(words, here, drawn, capsys):
    assert main([*LINE.split(), *words.split()]) == 2
    said = capsys.readouterr().err
    assert WRONG[words] in said and said.count("\n") == 1, said
    assert drawn == [] and not (here / "runs").exists()


def test_guidance_needs_label_dropout_and_says_so_first(here, drawn, capsys):
    for line in (
        "train tokenizer --dataset digits --n-images 60 --tokenizer mlp-tiny --length 3 --k-max 4 "
        "--held-out 0 --tokenizer-steps 1 --tokenizer-batch 8 --device cpu",
        "encode --device cpu",
        "train ar --ar nano --ar-steps 1 --ar-batch 8 --label-dropout 0 --device cpu",
    ):
        assert main(line.split()) == 0
    line = "sweep --n-samples 30 --device cpu --temperatures 1"
    assert main(line.split()) == 2
    assert "give --cfg-scales 1" in capsys.readouterr().err and drawn == []
    assert main([*line.split(), "--cfg-scales", "1"]) == 0
    assert "--ar-folder runs/ar --tokenizer-folder runs/tokenizer" in capsys.readouterr().out


def test_a_grid_has_each_pair_once():
    found = grid((1, 2, 1.0), (0.5, 1))
    assert found == [Point(*p) for p in product((1, 2), (0.5, 1))]


def test_a_damaged_record_is_refused(tmp_path):
    def go(value):
        return sweep(tmp_path, {"a": 1}, [Point(1, 1)], lambda _: np.zeros(1),
                     lambda _: {"distance": value})  # fmt: skip

    assert go(3.0) == go(4.0) == {Point(1, 1): {"distance": 3.0}}
    path = tmp_path / "sweep.json"
    path.write_text(path.read_text().replace("3.0", "2.0"))
    with pytest.raises(ValueError, match="sweep.json is damaged"):
        go(1.0)
