"""Texts and tokenizers: known tokens, exact round trips, known entropies, refused input."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcqlib.data.texts import TEXTS, load_text, text_tokenizer, windows

# bits a token and bytes a token under GPT-2, measured once on the whole works
KNOWN = {
    "shakespeare": (9.27, 3.23),
    "kjv": (8.73, None),
    "handbook-en": (9.96, 4.15),
    "handbook-de": (9.83, 2.89),
    "handbook-fr": (10.11, 3.34),
}


def unigram_bits(tokens):
    share = np.bincount(tokens)
    share = share[share > 0] / len(tokens)
    return float(-(share * np.log2(share)).sum())


def test_texts_stay_below_ten_megabytes():
    assert sum(len(load_text(name).encode()) for name in TEXTS) <= 10_000_000


def test_texts_are_clean():
    for name in TEXTS:
        text = load_text(name)
        assert "\r" not in text and "Project Gutenberg" not in text and "<div" not in text, name
    assert load_text("kjv").startswith("In the beginning God created the heaven and the earth.")
    assert "To be, or not to be,--that is the question" in load_text("shakespeare")


def test_handbooks_are_parallel():
    """Chapters carry the same section numbers in the same order in every language."""
    sections = {
        name: [
            word
            for line in load_text(name).splitlines()
            if (word := line.split(" ")[0]).count(".") == 2 and word.replace(".", "").isdigit()
        ]
        for name in ("handbook-en", "handbook-de", "handbook-fr", "handbook-ja")
    }
    assert len(sections["handbook-en"]) > 100
    assert len({tuple(found) for found in sections.values()}) == 1


def test_gpt2_gives_the_known_tokens():
    gpt2 = text_tokenizer("gpt2")
    assert gpt2.encode("Hello world").tolist() == [15496, 995]
    assert gpt2.encode("<|endoftext|>").max() < 50_256  # read as text, not as the special token
    assert gpt2.vocab_size == 50_257 and gpt2.encode("").shape == (0,)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_entropy_of_the_texts_is_the_known_one(name):
    text = load_text(name)
    tokens = text_tokenizer("gpt2").encode(text)
    bits, bytes_per_token = KNOWN[name]
    assert unigram_bits(tokens) == pytest.approx(bits, abs=0.1)
    if bytes_per_token:
        assert len(text.encode()) / len(tokens) == pytest.approx(bytes_per_token, abs=0.05)


@pytest.mark.parametrize("kind", ["gpt2", "bytes", "bpe:256", "bpe:1024"])
@pytest.mark.parametrize("name", ["shakespeare", "handbook-ja"])
def test_decoding_gives_the_text_back(kind, name):
    text = load_text(name)[:200_000]
    tokenizer = text_tokenizer(kind, corpus=text)
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int64 and tokens.min() >= 0
    assert tokens.max() < tokenizer.vocab_size and tokenizer.name == kind
    assert tokenizer.decode(tokens) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_gpt2_and_bytes(text):
    for kind in ("gpt2", "bytes"):
        tokenizer = text_tokenizer(kind)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_bytes_are_utf8():
    assert text_tokenizer("bytes").encode("aé").tolist() == [97, 0xC3, 0xA9]


def test_trained_bpe_uses_its_whole_vocabulary_and_shortens_the_text():
    text = load_text("kjv")[:300_000]
    small, large = (text_tokenizer(f"bpe:{v}", text).encode(text) for v in (256, 1024))
    assert len(np.unique(small)) > 200
    assert len(large) < len(small) < len(text)


def test_trained_bpe_is_the_same_in_another_process():
    code = (
        "from vcqlib.data.texts import *; t = load_text('kjv')[:100_000];"
        "print(text_tokenizer('bpe:300', t).encode(t).tolist())"
    )
    text = load_text("kjv")[:100_000]
    here = text_tokenizer("bpe:300", text).encode(text).tolist()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == str(here)


def test_trained_bpe_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="is trained on a text"):
        text_tokenizer("bpe:256")
    with pytest.raises(ValueError, match=r"bpe:3 is too small: the corpus alone has 4 bytes"):
        text_tokenizer("bpe:3", "abcd")
    with pytest.raises(ValueError, match="too short for bpe:256"):
        text_tokenizer("bpe:256", "abcd")
    with pytest.raises(ValueError, match=r"without bytes \[122\]"):
        text_tokenizer("bpe:5", "abab abab").encode("abz")


@pytest.mark.parametrize("kind", ["gpt3", "bpe", "bpe:", "bpe:x", "bpe:1"])
def test_unknown_tokenizers_are_refused(kind):
    with pytest.raises(ValueError, match="unknown text tokenizer"):
        text_tokenizer(kind, "text")


def test_python_sources_are_code_in_a_fixed_order():
    text = load_text("python")
    assert len(text) > 5_000_000 and "def __init__(self" in text
    assert text == load_text("python")


def test_own_text(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("déjà vu", encoding="utf-8")
    assert load_text(f"file:{path}") == "déjà vu"
    path.write_bytes(b"ab\xff")
    with pytest.raises(ValueError, match="own.txt is not UTF-8 at byte 2"):
        load_text(f"file:{path}")


def test_unknown_texts_come_with_the_nearest_names():
    with pytest.raises(ValueError, match=r"'shakespear': did you mean 'shakespeare'\?"):
        load_text("shakespear")


def test_a_missing_text_is_named_with_its_cure(tmp_path, monkeypatch):
    monkeypatch.setenv("VCQ_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="text/kjv.txt.xz is not listed .*set VCQ_DATA"):
        load_text("kjv")


# ---------------------------------------------------------------- windows


def test_windows_are_disjoint_pieces_of_the_text():
    tokens = np.arange(1003)
    cut = windows(tokens, 100, 10, seed=1)
    assert cut.shape == (100, 10) and cut.dtype == np.int64
    assert (np.diff(cut, axis=1) == 1).all() and (cut[:, 0] % 10 == 0).all()
    assert len(np.unique(cut)) == 1000


def test_fewer_windows_are_a_subset():
    tokens = np.arange(500)
    assert (windows(tokens, 7, 5, seed=2) == windows(tokens, 60, 5, seed=2)[:7]).all()
    assert (windows(tokens, 60, 5, seed=2) != windows(tokens, 60, 5, seed=3)).any()


def test_too_few_windows_says_how_many_there_are():
    with pytest.raises(ValueError, match=r"n=26 windows of 4 tokens asked for, 103 tokens hold 25"):
        windows(np.arange(103), 26, 4)
    with pytest.raises(ValueError, match="at least 1"):
        windows(np.arange(10), 0, 4)


def test_texts_hold_enough_windows_for_the_comparison_with_images():
    for name in ("shakespeare", "kjv", "handbook-en", "handbook-de", "handbook-fr"):
        tokens = text_tokenizer("gpt2").encode(load_text(name))
        assert windows(tokens, 16_000, 16).shape == (16_000, 16), name


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: text_tokenizer("bytes").decode([72, 256]),
            ValueError,
            "token 256 is outside 0..255",
        ),
        (lambda: text_tokenizer("bytes").decode([-1]), ValueError, "token -1 is outside 0..255"),
        (lambda: text_tokenizer("bytes").decode([0.5]), TypeError, "must be integers, got float64"),
        (lambda: text_tokenizer("gpt2").decode([50_257]), ValueError, "outside 0..50256"),
        (lambda: windows(np.arange(9.0), 2, 2), TypeError, "tokens must be integers"),
        (
            lambda: windows(np.zeros((3, 3), int), 2, 2),
            ValueError,
            r"integers \[N\], got \(3, 3\)",
        ),
        (lambda: windows(np.arange(9), 2.0, 2), TypeError, "n must be an integer, got 2.0"),
        (lambda: windows(np.arange(9), 2, True), TypeError, "length must be an integer, got True"),
    ],
)
def test_tokens_that_are_none_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_tokens_of_any_integer_type():
    assert text_tokenizer("bytes").decode(np.array([72, 105], np.uint16)) == "Hi"
    assert text_tokenizer("bytes").decode([]) == ""
    assert windows(np.arange(9, dtype=np.uint16), np.int64(2), np.uint8(2)).dtype == np.int64
