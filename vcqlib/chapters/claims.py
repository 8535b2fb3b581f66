"""The ten claims of the paper, each checked or measured, each with a verdict by the stated rule.

One function a claim. Exact ones are arithmetic or a property of code; measured ones read the
records of the studies. `scorecard(…)` calls all of them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from ..data.texts import TEXTS
from ..models.autoregressive import PRESETS, ARConfig, ARModel
from ..models.quantizer import VariableCodebookQuantizer
from ..study import language, order, records, scorecard
from ..theory.cliff import cliff_position, expected_conditional_entropy
from . import findings, rates

IMAGENET, K, POSITIONS = 1_281_167, 16_384, 256
SAID = {  # claim → what the paper says, and the chapter that is about it
    "C1": ("the cliff lies at t* = ⌈log2 N / log2 K⌉", "01_cliff"),
    "C2": ("ImageNet, K = 16384: entropy is spent in 2 of 256 positions", "02_measuring"),
    "C3": ("language stays far below its codebooks' capacity", "03_language"),
    "C4": ("K_t grows from 2 to K_max within one codebook", "04_variable_codebooks"),
    "C5": ("loss, parameters and training are unchanged", "04_variable_codebooks"),
    "C6": ("better images: gFID 27.98 → 14.80, a ratio of 0.53", "07_generation"),
    "C7": ("gFID 1.71 with 684M AR parameters", "09_scaling"),
    "C8": ("coarse to fine: probe on 10 tokens 43.8 % against 27.1 %", "08_coarse_to_fine"),
    "C9": ("distribution counts, not only the number of bits", "07_generation"),
    "C10": ("a larger K reconstructs better", "05_tokenizer"),
}


@dataclass(frozen=True)
class Row:
    """What came out for one claim."""

    claim: str
    ours: str
    rung: str
    verdict: str

    @property
    def says(self) -> str:
        return SAID[self.claim][0]

    @property
    def chapter(self) -> str:
        return SAID[self.claim][1]


class Evidence:
    """The records that the measured claims read, by set and arm; one regime of each set."""

    def __init__(self, studies: Sequence[str], variable: str = "loglinear") -> None:
        self.probed = findings.load(studies)  # tokenizers alone too
        self.found = [r for r in self.probed if r.get("stages", "all") == "all"]
        self.variable = variable
        self.judged = findings.images(self.found, treatment=variable)
        self.rung = "measured GPU" if "gpu" in self.found[0]["hardware"] else "measured small"
        self.stale = sum(r["stale"] for r in self.found)

    def regimes(self) -> list[tuple[str, list[dict]]]:
        """Name and records of the first regime of each study: the one that the rows stand on."""
        first = self.judged.drop_duplicates("study")
        return [
            (r["set"], [x for x in self.found
                        if (x["study"], x["group"]) == (r["study"], r["group"])])
            for _, r in first.iterrows()
        ]  # fmt: skip

    def pairs(self, part: list[dict], a: str, b: str) -> list[tuple[dict, dict]]:
        arms = {r["arm"] for r in part}
        return records.pairs(part, a, b, part[0]["group"]) if {a, b} <= arms else []

    def row(self, claim: str, ours: str, verdict: str) -> Row:
        old = f" ({self.stale} records are of other code)" if self.stale else ""
        return Row(claim, ours + old, self.rung, verdict)


def fine(pairs: Sequence[tuple[dict, dict]]) -> bool:
    """Whether the tokenizers behind some pairs clear their floors."""
    marks = ("reconstruction better than the mean image", "entropy at most log2 N")
    return all(records.floors(r)[mark] for pair in pairs for r in pair for mark in marks)


def c1(seed: int = 0) -> Row:
    """The formula against an exact count, where logarithms of floats can be trusted."""
    cases = np.random.default_rng(seed).integers(2, [10**9, 10**5], (500, 2)).tolist()
    cases = [(n, k) for n, k in cases if k ** round(math.log(n, k)) != n]
    same = [cliff_position(n, k) == math.ceil(math.log2(n) / math.log2(k)) for n, k in cases]
    words = f"{sum(same)} of {len(same)} random cases agree"
    return Row("C1", words, "exact", scorecard.judge_identity(all(same)))


def c2(evidence: Evidence) -> Row:
    """ImageNet by formula; on uniform codes of ours, the share of their bits spent by t*."""
    t_star = cliff_position(IMAGENET, K)
    ideal = expected_conditional_entropy(IMAGENET, [K] * POSITIONS)[:t_star].sum()
    verdicts = [scorecard.judge_identity(t_star == 2 and ideal > 0.99 * math.log2(IMAGENET))]
    words = [f"{t_star} of {POSITIONS} by formula"]
    for name, part in evidence.regimes():
        uniform = [r for r in part if r["arm"] == "uniform"]
        n, sizes = uniform[0]["config"]["n_images"], uniform[0]["sizes"]
        ours = cliff_position(n, sizes)
        bits = [r["measures"]["entropy"] for r in uniform]
        share = None if ours is None else float(np.mean([sum(b[:ours]) / sum(b) for b in bits]))
        verdicts.append(scorecard.judge_share(share, 0.99, 0.5, len(bits)))
        saved = float(np.mean([records.past_the_cliff(r) for r in uniform]))
        words.append(f"{name}: {100 * share:.0f} % of the bits by t* = {ours} of {len(sizes)}; the "
                     f"codes after it cost a held-out image {saved:.1f} bits less than by each "
                     "position's own frequencies (the class that the AR model is told counts in)"
                     if share is not None else f"{name}: no cliff")  # fmt: skip
    return evidence.row("C2", "; ".join(words), scorecard.worst(*verdicts))


def c3(evidence: Evidence, texts: Sequence[str] = tuple(TEXTS)) -> Row:
    """Share of its capacity that a token uses, text over the first uniform code of images.

    Over texts, for each of three tokenizations and each set of images; the verdict is the most
    cautious one.
    """
    shares = language.text_shares(texts)
    by_kind = shares.groupby("kind", sort=False)["share"].mean()
    words = [f"text {', '.join(f'{100 * v:.0f} % ({k})' for k, v in by_kind.items())}"]
    verdicts = []
    for dataset, images in language.image_shares(evidence.found).items():
        effects = language.share_effects(shares, images)
        verdicts += [scorecard.judge_effect(e, True) for e in effects.values()]
        said = ", ".join(f"{e.ratio:.2f} ({e.interval()})" for e in effects.values())
        name = findings.SETS.get(dataset, dataset)
        words.append(f"{name} {100 * min(images):.0f} to {100 * max(images):.0f} % over "
                     f"tokenizers, ratios to their mean {said}")  # fmt: skip
    return evidence.row("C3", "; ".join(words), scorecard.worst(*verdicts))


def c4(sizes: Sequence[int], k_max: int, dim: int = 8, seed: int = 0) -> Row:
    """Sizes grow, and every code is a nearest one among the first K_t rows of the one codebook."""
    quantizer = VariableCodebookQuantizer(list(sizes), dim, k_max).eval()
    quantizer.reset_parameters(torch.Generator().manual_seed(seed))
    z = torch.randn(256, len(sizes), dim, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        chosen = quantizer.encode(z)
        rows = quantizer.rows().expand(len(z), -1, -1)
        distance = torch.cdist(quantizer.prepare(z), rows)  # [256, T, K_max]
    beyond = torch.arange(k_max) >= torch.as_tensor(sizes)[:, None]
    nearest = distance.masked_fill(beyond, math.inf).amin(-1)
    excess = float((distance.gather(-1, chosen[..., None])[..., 0] - nearest).max())
    grows = list(sizes) == sorted(sizes) and sizes[-1] <= k_max
    words = f"K from {sizes[0]} to {sizes[-1]}; of {chosen.numel():,} codes each is a nearest one"
    words += f", up to {excess:.0e}" if excess > 0 else ""
    return Row("C4", words, "exact", scorecard.judge_identity(grows and excess < 1e-4))


def c5(evidence: Evidence) -> Row:
    """Equal parameter counts and steps in all arms; the loss is the plain cross-entropy."""
    _, part = evidence.regimes()[0]
    config = part[0]["config"]
    trained = ("tokenizer_steps", "tokenizer_batch", "ar_steps", "ar_batch", "dropout", "n_images")
    counts = {tuple(r["measures"]["parameters"].items()) for r in part}
    alike = {tuple(r["config"][name] for name in trained) for r in part}
    sizes = next(r["sizes"] for r in part if r["arm"] == evidence.variable)
    network = ARModel(ARConfig(tuple(sizes), config["k_max"], 10, **PRESETS[config["ar"]])).eval()
    draw = torch.Generator().manual_seed(0)
    codes = torch.stack([torch.randint(k, (64,), generator=draw) for k in sizes], 1)
    labels = torch.arange(len(codes)) % 10
    with torch.inference_mode():
        full = F.cross_entropy(network.logits(codes, labels).flatten(0, 1), codes.flatten())
        gap = abs(float(full - network.loss(codes, labels)))
    equal = len(counts) == len(alike) == 1
    total = sum(v for k, v in next(iter(counts)) if k in ("tokenizer", "ar"))
    words = f"{total:,} parameters in each arm, equal steps" if equal else "arms differ"
    if config["balance"]:
        words += "; all arms with the remedy against collapse, which the small codebooks need"
    return Row("C5", words, "exact", scorecard.judge_identity(equal and gap < 1e-5))


def ratios(claim: str, evidence: Evidence, points: pd.DataFrame | None,
           controls: Sequence[str]) -> Row:  # fmt: skip
    """C6, and the controls of C9: FD to reconstructions, variable over them, in every regime.

    The verdict of the row is the most cautious one of its regimes; see `scorecard.across`.
    """
    rows = evidence.judged if points is None else pd.concat([points, evidence.judged])
    rows = rows[rows["control"].isin(controls)]
    if rows.empty:
        return evidence.row(claim, "no control was trained", scorecard.UNTESTABLE)
    words = []
    for (name, n), part in rows.groupby(["set", "n"], sort=False):
        said = ", ".join(findings.effect(r) + findings.unseen(r) + ("" if len(controls) == 1 else
                         f" over {r['control']}") for _, r in part.iterrows())  # fmt: skip
        words.append(f"{name}, N = {n:,}: {said}")
    return evidence.row(claim, "; ".join(words), scorecard.across(*rows["verdict"]))


def c9(evidence: Evidence, points: pd.DataFrame | None, curves: pd.DataFrame | None) -> Row:
    """Variable over the curve of plain codebooks at its own rate, which decides.

    The controls of that rate decide if no regime has such a curve.
    """
    controls = ratios("C9", evidence, points, findings.CONTROLS[1:])
    own = rates.curves(evidence.found, evidence.variable)
    known = pd.concat([x for x in (curves, own) if x is not None])
    if known.empty:
        return controls
    words = "; ".join(f"{r['set']}, N = {r['n']:,}: {findings.effect(r)}{findings.unseen(r)}"
                      + (", not counted" if r["verdict"] == scorecard.UNTESTABLE else "")
                      for _, r in known.iterrows())  # fmt: skip
    return replace(
        controls, verdict=scorecard.across(*known["verdict"]),
        ours=f"Over the curve of plain codebooks at its own rate, which decides: {words}",
    )  # fmt: skip


def c7() -> Row:
    """The model of that size can be built; nothing was trained."""
    with torch.device("meta"):
        xl = ARModel(ARConfig((K,) * POSITIONS, K, 1000, **PRESETS["XL"]))
    count = sum(p.numel() for p in xl.parameters()) - xl.class_embedding.weight.numel()
    return Row("C7", f"{count / 1e6:.1f}M parameters counted, not trained", "configuration ready",
               scorecard.UNTESTABLE)  # fmt: skip


def c8(evidence: Evidence) -> Row:
    """Probe on the first codes, variable over uniform; see `study.order`.

    At 10 tokens, or the most of those probed, from encoder outputs and from code vectors; the most
    cautious verdict counts, since the paper's probe is not known. At equal bits beside it.
    """
    found = order.table(evidence.probed, evidence.variable)
    if found.empty:
        return evidence.row("C8", "no probe was measured", scorecard.UNTESTABLE)
    found = found[found["control"] == "uniform"]
    found = found[found["reading"] != "one-hot codes"]
    verdicts: list[str] = []
    words: dict[str, list[str]] = {"tokens": [], "bits": []}
    for (dataset, length, equal), part in found.groupby(["dataset", "length", "equal"], sort=False):
        clear = fine([tuple(order.probed(evidence.probed, evidence.variable)[dataset, length])])
        last = [some.iloc[-1] for _, some in part.groupby("reading", sort=False)]  # longest prefix
        if equal == "tokens":
            verdicts += [scorecard.judge_effect(r["effect"], False, 1.62, clear) for r in last]
        each = ", ".join(f"{r['reading']} {r['ratio']:.2f} ({r['effect'].interval()})"
                         for r in last)  # fmt: skip
        words[equal].append(f"{findings.SETS.get(dataset, dataset)}, T = {length}, first "
                            f"{last[0]['at']:.0f} {equal}: {each}")  # fmt: skip
    said = {equal: "; ".join(some) or "not measured" for equal, some in words.items()}
    ours = f"At equal tokens, which is judged. {said['tokens']}.\nAt equal bits. {said['bits']}."
    return evidence.row("C8", ours, scorecard.across(*verdicts))


def c10(evidence: Evidence) -> Row:
    """rFD of uniform K_max over that of the smaller uniform codebook of the matched arm."""
    words, verdicts = [], []
    for name, part in evidence.regimes():
        if both := evidence.pairs(part, "uniform", "matched"):
            effect = scorecard.paired_effect(*zip(*(
                (x["measures"]["rfd"], y["measures"]["rfd"]) for x, y in both
            ), strict=True))  # fmt: skip
            verdicts.append(scorecard.judge_effect(effect, True, None, fine(both)))
            large, small = both[0][0]["sizes"][0], both[0][1]["sizes"][0]
            words.append(f"{name}: rFD of K = {large} over K = {small} is {effect.ratio:.2f} "
                         f"({effect.interval()})")  # fmt: skip
    if not verdicts:
        return evidence.row("C10", "no smaller codebook was trained", scorecard.UNTESTABLE)
    return evidence.row("C10", "; ".join(words), scorecard.across(*verdicts))


def rows(evidence: Evidence, points: pd.DataFrame | None, texts: Sequence[str] = tuple(TEXTS),
         curves: pd.DataFrame | None = None) -> list[Row]:  # fmt: skip
    """All ten, in order. points, curves: of `findings.points` and `rates.point_curves`."""
    _, part = evidence.regimes()[0]
    config = part[0]["config"]
    sizes = next(r["sizes"] for r in part if r["arm"] == evidence.variable)
    method = c4(sizes, config["k_max"], config["code_dim"])
    return [
        c1(), c2(evidence), c3(evidence, texts), method, c5(evidence),
        ratios("C6", evidence, points, findings.CONTROLS[:1]), c7(), c8(evidence),
        c9(evidence, points, curves), c10(evidence),
    ]  # fmt: skip


def table(found: Sequence[Row], full: bool = True) -> str:
    """The rows as an HTML table that fits a phone; with `full` also our numbers and the rung."""
    body = ""
    for row in found:
        ours = html.escape(row.ours).replace("\n", "<br>")
        numbers = f"<p>{ours}<br><small>{row.rung}</small></p>" if full else ""
        body += (
            f'<tr><th><a href="{row.chapter}.html">{row.claim}</a></th>'
            f"<td>{html.escape(row.says)}{numbers}</td>"
            f'<td class="{row.verdict.replace(" ", "-")}">{row.verdict}</td></tr>'
        )
    return (
        '<table class="claims"><thead><tr><th></th><th>the paper says</th><th>here</th></tr>'
        f"</thead><tbody>{body}</tbody></table>"
    )
