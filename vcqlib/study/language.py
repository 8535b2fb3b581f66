"""Text and images in one shape: windows of tokens, and one small AR model for either.

Chapter 03 compares the two modalities at the same N, T, model and number of steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..data.texts import load_text, text_tokenizer, windows
from ..entropy.estimates import conditional_entropy
from ..files import atomic_path, read_json, write_json
from ..models.autoregressive import PRESETS, ARConfig, ARModel
from ..training.autoregressive import train_ar
from ..training.inference import position_bits
from ..training.recipe import Recipe
from ..training.run import own_randomness
from . import cache, scorecard

KINDS = ("gpt2", "bytes", "bpe:256")  # the tokenizations of claim C3


@dataclass(frozen=True)
class TextWindows:
    """All disjoint windows of a text, in random order: the first n stand for n images."""

    rows: np.ndarray  # uint16 or uint32 [available, T], memory-mapped
    vocabulary: int
    bytes_per_token: float


def text_windows(
    name: str, kind: str, length: int, max_chars: int | None = None, seed: int = 0
) -> TextWindows:
    """Tokenise a text (`load_text`) and cut it into windows of `length` tokens; a cached stage.

    kind: as in `text_tokenizer`. For `bpe:V` the tokenizer is trained on this text, and V is raised
    to the number of different bytes in the text where it is smaller than that. max_chars: read only
    so many characters. ValueError if the text is shorter than one window.
    """
    text = load_text(name)[:max_chars]
    content = text.encode("utf-8")
    if kind.startswith("bpe:") and kind[4:].isdecimal():
        kind = f"bpe:{max(int(kind[4:]), len(set(content)))}"
    digest = hashlib.sha256(content).hexdigest()
    inputs = {"text": digest, "kind": kind, "length": length, "seed": seed}

    def build(folder: Path) -> None:
        tokenizer = text_tokenizer(kind, text)
        tokens = tokenizer.encode(text)
        rows = windows(tokens, max(1, len(tokens) // length), length, seed)
        with atomic_path(folder / "rows.npy") as path:
            np.save(path, rows.astype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32))
        about = {"vocabulary": tokenizer.vocab_size, "bytes_per_token": len(content) / len(tokens)}
        write_json(folder / "text.json", about)

    folder = cache.stage("text", inputs, build)
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    return TextWindows(rows, **read_json(folder / "text.json"))


def text_shares(
    texts: Sequence[str], kinds: Sequence[str] = KINDS, seeds: Sequence[int] = (0, 1, 2),
    n: int = 6000, length: int = 16, max_chars: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """How much of its capacity one token of a text uses, not knowing what came before (claim C3).

    The entropy of a single token over log2 of the vocabulary, counted on the tokens of n windows.
    A window begins anywhere, so any token stands for a first one; the same of images is the first
    position of their codes (`image_shares`). A seed draws other windows, nothing else: texts and
    tokenizers stay, and what is generalised over is texts (`share_effects`).

    Args:
        texts, kinds, max_chars: as in `text_windows`.
        n: windows of `length` tokens, at most half of those in the text, so that seeds differ.

    Returns:
        A row for each text, kind and seed: `text`, `kind`, `seed`, `windows`, `vocabulary`, `bits`
        (of a token), `share` (of log2 vocabulary).
    """
    found = []
    for text in dict.fromkeys(texts):
        for kind in kinds:
            cut = text_windows(text, kind, length, max_chars)
            few = max(1, min(n, len(cut.rows) // 2))
            for seed in seeds:
                drawn = np.random.default_rng(seed).permutation(len(cut.rows))[:few]
                tokens = np.asarray(cut.rows[np.sort(drawn)]).reshape(-1, 1)
                bits = conditional_entropy(tokens).total_bits
                found.append({"text": text, "kind": kind, "seed": seed, "windows": few,
                              "vocabulary": cut.vocabulary, "bits": bits,
                              "share": bits / np.log2(cut.vocabulary)})  # fmt: skip
    return pd.DataFrame(found)


def image_shares(records: Iterable[Mapping]) -> dict[str, list[float]]:
    """The same of images: data set → share of log2 K that the first uniform code uses, by seed.

    From records of the arm `uniform`: for each data set those of one group of one study, called
    `main` if there is one, then with the most seeds, images and the fewest positions. Records with
    an AR seed of their own are left out: one tokenizer counts once.
    """
    by_set: dict[str, dict[tuple, dict[int, float]]] = {}
    for r in records:
        if r["arm"] == "uniform" and r["config"].get("ar_seed") is None:
            share = float(r["measures"]["entropy"][0] / np.log2(r["sizes"][0]))
            by_group = by_set.setdefault(r["config"]["dataset"], {})
            size = r["config"]["n_images"], -len(r["sizes"])
            by_group.setdefault((*size, r["study"], r["group"]), {})[r["seed"]] = share
    found = {}
    for dataset, by_group in sorted(by_set.items()):
        chosen = max(by_group, key=lambda key: (key[-1] == "main", len(by_group[key]), key))
        found[dataset] = [by_group[chosen][seed] for seed in sorted(by_group[chosen])]
    return found


def share_effects(shares: pd.DataFrame, images: Sequence[float]) -> dict[str, scorecard.Effect]:
    """Share of text over share of images, kind → ratio with an interval over texts, after Holm.

    shares: of `text_shares`; a text is one replicate, the geometric mean of its seeds.
    images: of `image_shares`, one data set; texts are held against their geometric mean.
    """
    mean = np.log(shares["share"]).groupby([shares["kind"], shares["text"]], sort=False).mean()
    image = float(np.exp(np.mean(np.log(images))))
    return scorecard.holm({
        kind: (np.exp(mean[kind]).tolist(), [image] * len(mean[kind]))
        for kind in dict.fromkeys(shares["kind"])
    })  # fmt: skip


def model_bits(
    rows: np.ndarray, held_out: np.ndarray, vocabulary: int, preset: str = "tiny",
    steps: int = 600, batch: int = 64, seed: int = 0, device: str | torch.device = "cpu",
) -> dict[str, np.ndarray]:  # fmt: skip
    """Train a small unconditional AR model on rows [N, T]; its cross-entropy, bits [T].

    Returns `train` (on as many training rows as there are held-out rows) and `held_out`. Cached
    by the content of both matrices and every setting.
    """
    data = [np.ascontiguousarray(part, dtype=np.int64) for part in (rows, held_out)]
    digests = [hashlib.sha256(part.tobytes()).hexdigest() for part in data]
    inputs = {"rows": digests, "shape": list(rows.shape), "vocabulary": vocabulary,
              "preset": preset, "steps": steps, "batch": batch, "seed": seed,
              "device": torch.device(device).type}  # fmt: skip

    def build(folder: Path) -> None:
        train, test = (torch.from_numpy(part) for part in data)
        none = torch.zeros(len(train), dtype=torch.int64)  # one class: nothing to condition on
        sizes = (vocabulary,) * train.shape[1]
        with own_randomness(torch.device(device)):
            torch.manual_seed(seed)
            model = ARModel(ARConfig(sizes, vocabulary, classes=1, **PRESETS[preset])).to(device)
        recipe = Recipe(steps, batch, lr=1e-3, betas=(0.9, 0.96), weight_decay=0.03, seed=seed)
        train_ar(model, train, none, recipe, folder)
        for old in folder.glob("step-*"):
            old.unlink()
        zeros = torch.zeros(len(test), dtype=torch.int64)
        parts = {"train": train[: len(test)], "held_out": test}
        few = max(1, min(512, 2**26 // (vocabulary * train.shape[1])))  # logits of 256 MiB at most
        bits = {k: position_bits(model, v, zeros[: len(v)], batch=few).tolist()
                for k, v in parts.items()}  # fmt: skip
        write_json(folder / "bits.json", bits)

    folder = cache.stage("language-model", inputs, build)
    return {k: np.asarray(v) for k, v in read_json(folder / "bits.json").items()}
