"""The numbers in the answers of `book/exam.md` are those that the library computes."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

import vcqlib
from throwaway import ROOT
from vcqlib.metrics.distances import Moments, frechet_from_moments
from vcqlib.study import scorecard

TEXT = (ROOT / "book" / "exam.md").read_text("utf-8")
PARTS = re.split(r"^## Question (\d+) \((\d+)\)$", TEXT, flags=re.MULTILINE)[1:]
QUESTIONS = {
    int(n): text.split(":class: dropdown") for n, text in zip(PARTS[::3], PARTS[2::3], strict=True)
}
IMAGENET = 1_281_167


def says(number: int, *values: object) -> None:
    """The answer has these numbers, thousands with or without a comma, in this order."""
    plain = QUESTIONS[number][1].replace("{,}", "").replace("−", "-")
    at = 0
    for value in values:
        found = re.compile(rf"(?<![\d.]){re.escape(str(value))}(?![\d]|\.\d)").search(plain, at)
        assert found, f"answer {number} does not say {value} after {plain[:at][-40:]!r}"
        at = found.end()


def test_ten_questions_each_with_an_answer_and_points_that_add_up() -> None:
    assert [*QUESTIONS] == [*range(1, 11)]
    assert all(len(parts) == 2 for parts in QUESTIONS.values())
    assert sum(map(int, PARTS[1::3])) == int(re.search(r"(\d+) points", TEXT)[1])


def test_cliffs() -> None:
    once, twice = ([vcqlib.cliff_position(n, [k] * 256) for k in (1024, 2)]
                   for n in (IMAGENET, 2 * IMAGENET))  # fmt: skip
    says(1, once[0], once[1], *twice)
    doubling = vcqlib.codebook_sizes("doubling", 8, 64)
    held = [vcqlib.cumulative_capacity(sizes)[-1] for sizes in ([64] * 8, doubling)]
    cliffs = [vcqlib.cliff_position(50_000, sizes) for sizes in ([64] * 8, doubling)]
    says(3, *cliffs, int(held[0]), int(held[1]), int(held[0] - held[1]))


def test_counting_by_hand() -> None:
    rows = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [1, 1], [1, 1]])
    bits = vcqlib.conditional_entropy(rows).bits
    total = math.log2(6)
    says(2, f"{bits[0]:.0f}", f"{bits[1]:.3f}", f"{bits.sum():.3f}", f"{total:.3f}",
         f"{total - bits.sum():.3f}")  # fmt: skip


def test_ideal_codes() -> None:
    bits = vcqlib.expected_conditional_entropy(IMAGENET, [16_384] * 256)
    says(4, f"{math.log2(IMAGENET):.2f}", 14, f"{bits[0]:.2f}", f"{bits[1]:.2f}", f"{bits[2]:.4f}")
    assert bits[2:].sum() < 0.01 and 200 <= 2**28 / IMAGENET < 215


def test_nested_codebook() -> None:
    rows = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    z = torch.tensor([[0.6, 0.8], [-0.6, 0.8]])
    quantizer = vcqlib.VariableCodebookQuantizer([2, 4], 2, 4).eval()
    with torch.no_grad():
        quantizer.codebook.copy_(rows)
    assert quantizer.encode(z[:, None].expand(-1, 2, -1)).tolist() == [[0, 2], [1, 2]]
    far = torch.cdist(z, rows)
    says(6, 0, f"{far[0, 0]:.2f}", f"{far[0, 1]:.2f}", 1, 2, f"{far[0, 2]:.2f}")


def test_frechet_distance() -> None:
    a, b = (Moments(np.array([m]), np.array([[v]])) for m, v in ((0.0, 1.0), (3.0, 4.0)))
    says(7, f"{frechet_from_moments(a, b):.0f}")


def test_verdicts() -> None:
    ratios, ones = [0.80, 0.90, 0.85], [1.0] * 3
    logs = np.log(ratios)
    effect = scorecard.paired_effect(ratios, ones)
    family = {"uniform": (ratios, ones)}
    family |= {name: ([1.3, 0.8, 1.1], ones) for name in ("matched", "reversed", "shuffled")}
    judged = scorecard.judge_family(family)["uniform"]
    says(8, *(f"{x:.3f}" for x in logs), f"{logs.mean():.3f}", f"{logs.std(ddof=1):.3f}",
         f"{logs.std(ddof=1) / math.sqrt(3):.3f}", *effect.interval().split(" to "),
         *judged["corrected"].split(" to "))  # fmt: skip
    verdicts = [scorecard.judge_effect(effect, True), scorecard.judge_effect(effect, True, 0.53),
                judged["verdict"]]  # fmt: skip
    found = re.findall(
        r"\*(reproduced|direction only|not[a-z ]+|contra[a-z]+)", QUESTIONS[8][1], re.I
    )
    assert [verdict.lower() for verdict in found] == verdicts


def test_a_memoriser() -> None:
    says(10, f"{1.5 / 300:g}", f"{1.5 / 3000:g}")


@pytest.mark.parametrize("number", range(1, 11))
def test_each_answer_points_into_the_book(number: int) -> None:
    assert re.search(r"\{numref\}|\{prf:ref\}|\]\(\d\d_", QUESTIONS[number][1])
