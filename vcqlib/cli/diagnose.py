"""`vcq diagnose`: one page about anyone's tokenizer, from its codes."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from tyro.conf import Positional

from ..checks import integer, naming
from ..data.image_folder import FolderFiles
from ..data.token_files import read_labels, read_tokens
from ..entropy import diagnosis
from ..entropy.diagnosis import Diagnosis, HeldOut
from ..entropy.twins import Twins, twins
from ..files import atomic_path, write_json
from .findings import LEGEND, NOTHING, alternatives, columns, facts
from .output import table
from .page import page

HEAD, TAIL = 12, 2  # rows of the table that are shown of many positions
TOGETHER = 20  # rows of neighbouring numbers are held out together: the crops of one picture
TRAINED, TESTED = 20_000, 1000  # sequences that a model is trained and measured on, at most
LOGITS = 2**26  # entries: 256 MiB in a training step


def diagnose(
    path: Positional[Path],
    images: Path | None = None,
    labels: Path | None = None,
    sizes: tuple[int, ...] = (),
    model_steps: int = 0,
    html: Path | None = None,
    json: Path | None = None,
) -> None:
    """What the codes of a tokenizer say about it, against ideal codes, and what to do about it.

    Usage, the cliff, dead and repeated positions, duplicates, what a codebook that grows would
    change, and advice with its reason. Reads what `vcq entropy` reads.

    Args:
        path: the tokens: a matrix [N, T], or a file or folder that holds one.
        images: the folder of the pictures, in the order of the codes (as torchvision's
            ImageFolder); says whether equal sequences are equal pictures.
        labels: class labels (.npy, or a folder of .npy); default: those beside the codes.
        sizes: codebook size K, or K_1 … K_T; default: what is recorded, else a guess from the
            largest tokens.
        model_steps: also train a small AR model for so many steps (needs vcqlib[models]; 300 are a
            start) and say what it needs for held-out codes; 0: none.
        html: write the page to this file, with nothing outside it.
        json: write all numbers to this file.
    """
    integer(model_steps, "--model-steps", 0)
    tokens = read_tokens(path)
    classes, pictures = tokens.labels, None
    if images is not None:
        listing = FolderFiles(images, "train", hold_out=False)
        with naming(images):
            pictures = twins(tokens.codes, listing.paths)
        if classes is None and len(listing.classes) > 1:
            classes = np.repeat(listing.labels, len(tokens.codes) // len(listing.paths))
    if labels is not None:
        classes, _ = read_labels(labels, len(tokens.codes))
    with naming(path):
        found = diagnosis.diagnose(tokens.codes, classes, sizes, tokens.sizes)
        if model_steps:
            found = found.with_model(_model(tokens.codes, max(found.sizes), model_steps))
    if json is not None:
        write_json(json, found.to_dict())
    if html is not None:
        with atomic_path(html) as temporary:
            temporary.write_text(page(found, path.name, pictures), encoding="utf-8")
    print(report(found, pictures))


def _model(codes: np.ndarray, vocabulary: int, steps: int) -> HeldOut:
    """Train a small AR model on some of the sequences and measure it on others."""
    from ..study.language import model_bits

    n, length = codes.shape
    if n < 2 * TOGETHER:
        raise ValueError(f"--model-steps needs {2 * TOGETHER} sequences or more, there are {n}")
    blocks = np.random.default_rng(0).permutation(-(-n // TOGETHER))
    many = max(min(TESTED // TOGETHER, len(blocks) // 10), 1)
    rows = [
        np.concatenate([np.arange(b * TOGETHER, min((b + 1) * TOGETHER, n)) for b in part])
        for part in (blocks[many : many + TRAINED // TOGETHER], blocks[:many])
    ]
    train, test = (np.asarray(codes[np.sort(part)]) for part in rows)
    batch = max(1, min(64, LOGITS // (length * vocabulary)))
    bits = model_bits(train, test, vocabulary, steps=steps, batch=batch)
    return HeldOut(bits["train"], bits["held_out"], len(train), len(test))


def report(d: Diagnosis, pictures: Twins | None = None) -> str:
    """The page as text."""
    lines = [f"{what:<12} {value:>12}  {beside}" for what, value, beside in facts(d, pictures)]
    lines += ["", *table(columns(d), HEAD, TAIL), *LEGEND]
    lines += ["", *table(alternatives(d), len(d.alternatives))]
    for number, advice in enumerate(d.advice, start=1):
        text = f"{number}. {advice.finding} Why: {advice.reason} What to do: {advice.remedy}"
        lines += ["", textwrap.fill(text, 96, subsequent_indent="   ")]
    if not d.advice:
        lines += ["", NOTHING]
    return "\n".join(lines)
