"""`save_pretrained` and `from_pretrained`: one format, a run's, and no network."""

from __future__ import annotations

import json

import pytest
import torch

import vcqlib
from vcqlib.cli.app import main
from vcqlib.files import load_tensors, read_record
from vcqlib.study.samples import read_samples

SIZES = (2, 3, 5)


def tokenizer(seed=0, **changes):
    torch.manual_seed(seed)
    shape = {"width": 16, "depth": 1, "code_dim": 4, "balance": True} | changes
    model = vcqlib.Tokenizer(vcqlib.TokenizerConfig(SIZES, 5, 8, 1, **shape))
    model.quantizer.count(torch.zeros(4, 3, dtype=torch.int64))  # a buffer that is no start value
    return model


def ar(seed=0, **changes):
    torch.manual_seed(seed)
    shape = {"width": 16, "layers": 1, "heads": 2} | changes
    return vcqlib.ARModel(vcqlib.ARConfig(SIZES, 5, 10, **shape))


@pytest.mark.parametrize("make", [tokenizer, ar])
def test_a_model_comes_back_as_it_was(make, tmp_path):
    model = make()
    model.save_pretrained(tmp_path / "m", licence="MIT")
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"config.json", "weights.safetensors"}
    torch.manual_seed(1)
    found = type(model).from_pretrained(str(tmp_path / "m"))
    assert found.config == model.config and not found.training
    ours, theirs = model.state_dict(), found.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert found.about == {"licence": "MIT"}
    found.save_pretrained(tmp_path / "again")  # what was known comes along
    for name in ("config.json", "weights.safetensors"):
        assert (tmp_path / "m" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert model.about == {} == make().about


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in (
        "train tokenizer --dataset digits --n-images 60 --tokenizer mlp-tiny --length 3 --k-max 4 "
        "--held-out 0 --tokenizer-steps 1 --tokenizer-batch 8 --device cpu",
        "encode --device cpu",
        "train ar --ar nano --ar-steps 1 --ar-batch 8 --device cpu",
    ):
        assert main(line.split()) == 0


def test_a_run_is_read_and_what_is_saved_of_it_draws_the_same(runs, tmp_path, capsys):
    for kind, folder in ((vcqlib.Tokenizer, "tokenizer"), (vcqlib.ARModel, "ar")):
        kind.from_pretrained(f"runs/{folder}").save_pretrained(f"moved/{folder}")
        saved = read_record(tmp_path / f"moved/{folder}/config.json")
        assert saved == read_record(tmp_path / f"runs/{folder}/config.json")
    draw = "sample --n-samples 20 --device cpu"
    assert main(f"{draw} --out one.npz".split()) == 0
    moved = "--ar-folder moved/ar --tokenizer-folder moved/tokenizer"
    assert main(f"{draw} --out two.npz {moved}".split()) == 0
    assert (
        main(["encode", "--tokenizer-folder", "moved/tokenizer", "--out", "c", "--device", "cpu"])
        == 0
    )
    assert torch.equal(read_samples(tmp_path / "one.npz").codes,
                       read_samples(tmp_path / "two.npz").codes)  # fmt: skip
    # weights that were trained on are another tokenizer's: its codes are refused
    model = vcqlib.Tokenizer.from_pretrained("runs/tokenizer")
    with torch.no_grad():
        model.decoder.out.bias.add_(1)
    model.save_pretrained("moved/tokenizer")
    capsys.readouterr()
    assert main(f"{draw} {moved}".split()) == 2
    assert "wrote the codes: give that one" in capsys.readouterr().err


def test_a_model_of_ones_own_says_what_it_lacks_for_sampling(runs, capsys):
    ar().save_pretrained("own")
    tokenizer().save_pretrained("own-tokenizer")
    for line, words in (
        ("sample --ar-folder own", "own/config.json does not say its codes and configuration"),
        ("encode --tokenizer-folder own-tokenizer", "does not say its configuration"),
    ):
        assert main([*line.split(), "--device", "cpu"]) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said


def test_what_is_no_model_is_refused_in_one_line(tmp_path, monkeypatch, runs):
    monkeypatch.chdir(tmp_path)
    model = tokenizer()
    model.save_pretrained("m")
    ar().save_pretrained("a")

    def fails(error, words, call):
        with pytest.raises(error, match=words) as raised:
            call()
        assert "\n" not in str(raised.value)

    load = vcqlib.Tokenizer.from_pretrained
    fails(FileNotFoundError, "someone/model is no run folder.*downloaded",
          lambda: load("someone/model"))  # fmt: skip
    fails(ValueError, "holds 'ARModel', expected 'Tokenizer'", lambda: load("a"))
    fails(ValueError, "runs/tokenizer is the folder of a training run",
          lambda: model.save_pretrained("runs/tokenizer"))  # fmt: skip
    assert vcqlib.Tokenizer.from_pretrained("runs/tokenizer").config.num_codes == 4  # untouched
    path = tmp_path / "m/weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    fails(ValueError, "weights.safetensors is damaged", lambda: load("m"))
    tokenizer(width=8).save_pretrained("other")
    path.write_bytes((tmp_path / "other/weights.safetensors").read_bytes())
    fails(ValueError, r"does not fit config.json beside it: \S+ is \(.*\), should be",
          lambda: load("m"))  # fmt: skip
    path.unlink()
    fails(FileNotFoundError, "m has no weights.safetensors", lambda: load("m"))
    path.write_bytes(content)
    config = tmp_path / "m/config.json"
    config.write_text(config.read_text().replace('"width": 16', '"width": 17'))
    fails(ValueError, "config.json is damaged", lambda: load("m"))
    fails(
        ValueError, "JSON compliant|not valid", lambda: model.save_pretrained("x", a=float("nan"))
    )


def test_a_save_that_fails_leaves_no_model_of_two(tmp_path, monkeypatch):
    tokenizer().save_pretrained(tmp_path)

    def full(*_):
        raise OSError("no space")

    monkeypatch.setattr("vcqlib.models.saved.write_record", full)
    with pytest.raises(OSError, match="no space"):
        tokenizer(1).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no config.json"):
        vcqlib.Tokenizer.from_pretrained(tmp_path)


def test_it_is_the_format_of_safetensors_and_json(tmp_path):
    """Anyone's reader finds the weights and the shape; ours the checksum too."""
    from safetensors.torch import load_file

    model = ar()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    assert load_tensors(tmp_path / "weights.safetensors")[0].keys() == weights.keys()
    config = json.loads((tmp_path / "config.json").read_text())
    assert vcqlib.ARConfig.from_dict(config["model"]) == model.config
