"""A chapter executed with other numbers speaks of those numbers: t*, prose and captions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rerun import Rerun, rerun
from vcqlib import cliff_position, codebook_sizes, conditional_entropy, cumulative_capacity

pytestmark = [pytest.mark.rerun, pytest.mark.timeout(1200)]
TINY = {"tokenizer": "mlp-tiny", "tokenizer_steps": 20, "device": "cpu"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VCQ_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


def expect_in_text(run: Rerun, figure: str, *values: str) -> None:
    for value in values:
        assert value in run.prose, f"{value!r} is not in the prose"
        assert value in run.captions[figure], f"{value!r} is not in {run.captions[figure]!r}"


@pytest.mark.parametrize(
    ("n_images", "k_max", "length", "schedule"),
    [(50_000, 1024, 64, "doubling"), (4_000, 64, 32, "linear")],
)
def test_chapter_01_with_other_n_k_and_schedule(
    n_images: int, k_max: int, length: int, schedule: str, tmp_path: Path
) -> None:
    run = rerun(
        "01", tmp_path, n_images=n_images, k_max=k_max, length=length, schedule=schedule
    )  # fmt: skip
    sizes = codebook_sizes(schedule, length, k_max)
    assert int(run.glue["t_uniform"]) == cliff_position(n_images, k_max)
    assert int(run.glue["t_schedule"]) == cliff_position(n_images, sizes)
    assert run.glue["total_schedule"] == pytest.approx(cumulative_capacity(sizes)[-1])
    shown = (f"{n_images:,}", schedule, f"{math.log2(n_images):.2f}")
    assert [value for value in shown if value not in run.prose] == []


def test_chapter_02_on_the_users_own_codes(tmp_path: Path) -> None:
    codes = np.random.default_rng(5).integers(0, 9, (777, 5))
    np.save(tmp_path / "codes.npy", codes)
    run = rerun("02", tmp_path, codes=str(tmp_path / "codes.npy"), n_simulated=2_000, **TINY)
    measured = conditional_entropy(codes)
    assert run.glue["h1"] == pytest.approx(measured.bits[0])
    assert int(run.glue["cliff"]) == measured.cliff()
    assert int(run.glue["t_star"]) == cliff_position(777, 9) == 4
    expect_in_text(run, "fig-measuring-trained", "777")


def test_chapter_04_with_other_k_seed_and_data_set(tmp_path: Path) -> None:
    run = rerun(
        "04", tmp_path, dataset="digits", n_images=300, length=6, k_max=32, schedule="quadratic",
        seed=3, collapse_steps=4, collapse_seeds=1, **TINY,
    )  # fmt: skip
    sizes = codebook_sizes("quadratic", 6, 32)
    assert int(run.glue["t_uniform"]) == cliff_position(300, 32)
    assert int(run.glue["t_variable"]) == cliff_position(300, sizes)
    assert "for quadratic" in run.prose and "300 images" in run.prose


def test_chapter_05_on_the_users_own_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("dark", "light"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(60):
            pixels = rng.integers(0, 100, (12, 12)) + (150 if label == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(
                tmp_path / "images" / label / f"{i:02}.png"
            )
    run = rerun(
        "05", tmp_path, dataset=f"folder:{tmp_path / 'images'}", n_images=80, image_size=8,
        schedule=[2, 4, 8, 8], length=4, k_max=8, seed=1, **TINY,
    )  # fmt: skip
    assert run.glue["bits_variable"] == pytest.approx(1 + 2 + 3 + 3)
    assert run.glue["bits_uniform"] == 12 and run.glue["k_max"] == 8
    assert run.glue["first_used"].endswith("of 2")
    assert all("80" in run.captions[name] for name in run.captions if "training images," in
               run.captions[name])  # fmt: skip
    assert "80" in run.prose and run.glue["n_test"] == "12"  # half of every fifth image


def test_chapter_03_on_the_users_own_text_without_records(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    words = np.random.default_rng(0).choice(["one", "two", "three", "four"], 3_000)
    own.write_text(" ".join(words), encoding="utf-8")
    run = rerun(
        "03", tmp_path, dataset="digits", n_images=300, length=4, k_max=16, n_windows=200,
        texts=[f"file:{own}"], modelled=[f"file:{own}"], studies=["absent"], n_seeds=2, ar="nano",
        ar_steps=4, ar_batch=16, **TINY,
    )  # fmt: skip
    assert run.glue["n_texts"] == 1 and str(own) in run.prose
    assert "digits, this page 1" in run.captions["fig-language-shares"]  # no record, no other line
    assert "fewer than three texts give no interval" in run.prose


def test_chapter_08_says_what_it_has_no_records_and_too_few_seeds_of(tmp_path: Path) -> None:
    run = rerun(
        "08", tmp_path, dataset="digits", n_images=300, schedule=[2, 4, 8, 8], length=4, k_max=8,
        ar="nano", ar_steps=4, n_probe=200, studies=["smoke", "absent"], **TINY,
    )  # fmt: skip
    assert run.glue["name"] == "explicit" and run.glue["sets"] == "digits, T = 8: 1 seed"
    assert "No records are there of: absent." in run.prose
    assert "Fewer than three seeds are there: nothing is judged yet." in run.prose
    assert run.glue["tokens_matched"] == "not measured"
    assert "explicit" in run.prose and "300" in run.prose
