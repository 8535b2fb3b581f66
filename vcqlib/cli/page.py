"""The page of `vcq diagnose --html`: one file, nothing outside it, light and dark."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np

from ..data.pictures import fit, open_image
from ..entropy.diagnosis import Diagnosis
from ..entropy.twins import Twins
from .findings import LEGEND, NOTHING, alternatives, columns, facts

SHOWN, EACH, THUMBNAIL = 6, 6, 72  # groups of equal codes, pictures of each, pixels
WIDE, HIGH, LEFT, RIGHT, BOTTOM, TOP = 460, 264, 54, 18, 38, 28  # of a figure, in units of its text
DASHES = ("", "7 3", "2 3", "9 3 2 3", "1 2")

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --dim: #5c5c5c; --rule: #d8d8d8;
  --c0: #0173b2; --c1: #b35806; --c2: #02734f; --c3: #a3368f; --c4: #5c5c5c; --box: #f4f6f8; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e8e8e8; --dim: #a8adb3;
  --rule: #3a3f45; --c0: #5db5ee; --c1: #f2a65a; --c2: #4fd1a5; --c3: #e48fd4; --c4: #a8adb3;
  --box: #20242a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: .2rem .7rem .2rem 0; text-align: right; border-bottom: 1px solid var(--rule);
  font-variant-numeric: tabular-nums; white-space: nowrap; vertical-align: top; }
th:first-child, .facts td:last-child { text-align: left; }
.facts td:last-child { white-space: normal; color: var(--dim); min-width: 10rem; }
caption { text-align: left; color: var(--dim); padding: .3rem 0; caption-side: bottom; }
article { background: var(--box); border-left: 4px solid var(--c0); padding: .2rem 1rem;
  margin: 1rem 0; } article p { margin: .6rem 0; }
figure { margin: 0; } svg { width: 100%; max-width: 46rem; height: auto; display: block; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .grid { stroke: var(--rule); } svg path, .key { fill: none; stroke-width: 2; }
summary { font-size: 1.15rem; font-weight: bold; margin: 2rem 0 1rem; cursor: pointer; }
.legend { list-style: none; padding: 0; margin: .3rem 0; display: flex; flex-wrap: wrap;
  gap: .2rem 1.2rem; } .legend svg { display: inline-block; width: 34px; height: 10px; }
@media (max-width: 30rem) { svg text { font-size: 15px; } th, td { padding-right: .4rem;
  font-size: .92rem; } }
.twins img { image-rendering: pixelated; margin: 0 .3rem .3rem 0; vertical-align: middle; }
"""


def page(d: Diagnosis, name: str, pictures: Twins | None = None) -> str:
    """HTML of the whole page."""
    measured = {
        "measured, given the positions before": d.entropy.bits,
        "ideal codes": d.ideal,
        "measured, each position alone": d.usage.bits,
        "capacity, log2 K": np.array([*map(math.log2, d.sizes)]),
    }
    if d.held_out is not None:
        measured["a small AR model, held out"] = d.held_out.test
    used = {"perplexity": d.usage.perplexity, "uniform codes at this N": np.exp2(d.ideal_unigram)}
    advice = "".join(
        f"<article><p><strong>{escape(a.finding)}</strong></p><p>Why: {escape(a.reason)}</p>"
        f"<p>What to do: {escape(a.remedy)}</p></article>"
        for a in d.advice
    )
    told = (
        f"99 % of {d.entropy.total_bits:.2f} bits are told after {d.measured_cliff} of {d.length} "
        f"positions; ideal codes: {'never' if d.cliff is None else d.cliff}"
    )
    parts = [
        f"<h1>Diagnosis of {escape(name)}</h1>",
        _table(dict(zip(("", " ", "  "), zip(*facts(d, pictures), strict=True), strict=True)),
               kind="facts"),
        "<h2>What follows</h2>",
        advice or f"<p>{NOTHING}</p>",
        "<h2>The cliff</h2>",
        _figure(measured, "bits", told, log=False),
        "<h2>Usage</h2>",
        _figure(used, "even codes", "Perplexity of each position by itself", log=True),
        "<h2>Other codebooks of this length and size</h2>",
        _table(alternatives(d), "t*: positions after which all sequences can differ. rate: bits, "
               "of uniform's."),
        _twins(pictures) if pictures and pictures.groups else "",
        "<details><summary>Every position</summary>",
        _table(columns(d), " ".join(LEGEND)),
        "</details>",
    ]  # fmt: skip
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>Diagnosis of {escape(name)}</title><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def _table(columns: Mapping[str, Sequence[str]], caption: str = "", kind: str = "") -> str:
    cells = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in zip(*columns.values(), strict=True)
    )
    top = "".join(f'<th scope="col">{escape(word)}</th>' for word in columns)
    top = f"<thead><tr>{top}</tr></thead>" if any(map(str.strip, columns)) else ""
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide" tabindex="0"><table class="{kind}">{said}{top}'
        f"<tbody>{cells}</tbody></table></div>"
    )


def _figure(curves: Mapping[str, np.ndarray], unit: str, caption: str, log: bool) -> str:
    """Curves over positions 1..T as an inline SVG; many positions on a logarithmic axis."""
    length, most = len(next(iter(curves.values()))), max(float(c.max()) for c in curves.values())
    across = math.log if length > 32 else float
    span = (across(length) - across(1)) or 1.0

    def x(t: int) -> float:
        return LEFT + (WIDE - LEFT - RIGHT) * (across(t) - across(1)) / span

    def y(value: float) -> float:
        share = math.log2(max(value, 1)) / math.log2(max(most, 2)) if log else value / (most or 1)
        return HIGH - BOTTOM - (HIGH - BOTTOM - TOP) * share

    ticks = _powers(most) if log else _steps(most)
    marks = [2**i for i in range(length.bit_length()) if 2**i <= length]
    marks = marks if length > 32 else range(1, length + 1, -(-length // 12))
    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:,g}</text>'
        for v in ticks
    ) + "".join(
        f'<text x="{x(t):.1f}" y="{HIGH - BOTTOM + 17}" text-anchor="middle">{t}</text>'
        for t in marks
    )
    lines, legend = "", ""
    for i, (label, values) in enumerate(curves.items()):
        style = f'stroke="var(--c{i})" stroke-dasharray="{DASHES[i]}"'
        points = " L".join(f"{x(t):.1f},{y(v):.1f}" for t, v in enumerate(values, start=1))
        dots = "".join(
            f'<circle cx="{x(t):.1f}" cy="{y(v):.1f}" r="2.6" fill="var(--c{i})"/>'
            for t, v in enumerate(values, start=1)
        )
        lines += f'<path d="M{points}" {style}/>' + (dots if length <= 64 and not i else "")
        key = f'<svg aria-hidden="true" viewBox="0 0 34 10"><path d="M0,5 L34,5" {style}/></svg>'
        legend += f"<li>{key} {escape(label)}</li>"
    return (
        f'<figure><svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{escape(caption)}">'
        f'{grid}{lines}<text x="{WIDE - RIGHT}" y="{HIGH - 3}" text-anchor="end">position t</text>'
        f'<text x="2" y="13">{escape(unit)}</text></svg>'
        f'<ul class="legend">{legend}</ul><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _steps(most: float) -> list[float]:
    """Round values from 0 to `most`, about five."""
    step = 10 ** math.floor(math.log10(most / 5)) if most > 0 else 1.0
    step *= next(f for f in (1, 2, 5, 10) if most / (step * f) <= 6)
    return [step * i for i in range(int(most / step) + 1)]


def _powers(most: float) -> list[int]:
    top = max(math.floor(math.log2(max(most, 2))), 1)
    return [2**i for i in range(0, top + 1, -(-top // 6))]


def _twins(pictures: Twins) -> str:
    rows = []
    pairs = zip(pictures.groups, pictures.equal, strict=True)
    for files, equal in sorted(pairs, key=lambda pair: pair[1])[:SHOWN]:  # what was lost first
        images = "".join(_thumbnail(path) for path in files[:EACH])
        more = f" and {len(files) - EACH} more" if len(files) > EACH else ""
        rows.append(f"<p>{images}{more}: {'equal to the pixel' if equal else 'not equal'}</p>")
    return f'<h2>Pictures with the same codes</h2><div class="twins">{"".join(rows)}</div>'


def _thumbnail(path: Path) -> str:
    data = BytesIO()
    fit(open_image(path).convert("RGB"), THUMBNAIL).save(data, "PNG")
    source = base64.b64encode(data.getvalue()).decode()
    alt = escape(path.name, quote=True)
    return f'<img alt="{alt}" title="{alt}" width="{THUMBNAIL}" height="{THUMBNAIL}" ' + (
        f'src="data:image/png;base64,{source}">'
    )
