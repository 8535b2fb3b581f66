"""Windows of text and the small AR model of chapter 03."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path

import numpy as np
import pytest

from vcqlib.data.texts import TEXTS, load_text
from vcqlib.study import language
from vcqlib.study.language import model_bits, text_windows


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VCQ_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text(tmp_path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(97 + i % 26) for i in range(1000)), encoding="utf-8")
    return f"file:{path}"


def test_windows_are_the_text_cut_once_and_shuffled(text):
    found = text_windows(text, "bytes", 10)
    assert found.rows.shape == (100, 10) and found.rows.dtype == np.uint16
    assert found.vocabulary == 256 and found.bytes_per_token == 1
    expected = np.array([97 + i % 26 for i in range(1000)]).reshape(100, 10)
    assert sorted(map(tuple, found.rows)) == sorted(map(tuple, expected))
    assert (found.rows != expected).any()


def test_only_the_first_characters_are_read(text):
    assert len(text_windows(text, "bytes", 10, max_chars=205).rows) == 20


def test_a_vocabulary_below_the_number_of_bytes_is_raised_to_it(text):
    assert text_windows(text, "bpe:4", 10).vocabulary == 26


def test_a_text_shorter_than_a_window_is_refused(text):
    with pytest.raises(ValueError, match="windows of 2000 tokens asked for, 1000 tokens hold 0"):
        text_windows(text, "bytes", 2000)


def test_a_changed_text_is_not_taken_from_the_cache(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("abcd" * 20)
    first = np.array(text_windows(f"file:{path}", "bytes", 4).rows)
    path.write_text("wxyz" * 20)
    assert (text_windows(f"file:{path}", "bytes", 4).rows != first).all()


def test_a_model_learns_what_context_tells_and_nothing_more():
    rng = np.random.default_rng(0)
    start = rng.integers(0, 4, 600)
    rows = np.stack([start, start, 3 - start], axis=1)  # 2 bits, then none
    bits = model_bits(rows[:500], rows[500:], 4, "nano", steps=400, batch=64)
    assert bits["held_out"].shape == bits["train"].shape == (3,)
    assert bits["held_out"][0] == pytest.approx(2, abs=0.1)
    assert bits["held_out"][1:].max() < 0.3


def test_the_same_model_is_not_trained_twice(monkeypatch):
    rows = np.random.default_rng(1).integers(0, 8, (40, 3))
    first = model_bits(rows[:30], rows[30:], 8, "nano", steps=2, batch=8)
    monkeypatch.setattr(language, "train_ar", lambda *_: pytest.fail("trained again"))
    again = model_bits(rows[:30], rows[30:], 8, "nano", steps=2, batch=8)
    assert all((again[key] == first[key]).all() for key in first)


@pytest.fixture
def shares(text, tmp_path):
    path = tmp_path / "even.txt"
    path.write_text("".join(chr(97 + i * i % 16) for i in range(2000)), encoding="utf-8")
    return language.text_shares([text, f"file:{path}", text], ("bytes", "bpe:4"), (0, 1), 30, 10)


def test_a_share_is_the_entropy_of_a_token_over_its_capacity(shares, text):
    assert len(shares) == 2 * 2 * 2  # a text named twice counts once
    letters = shares[(shares["text"] == text) & (shares["kind"] == "bytes")]
    assert letters["bits"].tolist() == pytest.approx([np.log2(26)] * 2, abs=0.15)
    assert (letters["share"] == letters["bits"] / 8).all()
    raised = shares[(shares["text"] == text) & (shares["kind"] == "bpe:4")]
    assert (raised["vocabulary"] == 26).all() and raised["share"].min() > 0.95


def test_seeds_draw_other_windows_of_the_same_text(text):
    found = language.text_shares([text], ("bytes",), (0, 1, 1), n=10**6, length=7)
    assert (found["windows"] == 71).all()  # half of them, or all seeds would draw the same
    assert found["bits"][1] == found["bits"][2] != found["bits"][0]


def test_texts_are_what_is_generalised_over(shares):
    found = language.share_effects(shares, [0.9, 0.9])
    assert (
        set(found) == {"bytes", "bpe:4"} and found["bytes"].seeds == 2
    )  # two texts, not four rows
    own = (
        shares[shares["kind"] == "bytes"].groupby("text")["share"].apply(lambda x: x.prod() ** 0.5)
    )
    assert found["bytes"].ratio == pytest.approx((own / 0.9).prod() ** 0.5)


def test_the_chapter_measures_texts_as_the_scorecard_does():
    """All of each text, the same three tokenizations and seeds; the profile `smoke` takes less."""
    book = Path(__file__).resolve().parents[1] / "book/03_language.ipynb"
    cells = json.loads(book.read_text("utf-8"))["cells"]
    cell = next(c for c in cells if "parameters" in c["metadata"].get("tags", []))
    told: dict = {}
    exec("".join(cell["source"]), told)
    usual = {k: v.default for k, v in signature(language.text_shares).parameters.items()}
    assert max(len(load_text(name)) for name in told["texts"]) <= told["text_chars"]
    assert list(TEXTS) == told["texts"] and f"bpe:{told['k_max']}" in usual["kinds"]
    assert usual["seeds"] == tuple(range(told["n_seeds"])) and usual["length"] == told["length"]


def test_shares_of_images_are_those_of_the_first_uniform_code():
    def record(arm="uniform", seed=0, n=6000, dataset="mnist", first=6.0, group="main", again=None):
        return {"study": f"{dataset}-{n}", "group": group, "arm": arm, "seed": seed,
                "sizes": [256] * 3, "measures": {"entropy": [first, 1, 0]},
                "config": {"n_images": n, "dataset": dataset, "ar_seed": again}}  # fmt: skip

    found = language.image_shares(
        [record(seed=1, first=7.0), record(), record(n=1000, first=5.0), record("matched", first=1),
         record(dataset="digits", n=10, first=5.0), record(dataset="digits", n=20, first=4.0),
         record(dataset="digits", n=20, first=7.0) | {"sizes": [256] * 9},
         record(dataset="emoji", first=2.0, group="other"),
         record(first=1.0, again=10), record(first=1.0, group="spread", again=10),
         *(record(seed=s, n=60_000, first=1.0, group="n60000") for s in range(5))]
    )  # fmt: skip
    # main if there is one, then most seeds, then most images
    assert found == {"digits": [0.5], "emoji": [0.25], "mnist": [0.75, 0.875]}
