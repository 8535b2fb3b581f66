"""From the shell: train tokenizer → encode → train ar → sample → evaluate, at toy size."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from vcqlib.cli import options
from vcqlib.cli.app import CONFIGURED, load, main
from vcqlib.data.code_store import open_codes
from vcqlib.data.image_sets import load_images
from vcqlib.files import load_tensors, read_json
from vcqlib.study import stages
from vcqlib.study.configuration import Configuration
from vcqlib.study.folder import weights_digest

ROOT = Path(__file__).resolve().parents[1]
CONFIGURED = {name: load(place) for name, place in CONFIGURED.items()}
QUICK = {
    kind: f"--{kind}-steps 4 --{kind}-batch 16 --device cpu --{kind}-validate-every 2 "
    f"--{kind}-sample-every 4"
    for kind in ("tokenizer", "ar")
}
SMALL = f"--dataset synthetic:8x1 --n-images 40 --tokenizer mlp-tiny {QUICK['tokenizer']}"
TRAIN_AR = (
    "train ar --codes-folder c --held-out-folder v --tokenizer-folder t --ar nano --out a "
    f"{QUICK['ar']}"
)
SAMPLE = (
    "sample --ar-folder a --tokenizer-folder t --device cpu --cfg-scale 2 --guidance cosine "
    "--top-k 4"
)


def vcq(line):
    assert main(line.split()) == 0, line


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parquet_copy(folder):
    """Drawn images as a Hugging Face copy holds them."""
    for split, word, n in (("train", "train", 60), ("test", "validation", 400)):
        data = load_images("synthetic:32x3", split, n)
        rows = []
        for image, label in zip(data.images.numpy(), data.labels.tolist(), strict=True):
            buffer = BytesIO()
            Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "PNG")
            rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": label})
        folder.mkdir(exist_ok=True)
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, folder / f"{word}-00000-of-00001.parquet", row_group_size=16)


def chain(dataset, tokenizer="", crop=""):
    vcq(f"train tokenizer --dataset {dataset} --tokenizer vit-tiny --length 4 --k-max 8 "
        f"--held-out 20 --image-size 32 --out t {tokenizer} {QUICK['tokenizer']}")  # fmt: skip
    vcq(f"encode --tokenizer-folder t --out c {crop} --batch 32 --device cpu")
    reverse = "--reverse" if "--reverse" in crop else ""
    vcq("encode --tokenizer-folder t --out v --split test --layout position-major --device cpu "
        f"{reverse}")  # fmt: skip
    vcq(TRAIN_AR)
    vcq(f"{SAMPLE} --out s.npz --n-samples 210 --batch 70")
    vcq("evaluate s.npz --n-reference 800 --json m.json --device cpu")


def test_the_chain_on_drawn_images(here, capsys):
    chain("synthetic:32x3 --n-images 60")
    assert {p.name for p in (here / "t").iterdir()} == {
        "config.json", "weights.safetensors", "log.jsonl", "run.json", "samples",
    }  # fmt: skip
    store = open_codes(here / "c")
    assert store.codes.shape == (60, 4) and store.sizes == (2, 3, 5, 8)
    with np.load(here / "s.npz", allow_pickle=False) as file:
        assert file["arr_0"].shape == (210, 32, 32, 3) and file["arr_0"].dtype == np.uint8
        assert file["arr_1"].tolist() == [i % 10 for i in range(210)]
        assert (file["codes"] < np.array(store.sizes)).all()
    out = capsys.readouterr().out
    assert "real/real floor at 200 images" in out and "samples                          210" in out
    assert "FD (pixels)" in out and "FID" not in out
    found = read_json(here / "m.json")
    assert found["reference images"] == 400
    for part, same in (("test", True), ("validation", False), ("all", False)):  # test, if not told
        vcq(f"evaluate s.npz --n-reference 800 --part {part} --json p.json --device cpu")
        assert (read_json(here / "p.json") == found) is same, part
    last = json.loads((here / "a/log.jsonl").read_text().splitlines()[-1])
    assert len(last["held_out_bits"]) == 4
    # a second part of the samples joins on to the first; sample i is its own
    vcq(f"{SAMPLE} --out p.npz --n-samples 60 --first 150 --batch 33")
    with np.load(here / "s.npz") as whole, np.load(here / "p.npz") as part:
        assert np.array_equal(whole["codes"][150:], part["codes"])
    vcq(f"{TRAIN_AR} --ar-keep 5")
    assert "a: finished already" in capsys.readouterr().out
    assert main([*TRAIN_AR.split(), "--ar-lr", "0.1"]) == 2
    assert (
        "a holds another run (configuration.ar_lr 0.002 there, 0.1 here)" in capsys.readouterr().err
    )


def test_the_chain_on_parquet_with_augmentation_and_ten_crops(here, capsys):
    parquet_copy(here / "hub")
    chain("parquet:hub", "--augment --workers 1 --no-balance --tokenizer-accumulate 2 "
          "--tokenizer-ema 0.9 --adversarial 0.1 --critic-width 4",
          "--ten-crop --reverse")  # fmt: skip
    store = open_codes(here / "c")
    assert store.codes.shape == (600, 4) and store.sizes == (8, 5, 3, 2)
    assert store.info["crop"] == "ten" and store.info["reversed"]
    assert read_json(here / "m.json")["samples"] == 210


def test_codes_and_tokenizers_that_do_not_belong_together_are_refused(here, capsys):
    quick = f"{SMALL} --length 3 --k-max 4"
    for seed in (0, 1):
        vcq(f"train tokenizer {quick} --held-out 0 --seed {seed} --out t{seed}")
        vcq(f"encode --tokenizer-folder t{seed} --out c{seed} --device cpu")
    for line, message in (
        ("train ar --codes-folder c0 --held-out-folder c1 --out a", "c1 was encoded by tokenizer"),
        ("train ar --codes-folder c0 --tokenizer-folder t1 --out a", "t1 holds tokenizer"),
        ("train ar --codes-folder c0 --ar huge --out a", "unknown AR model 'huge'"),
        ("encode --tokenizer-folder c0 --out x", "c0 is no run folder"),
        ("sample --ar-folder t0 --tokenizer-folder t0", "t0 holds 'Tokenizer', expected 'ARModel'"),
        ("evaluate none.npz", "none.npz does not exist"),
        ("evaluate t0/weights.safetensors --dataset digits", "damaged archive: File is not"),
        ("evaluate", "give the .npz files to evaluate"),
        ("encode --tokenizer-folder t0 --batch 0 --out x", "--batch must be at least 1, got 0"),
        ("train ar --codes-folder none --out a", "none is no code store"),
        ("train ar --codes-folder c0 --tokenizer-folder none --out a", "none is no run folder"),
        ("train tokenizer --schedule [2,4] --length 3", "explicit schedule needs 3 integers"),
        ("train tokenizer --dataset parquet:none --image-size 8", "none does not exist"),
        ("train tokenizer --perceptual 1", "needs its network's perceptual_weights"),
        ("train tokenizer --tokenizer-batch 0", "tokenizer_batch must be at least 1, got 0"),
        (f"train tokenizer {quick} --held-out 0 --out nan --tokenizer-lr 1e30", "loss is"),
    ):
        capsys.readouterr()
        assert main([*line.split(), *([] if "--device" in line else ["--device", "cpu"])]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error


def test_a_run_that_failed_before_its_first_checkpoint_frees_its_folder(here, capsys):
    line = f"train tokenizer {SMALL} --out t"
    assert main([*line.split(), "--tokenizer-accumulate", "3"]) == 2
    assert "16 does not divide into 1 processes x 3" in capsys.readouterr().err
    assert main([*line.split(), "--tokenizer-lr", "1e30"]) == 2
    assert "no checkpoint yet: lower lr (now 1e+30)" in capsys.readouterr().err
    assert (
        main([*line.split(), "--tokenizer-lr", "1e30", "--tokenizer-checkpoint-minutes", "0"]) == 2
    )
    assert "the checkpoint of step 1 is kept" in capsys.readouterr().err
    assert main(line.split()) == 2  # now there is something to lose
    assert "t holds another run (configuration.tokenizer_lr 1e+30 there" in capsys.readouterr().err


def test_equal_tokenizers_are_one_whatever_the_bytes_of_their_files(here):
    """Others write a header in any order: the digest is that of the tensors."""
    line = f"train tokenizer {SMALL}"
    vcq(f"{line} --out t")
    weights = here / "t/weights.safetensors"
    before, raw = weights_digest(here / "t"), weights.read_bytes()
    info = load_tensors(weights, None)[1]
    for order in (1, -1):
        header = {"format": info["format"], "sha256": before}
        text = json.dumps(dict([*header.items()][::order]), separators=(",", ":")).encode()
        start = raw.index(b'{"', 10)
        end = raw.index(b"}", start) + 1
        assert len(text) == end - start
        weights.write_bytes(raw[:start] + text + raw[end:])
        assert weights_digest(here / "t") == before
        load_tensors(weights)
    vcq(f"{line} --seed 1 --out u")
    assert weights_digest(here / "u") != before


def test_too_little_memory_names_the_batch_to_try(here, capsys, monkeypatch):
    line = "--dataset synthetic:8x1 --n-images 40 --tokenizer mlp-tiny --length 3 --k-max 4"
    vcq(f"train tokenizer {line} {QUICK['tokenizer']} --out t")

    def greedy(*arguments):
        torch.empty(2**55)  # 128 PiB

    monkeypatch.setattr(stages, "encode_batch", greedy)
    line = "encode --tokenizer-folder t --out c --batch 32 --device cpu"
    assert main(line.split()) == 2
    assert "out of memory with 32 images at a time: try --batch 16" in capsys.readouterr().err
    assert not (here / "c").exists()


def test_a_config_file_gives_options_and_the_command_line_wins(here, capsys):
    (here / "flat.yaml").write_text(
        "dataset: synthetic:8x1\nn_images: 40\ntokenizer: mlp-tiny\nlength: 3\nk_max: 4\n"
        "tokenizer_steps: 9\ntokenizer_batch: 8\nheld_out: 0\ntokenizer_betas: [0.8, 0.9]\n"
        "balance: false\npixels: l1\nschedule: [2, 2, 4]\n"
    )
    vcq("train tokenizer --config flat.yaml --tokenizer-steps 2 --device cpu --out t")
    config = read_json(here / "t/config.json")["configuration"]
    assert config["tokenizer_steps"] == 2 and config["tokenizer_batch"] == 8
    assert config["tokenizer_betas"] == [0.8, 0.9] and config["pixels"] == "l1"
    assert config["balance"] is False and config["sizes"] == [2, 2, 4]
    (here / "bad.yaml").write_text("tokenizer_stepps: 3\n")
    for line, message in (
        ("train tokenizer --config bad.yaml", "did you mean 'tokenizer_steps'"),
        ("encode --config none.yaml", "none.yaml does not exist"),
    ):
        assert main(line.split()) == 2
        assert message in capsys.readouterr().err


def test_the_paper_profile_is_the_recipe_of_the_paper():
    profile = "book/profiles/paper.yaml"
    for name, command in CONFIGURED.items():
        words = options.expand([*name.split(), "--config", profile], CONFIGURED)
        assert {w[2:].removeprefix("no-").replace("-", "_") for w in words
                if w.startswith("--")} <= {*options.defaults(command), "config"}  # fmt: skip
    words = " ".join(options.expand(["train", "ar", "--config", profile], CONFIGURED))
    for part in ("--ar XL", "--ar-steps 500000", "--ar-batch 2048", "--ar-lr 0.0004",
                 "--ar-warmup 62500", "--ar-betas 0.9 0.96", "--ar-weight-decay 0.03"):  # fmt: skip
        assert part in words
    content = yaml.safe_load((ROOT / profile).read_text())
    c = Configuration.of(content["parameters"] | content["settings"])
    assert c.ar_recipe.lr_at(499_999) == pytest.approx(1e-5, rel=1e-3)


@pytest.mark.parametrize("name", list(CONFIGURED))
def test_every_option_is_explained(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([*name.split(), "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    for option in options.defaults(CONFIGURED[name]).keys() - {"samples"}:
        assert option.replace("_", "-") in out
