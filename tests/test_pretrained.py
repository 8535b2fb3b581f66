"""The models that come with the library: whole, as their cards say, ready to draw, or refused."""

import json
import shutil

import numpy as np
import pytest
import torch

import vcqlib
from vcqlib.cli.app import main
from vcqlib.data import vendored
from vcqlib.data.image_sets import load_images, to_float
from vcqlib.study.pretrained import (
    SCALE,
    load_pretrained,
    pretrained_names,
    stored_tensors,
    unpack,
)
from vcqlib.study.samples import draw, read_samples
from vcqlib.training.inference import reconstruction_error

FOLDER = vendored.data_root() / "models"


@pytest.fixture(scope="module", params=pretrained_names())
def given(request):
    return load_pretrained(request.param)


def test_the_folder_holds_these_models_and_no_other():
    names = pretrained_names()
    assert {path.name.partition(".")[0] for path in FOLDER.glob("*.xz")} == {*names}
    assert {"uniform", "loglinear", "matched"} <= {*names}  # those that the book's page offers
    listed = {name for name in vendored.manifest() if name.startswith("models/")}
    files = (f"models/{name}.{end}" for name in names for end in ("json", "safetensors.xz"))
    assert listed == {*files}
    assert sum((FOLDER.parent / name).stat().st_size for name in listed) <= 3.0e6


def test_a_card_says_what_the_model_is(given):
    card = given.card
    c, name = card["configuration"], card["name"]
    assert list(given.ar.config.codebook_sizes) == card["sizes"]
    assert given.tokenizer.config.codebook_sizes == given.ar.config.codebook_sizes
    expected = vcqlib.Configuration.of(c)
    assert list(expected.sizes) == card["sizes"] and expected.codes.schedule == name
    entry = vendored.manifest()[f"models/{card['file']}"]
    assert (card["sha256"], card["bytes"]) == (entry["sha256"], entry["bytes"])
    assert card["sha256"] in (FOLDER / f"{name}.md").read_text("utf-8")
    assert card["licence"] == entry["licence"]


def test_it_rebuilds_pictures_as_well_as_its_card_says(given):
    test = load_images("fashion-mnist", "test", 1000).images
    wanted = given.card["measures"]["reconstruction MSE, held out"]["stored"]
    assert reconstruction_error(given.tokenizer, test) == pytest.approx(wanted, rel=0.1)


def test_rounding_changed_little(given):
    m = given.card["measures"]
    for name, most in (("reconstruction MSE, held out", 1.03), ("bits per image, held out", 1.01)):
        assert m[name]["stored"] <= most * m[name]["trained"], name
    assert m["codes that are others, held out"]["stored"] < 0.12


def test_it_draws_codes_within_their_sizes_and_pictures_of_the_class(given):
    labels = torch.arange(200) % 10
    codes = given.ar.generate(labels, generator=torch.Generator().manual_seed(0))
    assert (codes < torch.tensor(given.ar.config.codebook_sizes)).all()
    images = given.tokenizer.decode(codes)
    assert images.shape == (200, 1, 28, 28) and images.isfinite().all()
    prefix = given.tokenizer.decode(codes[:, :4])  # the usage counts have come along
    assert prefix.isfinite().all()
    real = load_images("fashion-mnist", "test", 2000)
    means = torch.stack([to_float(real.images[real.labels == k]).mean(0) for k in range(10)])
    nearest = (images[:, None] - means).square().flatten(2).mean(2).argmin(1)
    assert (nearest == labels).double().mean() > 0.4  # 0.1 by chance


def test_rows_of_int8_times_their_scale_are_the_weights(given):
    stored = stored_tensors(given.card["name"])
    rounded = [name.removesuffix(SCALE) for name in stored if name.endswith(SCALE)]
    assert {stored[name].dtype for name in rounded} == {torch.int8} and len(rounded) > 18
    weights = unpack(stored, "ar")
    assert weights.keys() == given.ar.state_dict().keys()
    q, scale = stored["ar.head.weight"], stored["ar.head.weight" + SCALE]
    expected = q.numpy().astype(np.float32) * scale.numpy().astype(np.float32)
    assert np.array_equal(given.ar.head.weight.detach().numpy(), expected)


def test_the_command_draws_what_the_library_draws(tmp_path, capsys):
    out = tmp_path / "s.npz"
    line = ["sample", "--pretrained", "loglinear", "--out", str(out), "--n-samples", "30"]
    assert main([*line, "--seed", "3", "--device", "cpu"]) == 0
    given, found = load_pretrained("loglinear"), read_samples(out)
    expected = draw(given.ar, given.tokenizer, torch.arange(30) % 10, seed=3)
    assert torch.equal(found.codes, expected.codes)
    assert (found.images.int() - expected.images.int()).abs().max() <= 1
    said = json.loads(out.with_suffix(".json").read_text())
    assert said["pretrained"] == "loglinear" and said["codes"]["data"] == "fashion-mnist"
    assert out.with_suffix(".png").is_file() and "30 samples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--pretrained loglinaer", ["unknown pretrained model 'loglinaer'", "'loglinear'"]),
        ("--pretrained uniform --ar-folder mine", ["--pretrained", "without folders"]),
    ],
)
def test_a_wrong_request_is_one_line(line, words, tmp_path, capsys):
    assert main(["sample", "--out", str(tmp_path / "s.npz"), *line.split()]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(word in said for word in words), said
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("file", ["uniform.json", "uniform.safetensors.xz"])
def test_a_damaged_or_missing_file_says_what_to_do(file, tmp_path, monkeypatch, capsys):
    shutil.copytree(FOLDER, tmp_path / "models")
    shutil.copy(FOLDER.parent / "MANIFEST.json", tmp_path)
    monkeypatch.setenv("VCQ_DATA", str(tmp_path))
    path = tmp_path / "models" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    out = tmp_path / "s.npz"
    assert main(["sample", "--pretrained", "uniform", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{path} is damaged" in said
    assert f"`git checkout -- data/models/{file}`" in said
    path.unlink()
    with pytest.raises(FileNotFoundError, match="is missing .*: restore it"):
        load_pretrained("uniform")
    assert not out.exists()


@pytest.mark.parametrize("command", ["sample", "sweep"])
def test_the_help_names_every_model(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    assert pretrained_names() and all(name in said for name in pretrained_names())
