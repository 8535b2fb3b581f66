"""Text corpora, their tokenizers, and windows of tokens: language in the shape of image codes.

A window of T tokens stands for an image of T codes, so that the same estimator, the same N and
the same T serve both modalities.
"""

from __future__ import annotations

import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from ..checks import int64, integer, must, one_of, unknown_name
from ..extras import needed
from ..files import user_path
from .vendored import read_vendored

TEXTS = {
    "shakespeare": "text/shakespeare.txt.xz",
    "kjv": "text/kjv.txt.xz",
    "handbook-en": "text-copyleft/handbook-en.txt.xz",
    "handbook-de": "text-copyleft/handbook-de.txt.xz",
    "handbook-fr": "text-copyleft/handbook-fr.txt.xz",
    "handbook-ja": "text-copyleft/handbook-ja.txt.xz",
}
# GPT-2's split into words before merging (Radford et al. 2019, encoder.py of openai/gpt-2)
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


class TextTokenizer(Protocol):
    """Text to tokens and back; tokens are int64 in [0, vocab_size)."""

    name: str
    vocab_size: int

    def encode(self, text: str) -> np.ndarray: ...

    def decode(self, tokens: np.ndarray) -> str: ...


def load_text(name: str) -> str:
    """A corpus by name.

    | name | text |
    |---|---|
    | `shakespeare` | 22 tragedies and histories, modern spelling |
    | `kjv` | King James Version: Genesis, Psalms to Isaiah, New Testament; a verse a line |
    | `handbook-LANG` | the Debian handbook in en, de, fr or ja: the same chapters, same order |
    | `python` | the running interpreter's standard library without its tests; varies with it |
    | `file:PATH` | your own UTF-8 text |

    Raises ValueError for an unknown name or a text that is not UTF-8, FileNotFoundError for a
    missing file.
    """
    if name == "python":
        return _python_sources()
    if name.startswith("file:"):
        path = user_path(name.removeprefix("file:"))
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 at byte {error.start}: convert it") from None
    one_of([*TEXTS, "python", "file:PATH"], "text", name)
    return read_vendored(TEXTS[name]).decode("utf-8")


def _python_sources() -> str:
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    paths = [p for p in root.rglob("*.py") if not left_out & set(p.relative_to(root).parts)]
    if not paths:
        raise FileNotFoundError(f"Python {sys.version_info[:2]} has no sources below {root}")
    paths.sort(key=lambda path: path.relative_to(root).as_posix())
    return "".join(path.read_text(encoding="utf-8", errors="ignore") for path in paths)


def _tokens(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """`tokens` as int64, or a line that names the first that is none of the vocabulary."""
    tokens = np.asarray(tokens)
    tokens = int64(tokens, "tokens") if tokens.size else tokens.astype(np.int64)
    for wrong in tokens[(tokens < 0) | (tokens >= vocab_size)][:1]:
        raise ValueError(f"token {wrong} is outside 0..{vocab_size - 1}")
    return tokens


class ByteTokenizer:
    """UTF-8 bytes: 256 tokens, any text, nothing to train."""

    name = "bytes"
    vocab_size = 256

    def encode(self, text: str) -> np.ndarray:
        """Tokens int64 [number of bytes]."""
        return np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int64)

    def decode(self, tokens: np.ndarray) -> str:
        """Text; bytes that are not UTF-8 (a cut character) become the replacement character."""
        tokens = _tokens(tokens, self.vocab_size)
        return tokens.astype(np.uint8).tobytes().decode("utf-8", errors="replace")


class GPT2Tokenizer:
    """GPT-2's byte-level BPE: 50,257 tokens, of which the last ends a document."""

    name = "gpt2"
    vocab_size = 50_257

    def __init__(self) -> None:
        import tiktoken

        self._encoding = tiktoken.Encoding(
            "gpt2",
            pat_str=GPT2_PATTERN,
            mergeable_ranks=_gpt2_ranks(),
            special_tokens={"<|endoftext|>": self.vocab_size - 1},
            explicit_n_vocab=self.vocab_size,
        )

    def encode(self, text: str) -> np.ndarray:
        """Tokens int64; special tokens in the text are read as ordinary text."""
        return self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.int64)

    def decode(self, tokens: np.ndarray) -> str:
        """Text; a cut character becomes the replacement character."""
        return self._encoding.decode(_tokens(tokens, self.vocab_size).tolist())


def _gpt2_ranks() -> dict[bytes, int]:
    """Bytes of each token -> id: the 256 bytes in GPT-2's order, then the merges in theirs."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order = printable + [byte for byte in range(256) if byte not in printable]
    # the file writes an unprintable byte as a letter from U+0100 on
    letter = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    byte_of = dict(zip(letter, order, strict=True))
    ranks = {bytes([byte]): rank for rank, byte in enumerate(order)}
    for line in read_vendored("gpt2/vocab.bpe.gz").decode("utf-8").split("\n")[1:]:
        if line:
            ranks[bytes(byte_of[char] for char in line if char != " ")] = len(ranks)
    return ranks


class TrainedBPE:
    """Byte-level BPE of a chosen size, trained on one corpus (Sennrich et al. 2016).

    Its alphabet is the bytes that occur in the corpus, so that a vocabulary of 256 holds merges
    too. Training is deterministic. Text with other bytes is refused.
    """

    def __init__(self, corpus: str, vocab_size: int) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        self._bytes = frozenset(corpus.encode("utf-8"))
        if vocab_size < len(self._bytes):
            raise ValueError(
                f"bpe:{vocab_size} is too small: the corpus alone has {len(self._bytes)} bytes"
            )
        self.name, self.vocab_size = f"bpe:{vocab_size}", vocab_size
        self._tokenizer = Tokenizer(models.BPE())
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False)
        self._tokenizer.train_from_iterator(corpus.splitlines(keepends=True), trainer)
        if (reached := self._tokenizer.get_vocab_size()) < vocab_size:
            raise ValueError(f"the corpus is too short for bpe:{vocab_size}: it gives {reached}")

    def encode(self, text: str) -> np.ndarray:
        """Tokens int64; ValueError names bytes that the training corpus did not have."""
        if strange := set(text.encode("utf-8")) - self._bytes:
            raise ValueError(f"{self.name} was trained on a corpus without bytes {sorted(strange)}")
        # lines, because one string of megabytes is slow in this library
        batch = self._tokenizer.encode_batch_fast(text.splitlines(keepends=True))
        return np.array([token for line in batch for token in line.ids], dtype=np.int64)

    def decode(self, tokens: np.ndarray) -> str:
        """Text; a cut character becomes the replacement character."""
        return self._tokenizer.decode(_tokens(tokens, self.vocab_size).tolist())


_gpt2 = cache(GPT2Tokenizer)


def text_tokenizer(kind: str, corpus: str | None = None) -> TextTokenizer:
    """`gpt2`, `bytes`, or `bpe:V` with V tokens trained on the text `corpus`.

    Raises ValueError for an unknown kind, a bad V, or `bpe:V` without a corpus.
    """
    base, _, size = kind.partition(":")
    if kind not in ("bytes", "gpt2") and (base != "bpe" or not size.isdecimal() or int(size) < 2):
        raise unknown_name("text tokenizer", kind, ["gpt2", "bytes", "bpe:256"])
    if base == "bpe" and not corpus:
        raise ValueError(f"{kind} is trained on a text: give corpus=load_text(…)")
    with needed():
        if kind == "bytes":
            return ByteTokenizer()
        return _gpt2() if kind == "gpt2" else TrainedBPE(corpus, int(size))


def windows(tokens: np.ndarray, n: int, length: int, seed: int = 0) -> np.ndarray:
    """`n` disjoint windows of `length` tokens in random order, int64 [n, length].

    The text is cut into consecutive windows; the first n of one permutation per seed are taken,
    so that a smaller n gives a subset. ValueError if the text has fewer.
    """
    n, length = integer(n, "n", 1), integer(length, "length", 1)
    tokens = int64(np.asarray(tokens), "tokens")
    must(tokens.ndim == 1, "tokens", "integers [N]", tokens.shape)
    available = len(tokens) // length
    if n > available:
        raise ValueError(
            f"n={n} windows of {length} tokens asked for, {len(tokens)} tokens hold {available}"
        )
    chosen = np.random.default_rng(seed).permutation(available)[:n]
    return tokens[: available * length].reshape(available, length)[chosen]  # [n, length]
