"""What the records say of claims C6 and C9, in every regime that was tried, and what follows.

A regime is a data set, a number N of training images or points, and a number of passes over them.
In each the variable codebook is compared with its controls, seed by seed, and judged by
`study.scorecard`; the comparisons of one regime are one family.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ..study import records, scorecard

if TYPE_CHECKING:
    import pandas as pd


CONTROLS = ("uniform", "matched", "reversed", "shuffled")  # the first for C6, the others for C9
SETS = {"fashion-mnist": "Fashion-MNIST", "mnist": "MNIST", "digits": "digits"}
MEASURES: Mapping[str, Callable[[Mapping], float]] = {
    "FD to reconstructions": lambda m: m["last"]["fd_to_reconstructions"],
    "gFD": lambda m: m["last"]["gfd"],
    "FD to reconstructions, best likelihood": lambda m: m["best"]["fd_to_reconstructions"],
    "gFD, best likelihood": lambda m: m["best"]["gfd"],
    "KID to reconstructions": lambda m: m["last"]["kid_to_reconstructions"],
    "FD to reconstructions, snapshot chosen": lambda m: m["chosen"]["fd_to_reconstructions"],
    "FD to reconstructions, temperature chosen":
        lambda m: m["tuned"]["temperature"]["fd_to_reconstructions"],
    "FD to reconstructions, guidance chosen":
        lambda m: m["tuned"]["cfg_scale"]["fd_to_reconstructions"],
    "rFD": lambda m: m["rfd"],
    "held-out bits": lambda m: min(sum(point["held_out"]) for point in m["curve"]),
}  # fmt: skip
CHOSEN = tuple(name for name in MEASURES if name.endswith("chosen"))  # on validation, by each arm
POINTS = {"FD to reconstructions": "to_reconstructions", "gFD": "to_truth"}  # their kin in the lab


def load(studies: Sequence[str], results: str | Path | None = None) -> list[dict]:
    """The records of several studies of this edition; those not computed yet are left out.

    Raises:
        ValueError: none of them has a record.
    """
    folder = Path(results or records.default_results())
    there = [study for study in studies if any((folder / study).glob("*.json"))] or studies
    every = [r for study in there for r in records.load(study, results)]
    return [r for r in every if r["edition"] == records.EDITION]


def passes(record: Mapping) -> float:
    """How often the AR model has seen each training image."""
    c = record["config"]
    return c["ar_steps"] * c["ar_batch"] / c["n_images"]


def turned(record: Mapping) -> bool:
    """Whether held-out likelihood was better before the last step: the model memorises."""
    bits = [sum(point["held_out"]) for point in record["measures"]["curve"]]
    return bits[-1] > min(bits)


def has(record: Mapping, measure: str) -> bool:
    """Whether a measure was taken: groups without sweeps and tokenizers alone lack some."""
    try:
        return math.isfinite(MEASURES[measure](record["measures"]))
    except KeyError:
        return False


def images(found: list[dict], measure: str = "FD to reconstructions",
           treatment: str = "loglinear") -> pd.DataFrame:  # fmt: skip
    """One row for each regime of the studies and control, judged; see `scorecard.judge_family`."""
    import pandas as pd

    rows = []
    for study, group in dict.fromkeys((r["study"], r["group"]) for r in found):
        part = [r for r in found if (r["study"], r["group"]) == (study, group)]
        arms = {r["arm"] for r in part}
        again = any(r["config"]["ar_seed"] is not None for r in part)
        if treatment not in arms or again or not all(has(r, measure) for r in part):
            continue  # the rate curve, several AR seeds a tokenizer, a measure that was not taken
        both = {c: records.pairs(part, treatment, c, group) for c in CONTROLS if c in arms}
        family = {
            c: tuple(zip(*((MEASURES[measure](x["measures"]), MEASURES[measure](y["measures"]))
                           for x, y in pairs), strict=True))
            for c, pairs in both.items() if pairs
        }  # fmt: skip
        enough = {c: all(all(records.floors(r).values()) for pair in both[c] for r in pair)
                  for c in family}  # fmt: skip
        first, uniform = part[0], [r for r in part if r["arm"] == "uniform"]
        regime = {
            "study": study, "group": group, "set": SETS.get(first["config"]["dataset"], study),
            "n": first["config"]["n_images"], "passes": passes(first),
            "T": len(first["sizes"]),
            "memorises": bool(uniform) and sum(map(turned, uniform)) > len(uniform) / 2,
        }  # fmt: skip
        for control, judged in scorecard.judge_family(family, enough).items():
            rows.append(regime | {"control": control} | judged | {"values": family[control]})
    return pd.DataFrame(rows)


def points(measure: str = "FD to reconstructions") -> pd.DataFrame:
    """The same rows for the known world, from the records of the lab."""
    from ..lab import judge, plan
    from ..lab import records as lab_records

    lab = plan.load_lab(records.default_results().parents[1] / "book/studies/lab.yaml")
    table = judge.frame(lab_records.load())
    found = judge.verdicts(lab, table, measure=POINTS[measure])
    rows = table[table["group"] == "rows"]
    last = rows[rows["last"]].groupby("n")["passes"].first()
    uniform = rows[(rows["arm"] == "uniform") & rows["last"]].groupby("n")
    memorises = uniform["chosen"].mean() < 0.5  # likelihood was best before the last point
    return found.assign(
        study="lab", group="rows", set="points in the plane", T=8,
        passes=found["n"].map(last), memorises=found["n"].map(memorises),
    )  # fmt: skip


def steepest(record: Mapping) -> int:
    """Number of given codes up to which the forced-prefix curve falls fastest, per position."""
    curve = sorted((int(m), value) for m, value in record["measures"]["forced_prefix"].items())
    falls = [((a - b) / (n - m), n) for (m, a), (n, b) in pairwise(curve)]
    return max(falls)[1]


def told_late(record: Mapping, cliff: int) -> float:
    """How much more the two-sample test gains after the first `cliff` codes than from them."""
    told = record["measures"]["two_sample"]["accuracy"]
    return told[str(len(record["sizes"]))] - 2 * told[str(cliff)] + 0.5


def together(*tables: pd.DataFrame) -> pd.DataFrame:
    """Rows of the known world and of images, one below the other."""
    import pandas as pd

    return pd.concat([table for table in tables if len(table)], ignore_index=True)


# ------------------------------------------------------------------------ in words


def regime(row: Mapping) -> str:
    """`Fashion-MNIST, N = 1,000, 64 passes`."""
    things = "points" if row["study"] == "lab" else "images"
    return f"{row['set']}, {row['n']:,} {things}, {row['passes']:.0f} passes"


def effect(row: Mapping) -> str:
    """`0.86 (0.75 to 0.99)`."""
    return f"{row['ratio']:.2f} ({row['interval']})"


def unseen(row: Mapping) -> str:
    """Behind an undecided effect, the ratio that would have been seen: ` [1.50]`; else nothing."""
    undecided = row["verdict"] == scorecard.UNDECIDED and known(row)
    return f" [{row['detectable']:.2f}]" if undecided else ""


def known(row: Mapping) -> bool:
    """Whether there are seeds enough for an interval."""
    return row["low"] is not None and math.isfinite(row["low"])


def clear(row: Mapping) -> bool:
    """Whether the plain interval, without correction, excludes 1."""
    return known(row) and not row["low"] <= 1 <= row["high"]


def said(rows: pd.DataFrame, control: str) -> str:
    """One control over all regimes: every interval that excludes 1, and how many others."""
    mine = [r for _, r in rows[rows["control"] == control].iterrows()]
    parts = [f"{effect(r)} at {regime(r)}" for r in mine if clear(r)]
    if even := [r["ratio"] for r in mine if known(r) and not clear(r)]:
        spread = f"{min(even):.2f}" + (f" to {max(even):.2f}" if len(even) > 1 else "")
        parts.append(f"not told apart in {len(even)} of {len(mine)} regimes ({spread})")
    if few := [r for r in mine if not known(r)]:
        missed = sum(not r["floors"] for r in few)
        also = f" ({missed} of them with runs that miss a pass mark)" if missed else ""
        parts.append(f"too few seeds in {len(few)}{also}")
    return "; ".join(parts) or "not measured"


def exceptions(rows: pd.DataFrame) -> str:
    """Every comparison whose interval excludes 1, whatever the control."""
    parts = [f"over {r['control']} {effect(r)} at {regime(r)}"
             for _, r in rows.iterrows() if clear(r)]  # fmt: skip
    return "; ".join(parts) or "none"


def advice(rows: pd.DataFrame) -> list[str]:
    """What follows for a user, in one to three sentences, from the verdicts alone."""
    side = {scorecard.REPRODUCED: "ahead", scorecard.CONTRADICTED: "behind",
            scorecard.DIRECTION: "ahead before the correction for several controls"}  # fmt: skip
    rows = rows[rows.apply(known, axis=1)]  # fewer than three seeds advise nothing
    if rows.empty:
        return ["Too few seeds to advise anything."]
    c6, c9 = (rows[(rows["control"] == CONTROLS[0]) == first] for first in (True, False))
    places = {which: [regime(r) for _, r in c6.iterrows() if side.get(r["verdict"]) == which]
              for which in side.values()}  # fmt: skip
    start = {(True, False): "yes", (True, True): "it depends", (False, True): "no"}
    start = start.get((bool(places["ahead"]), bool(places["behind"])), "no difference was seen")
    if start == "yes" and len(places["ahead"]) < len(c6):
        start = "in some regimes"
    named = ". ".join(f"{which}: {'; '.join(where)}" for which, where in places.items() if where)
    found = [f"Over one large codebook: {start}{f' ({named})' if named else ''}."]
    if len(c9):
        seen = c9["verdict"].map(side)
        gained, lost = ((seen == which).sum() for which in ("ahead", "behind"))
        rest = "the others" if gained + lost else "any of them"
        even = "" if gained + lost == len(c9) else f"; no clear difference was seen in {rest}"
        found.append("Over codebooks with as many bits (one smaller size, reversed, shuffled): "
                     f"ahead in {gained} of {len(c9)} comparisons, behind in {lost}{even}."
                     )  # fmt: skip
        if gained > len(c9) / 2:
            found.append("So the distribution of the bits pays: let the codebook grow.")
        elif gained:
            found.append("So tune the size of a plain codebook first.")
        else:
            found.append(
                "So tune the size of a plain codebook first: by this measure, at the end of "
                "training, no growing one was seen to beat a plain one of as many bits."
            )
    return found


def answer(rows: pd.DataFrame, link: str = "10_scorecard.html") -> str:
    """The box "Should I use it?": advice, then one line for each regime; HTML."""
    shown = [name for name in CONTROLS if name in set(rows["control"])]
    head = "".join(f"<th>{name}</th>" for name in shown)
    body = ""
    for _, part in rows.groupby(["study", "group", "n"], sort=False):
        cells = part.set_index("control")
        mark = "<br><i>memorised</i>" if part.iloc[0]["memorises"] else ""
        body += f"<tr><th>{html.escape(regime(part.iloc[0]))}{mark}</th>"
        for name in shown:
            if name not in cells.index:
                body += f'<td data-over="{name}">–</td>'
                continue
            r = cells.loc[name]
            number = f"<b>{r['ratio']:.2f}</b> <small>{html.escape(r['interval'])}</small>"
            kind = r["verdict"].replace(" ", "-")  # its colour
            why = "" if r["floors"] or r["study"] == "lab" else ": a run misses a pass mark"
            word = r["verdict"] + unseen(r) + why
            body += f'<td class="{kind}" data-over="{name}">{number}<br>{word}</td>'
        body += "</tr>"
    words = html.escape(" ".join(advice(rows)))
    return (
        f'<div class="answer"><p><b>{words}</b></p><table><caption>Error of the AR model, '
        "log-linear over each control (below 1: the variable codebook is better), plain 95 % "
        f'interval over seeds, and verdict by the <a href="{link}">rule</a>, which widens it for '
        "the number of comparisons. In square brackets: the ratio, or its inverse, that so many "
        "seeds would have shown four times of five, as far as they tell it themselves (at 3,000 "
        "points many distances lie below the resolution, so it is larger there). <i>Memorised</i>: "
        "the likelihood of held-out codes has turned, so that a low error can come from copies; "
        "elsewhere it was still getting better."
        f"</caption><thead><tr><th>Regime</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def markdown(rows: pd.DataFrame) -> str:
    """The same for README: advice, and a table with a line for each regime."""
    shown = [name for name in CONTROLS if name in set(rows["control"])]
    lines = [" ".join(advice(rows)), "", "| log-linear over | " + " | ".join(shown) + " |",
             "|---" * (len(shown) + 1) + "|"]  # fmt: skip
    for _, part in rows.groupby(["study", "group", "n"], sort=False):
        cells = {r["control"]: f"{effect(r)}: {r['verdict']}{unseen(r)}"
                 for _, r in part.iterrows()}  # fmt: skip
        found = " | ".join(cells.get(name, "–") for name in shown)
        mark = ", *memorised*" if part.iloc[0]["memorises"] else ""
        lines.append(f"| {regime(part.iloc[0])}{mark} | {found} |")
    note = (
        "In square brackets: the ratio, or its inverse, that these seeds would have shown four "
        "times of five, as far as they tell it themselves. *Memorised*: the likelihood of held-out "
        "codes has turned, so that a low error can come from copies; elsewhere it was still "
        "getting better."
    )
    return "\n".join([*lines, "", note])
