"""From the shell: train tokenizer → encode → train ar → sample → evaluate, at toy size."""

import json
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from vcqlib.study.run_folder import weights_digest

from vcqlib.cli import config_file as command_files
from vcqlib.cli.app import CONFIGURED, main
from vcqlib.data.code_store import open_codes
from vcqlib.data.image_sets import load_images
from vcqlib.files import load_tensors, read_json
from vcqlib.training import inference
from vcqlib.training.recipe import Recipe

QUICK = "--steps 4 --batch 16 --device cpu --validate-every 2 --sample-every 4"


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
    vcq(f"train tokenizer --dataset {dataset} --model vit-tiny --length 4 --k-max 8 --held-out 20 "
        f"--image-size 32 --out t {tokenizer} {QUICK}")  # fmt: skip
    vcq(f"encode --tokenizer t --out c {crop} --batch 32 --device cpu")
    reverse = "--reverse" if "--reverse" in crop else ""
    vcq(f"encode --tokenizer t --out v --split test --layout position-major {reverse} --device cpu")
    vcq(f"train ar --codes c --held-out v --tokenizer t --model nano --out a {QUICK}")
    vcq("sample --ar a --tokenizer t --out s.npz --n-samples 210 --batch 70 --device cpu "
        "--cfg-scale 2 --guidance cosine --top-k 4")  # fmt: skip
    vcq("evaluate s.npz --n-reference 400 --json m.json --device cpu")


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
    assert read_json(here / "m.json")["reference images"] == 400
    last = json.loads((here / "a/log.jsonl").read_text().splitlines()[-1])
    assert len(last["held_out_bits"]) == 4
    # a second part of the samples joins on to the first; sample i is its own
    vcq("sample --ar a --tokenizer t --out p.npz --n-samples 60 --first 150 --batch 33 "
        "--cfg-scale 2 --guidance cosine --top-k 4 --device cpu")  # fmt: skip
    with np.load(here / "s.npz") as whole, np.load(here / "p.npz") as part:
        assert np.array_equal(whole["codes"][150:], part["codes"])
    again = f"train ar --codes c --held-out v --tokenizer t --model nano --out a {QUICK}"
    vcq(again + " --keep 5")
    assert "a: finished already" in capsys.readouterr().out
    assert main([*again.split(), "--lr", "0.1"]) == 2
    assert "a holds another run (recipe.lr 0.002 there, 0.1 here)" in capsys.readouterr().err


def test_the_chain_on_parquet_with_augmentation_and_ten_crops(here, capsys):
    parquet_copy(here / "hub")
    chain("parquet:hub", "--augment --workers 1 --no-balance --accumulate 2 --ema 0.9 "
          "--losses.adversarial 0.1 --losses.critic-width 4", "--ten-crop --reverse")  # fmt: skip
    store = open_codes(here / "c")
    assert store.codes.shape == (600, 4) and store.sizes == (8, 5, 3, 2)
    assert store.info["crop"] == "ten" and store.info["reversed"]
    assert read_json(here / "m.json")["samples"] == 210


def test_codes_and_tokenizers_that_do_not_belong_together_are_refused(here, capsys):
    quick = f"--dataset synthetic:8x1 --n-images 40 --model mlp-tiny --length 3 --k-max 4 {QUICK}"
    for seed in (0, 1):
        vcq(f"train tokenizer {quick} --held-out 0 --seed {seed} --out t{seed}")
        vcq(f"encode --tokenizer t{seed} --out c{seed} --device cpu")
    for line, message in (
        ("train ar --codes c0 --held-out c1 --out a", "c1 was encoded by tokenizer"),
        ("train ar --codes c0 --tokenizer t1 --out a", "t1 holds tokenizer"),
        ("train ar --codes c0 --model huge --out a", "unknown AR model 'huge'"),
        ("encode --tokenizer c0 --out x", "c0 is no run folder"),
        ("sample --ar t0 --tokenizer t0", "t0 holds 'tokenizer', expected 'ar'"),
        ("evaluate none.npz", "none.npz does not exist"),
        ("evaluate t0/weights.safetensors --dataset digits", "is no .npz file, or was cut short"),
        ("evaluate", "give the .npz files to evaluate"),
        ("encode --tokenizer t0 --batch 0 --out x", "need batch >= 1 and workers >= 0, got 0"),
        ("train ar --codes none --out a", "none is no code store"),
        ("train ar --codes c0 --tokenizer none --out a", "none is no run folder"),
        ("train ar --codes c0 --losses.adversarial 1 --out a", "options of `vcq train tokenizer`"),
        ("train tokenizer --sizes 2 4 --length 3", "3"),
        ("train tokenizer --dataset parquet:none --image-size 8", "folder none does not exist"),
        ("train tokenizer --losses.perceptual 1", "needs --backbone-weights"),
        ("train tokenizer --batch 0", "at least 1"),
        (f"train tokenizer {quick} --held-out 0 --out nan --lr 1e30", "loss is"),
    ):
        capsys.readouterr()
        assert main([*line.split(), *([] if "--device" in line else ["--device", "cpu"])]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error


def test_a_run_that_failed_before_its_first_checkpoint_frees_its_folder(here, capsys):
    line = f"train tokenizer --dataset synthetic:8x1 --n-images 40 --model mlp-tiny {QUICK} --out t"
    assert main([*line.split(), "--accumulate", "3"]) == 2
    assert "16 does not divide into 1 processes x 3" in capsys.readouterr().err
    assert main([*line.split(), "--lr", "1e30"]) == 2
    assert "no checkpoint yet: lower lr (now 1e+30)" in capsys.readouterr().err
    assert main([*line.split(), "--lr", "1e30", "--checkpoint-minutes", "0"]) == 2
    assert "the checkpoint of step 1 is kept" in capsys.readouterr().err
    assert main(line.split()) == 2  # now there is something to lose
    assert "t holds another run (recipe.lr 1e+30 there" in capsys.readouterr().err


def test_equal_tokenizers_are_one_whatever_the_bytes_of_their_files(here):
    """safetensors writes its header in any order: the digest is that of the tensors."""
    line = f"train tokenizer --dataset synthetic:8x1 --n-images 40 --model mlp-tiny {QUICK}"
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
    line = "--dataset synthetic:8x1 --n-images 40 --model mlp-tiny --length 3 --k-max 4"
    vcq(f"train tokenizer {line} {QUICK} --out t")

    def greedy(*arguments):
        torch.empty(2**55)  # 128 PiB

    monkeypatch.setattr(inference, "encode_batch", greedy)
    line = "encode --tokenizer t --out c --batch 32 --device cpu"
    assert main(line.split()) == 2
    assert "out of memory with 32 images at a time: try --batch 16" in capsys.readouterr().err
    assert not (here / "c").exists()


def test_a_config_file_gives_options_and_the_command_line_wins(here, capsys):
    (here / "flat.yaml").write_text(
        "dataset: synthetic:8x1\nn_images: 40\nmodel: mlp-tiny\nlength: 3\nk_max: 4\nsteps: 9\n"
        "batch: 8\nheld_out: 0\nbetas: [0.8, 0.9]\nbalance: false\nlosses: {pixels: l1}\n"
    )
    vcq("train tokenizer --config flat.yaml --steps 2 --device cpu --out t")
    config = read_json(here / "t/config.json")
    assert config["recipe"]["steps"] == 2 and config["recipe"]["batch"] == 8
    assert config["recipe"]["betas"] == [0.8, 0.9] and config["recipe"]["losses"]["pixels"] == "l1"
    assert config["tokenizer"]["balance"] is False
    (here / "bad.yaml").write_text("stepps: 3\n")
    for line, message in (
        ("train tokenizer --config bad.yaml", "did you mean 'steps'"),
        ("encode --config none.yaml", "none.yaml does not exist"),
    ):
        assert main(line.split()) == 2
        assert message in capsys.readouterr().err


def test_the_paper_profile_is_the_recipe_of_the_paper():
    profile = "book/profiles/paper.yaml"
    for name, command in CONFIGURED.items():
        words = command_files.expand([*name.split(), "--config", profile], CONFIGURED)
        assert {w[2:].split(".")[0].removeprefix("no-").replace("-", "_") for w in words
                if w.startswith("--")} <= command_files.options(command) | {"config"}  # fmt: skip
    words = " ".join(command_files.expand(["train", "ar", "--config", profile], CONFIGURED))
    for part in ("--model XL", "--steps 500000", "--batch 2048", "--lr 0.0004", "--warmup 62500",
                 "--betas 0.9 0.96", "--weight-decay 0.03"):  # fmt: skip
        assert part in words
    rate = Recipe(500_000, 2048, 4e-4, 0.025, warmup=62_500).lr_at(499_999)
    assert rate == pytest.approx(1e-5, rel=1e-3)


@pytest.mark.parametrize("name", list(CONFIGURED))
def test_every_option_is_explained(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([*name.split(), "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    for option in command_files.options(CONFIGURED[name]) - {"samples", "losses", "seed"}:
        assert option.replace("_", "-") in out
