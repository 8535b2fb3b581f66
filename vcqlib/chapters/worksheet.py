"""A worksheet for a class that judges for itself: the ratios of the records without verdicts.

The same rows with a verdict and the step of the rule that gives it are the solution. The rule is
`study.scorecard`; the book states it in its scorecard.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..study import scorecard
from . import claims, findings, rates

if TYPE_CHECKING:
    import pandas as pd


def reason(row: Mapping) -> str:
    """Which step of the rule gave a row of `findings.images` or `findings.points` its verdict."""
    if not row["floors"]:
        return "step 1: a run misses a pass mark"
    if row["verdict"] == scorecard.UNTESTABLE:
        return f"step 1: {row['seeds']} seeds are too few"
    if row["verdict"] == scorecard.DIRECTION:
        return "step 2: only the correction makes the interval hold 1"
    if row["verdict"] == scorecard.UNDECIDED:
        return "step 2: the interval holds 1"
    if row["verdict"] == scorecard.CONTRADICTED:
        return "step 2: the interval lies above 1"
    return "step 3: the interval lies below 1"


def sheets(studies: Sequence[str]) -> tuple[str, str]:
    """The worksheet with empty boxes and with verdicts in them, as HTML.

    Two tables each: ratios of the variable codebook over every control, and claims. studies: in
    `data/results`, besides the points in the plane.
    """
    evidence, points = claims.Evidence(studies), findings.points()
    rows = findings.together(points, evidence.judged)
    found = [
        claims.c3(evidence), claims.ratios("C6", evidence, points, findings.CONTROLS[:1]),
        claims.c8(evidence), claims.c9(evidence, points, rates.point_curves()),
        claims.c10(evidence),
    ]  # fmt: skip
    return _sheet(rows, found, False), _sheet(rows, found, True)


def _sheet(rows: pd.DataFrame, found: Sequence[claims.Row], solved: bool) -> str:
    lines = []
    for _, part in rows.groupby(["study", "group", "n"], sort=False):
        first = part.iloc[0]
        lines.append(f'<tr><th colspan="7">{html.escape(findings.regime(first))}</th></tr>')
        for _, r in part.iterrows():
            cleared = "yes" if r["floors"] else "no"
            cells = (r["control"], r["seeds"], f"{r['ratio']:.2f}", r["interval"], r["corrected"])
            lines.append(_line((*cells, cleared), f"{r['verdict']} ({reason(r)})", solved))
    head = ("log-linear over", "seeds", "ratio", "95 %", "corrected", "pass marks", "verdict")
    ratios = _table("Ratios", head, lines)
    here = {r.claim: r.ours.partition(". Over controls")[0] for r in found}  # the others: above
    here["C6"] = "above, over uniform"
    lines = [_line((r.claim, r.says, here[r.claim]), r.verdict, solved) for r in found]
    return ratios + _table("Claims", ("claim", "the paper says", "here", "verdict"), lines)


def _line(cells: Sequence[object], verdict: str, solved: bool) -> str:
    shown = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
    return f'<tr>{shown}<td class="box">{verdict if solved else ""}</td></tr>'


def _table(title: str, head: Sequence[str], lines: Sequence[str]) -> str:
    cells = "".join(f"<th>{name}</th>" for name in head)
    return (
        f'<h2>{title}</h2><div class="wide" role="region" tabindex="0" aria-label="{title}"><table>'
        f"<thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
