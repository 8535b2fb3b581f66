"""Windows of text and the small AR model of chapter 03."""

from __future__ import annotations

import numpy as np
import pytest

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
    with pytest.raises(ValueError, match="hold 0"):
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
