"""What the book says of the records follows from them: made-up records with a known answer."""

import copy
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vcqlib.chapters import claims, findings, rates, worksheet
from vcqlib.study import records, scorecard
from vcqlib.theory.schedules import codebook_sizes

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pattern():
    """A real record, whose settings and numbers are replaced below."""
    return records.load("smoke")[0]


def record(pattern, arm, seed, value, sizes=None, group="main", n=600, **measures):
    """The record of an arm that has this FD to reconstructions and clears its floors."""
    r = copy.deepcopy(pattern)
    sizes = sizes if sizes is not None else codebook_sizes(arm, 8, 64, seed=seed)
    r |= {"study": "made", "group": group, "arm": arm, "seed": seed, "sizes": list(map(int, sizes))}
    r["config"] |= {"seed": seed, "n_images": n, "ar_seed": None}
    m = r["measures"]
    m["last"] |= {"fd_to_reconstructions": value, "gfd": value, "kid_to_reconstructions": value}
    m["best"] |= {"fd_to_reconstructions": value, "gfd": value}
    m |= {"gfd_marginals": 1e6, "mean_image_mse": 1e6, "unigram": [100.0] * 8,
          "entropy": [0.1] * 8} | measures  # fmt: skip
    return r


def study(pattern, ratio, seeds=5, **more):
    """Arms loglinear and uniform, with this ratio by seed."""
    return [
        record(pattern, arm, s, (1 + 0.1 * s) * (ratio(s) if arm == "loglinear" else 1), **more)
        for s in range(seeds)
        for arm in ("uniform", "loglinear")
    ]


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (lambda s: 0.6 + 0.01 * s, "reproduced"),
        (lambda s: 1.6 - 0.01 * s, "contradicted"),
        (lambda s: 0.5 if s % 2 else 2.0, "not to be told apart"),
    ],
)
def test_a_regime_is_judged_by_its_ratios(pattern, ratio, verdict):
    (row,) = findings.images(study(pattern, ratio)).to_dict("records")
    assert row["verdict"] == verdict and row["seeds"] == 5 and row["control"] == "uniform"
    logs = [math.log(ratio(s)) for s in range(5)]
    assert row["ratio"] == pytest.approx(math.exp(np.mean(logs)))
    assert row["passes"] == pytest.approx(40 * 64 / 600)


def test_a_run_below_a_floor_leaves_its_regime_untested(pattern):
    found = study(pattern, lambda s: 0.6 + 0.01 * s)
    found[3]["measures"]["unigram"] = [0.0] * 8
    (row,) = findings.images(found).to_dict("records")
    assert row["verdict"] == scorecard.UNTESTABLE


def test_each_regime_is_a_row_and_its_controls_one_family(pattern):
    found = study(pattern, lambda s: 0.7 + 0.05 * s)
    found += study(pattern, lambda s: 1.2 + 0.05 * s, group="more", n=1200)
    found += [record(pattern, "matched", s, 1.1 + 0.1 * s) for s in range(5)]
    rows = findings.images(found)
    assert list(zip(rows["group"], rows["control"], strict=True)) == [
        ("main", "uniform"), ("main", "matched"), ("more", "uniform")
    ]  # fmt: skip
    same = rows["interval"] == rows["corrected"]
    assert not same[rows["group"] == "main"].all() and same[rows["group"] == "more"].all()


def test_a_study_of_tokenizers_alone_has_no_regime(pattern):
    found = study(pattern, lambda s: 0.7)
    for r in found:
        del r["measures"]["last"]
    assert findings.images(found).empty


CONSTANT = {4: 1.0, 16: 0.5, 64: 2.0}  # K → the measure of that uniform codebook


def curve(pattern, seeds=4):
    return [
        record(pattern, "uniform" if k == 64 else f"uniform-{k}", s, v * (1 + s), [k] * 8,
               "main" if k == 64 else "rate")
        for s in range(seeds) for k, v in CONSTANT.items()
    ]  # fmt: skip


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.5])
def test_the_residual_is_the_distance_from_the_curve_at_the_own_rate(pattern, factor):
    sizes = codebook_sizes("loglinear", 8, 64)
    bits = np.log2(sizes).sum()
    x, y = np.log2(list(CONSTANT)) * 8, np.log(list(CONSTANT.values()))
    on_line = math.exp(np.interp(bits, x, y))
    found = curve(pattern) + [
        record(pattern, "loglinear", s, factor * (1 + s) * on_line, sizes) for s in range(4)
    ]
    effect = rates.residual(found, "loglinear", "main")
    assert effect.ratio == pytest.approx(factor) and effect.seeds == 4
    assert effect.low == pytest.approx(factor) and effect.high == pytest.approx(factor)


def test_smaller_sizes_stand_beside_the_large_one_of_their_seed(pattern):
    found = curve(pattern)
    other = [r | {"config": r["config"] | {"ar_steps": 7}} for r in found if r["sizes"][0] == 4]
    effects = rates.smaller(found + other, "main")  # trained otherwise: no pair
    assert {k: (e.ratio, e.seeds) for k, e in effects.items()} == {
        4: (pytest.approx(0.5), 4), 16: (pytest.approx(0.25), 4)
    }  # fmt: skip
    assert rates.smaller([r for r in found if r["arm"] == "uniform"], "main") == {}


def test_a_curve_is_a_row_of_its_own_study_and_decides_c9(pattern):
    sizes = codebook_sizes("loglinear", 8, 64)
    found = curve(pattern) + [
        record(pattern, "loglinear", s, 0.1 * (1 + s), sizes) for s in range(4)
    ]
    other = [r | {"study": "other"} for r in found if r["arm"] in ("uniform", "loglinear")]
    rows = rates.curves(found + other)  # whose own sizes make no curve
    effect = rates.residual(found, "loglinear", "main")
    assert rows["study"].tolist() == [found[0]["study"]]
    assert rows["ratio"].item() == effect.ratio and rows["verdict"].item() == "reproduced"
    below = [r | {"measures": r["measures"] | {"unigram": [0.0] * 8}} for r in found]
    assert rates.curves(below)["verdict"].item() == scorecard.UNTESTABLE
    plain = [b if len(set(b["sizes"])) == 1 else r for b, r in zip(below, found, strict=True)]
    assert rates.curves(plain)["verdict"].item() == scorecard.UNTESTABLE  # the line's own runs

    evidence = claims.Evidence(["smoke"])
    evidence.found, evidence.judged = found, findings.images(found)
    assert claims.c9(evidence, None, None).verdict == "reproduced"
    lab = rates.point_curves()
    assert claims.c9(evidence, None, lab).verdict == scorecard.across("reproduced", *lab["verdict"])
    evidence.found = other  # without a curve the controls decide
    assert claims.c9(evidence, None, None) == claims.ratios(
        "C9", evidence, None, findings.CONTROLS[1:]
    )


def test_outside_the_curve_there_is_no_residual(pattern):
    found = [r for r in curve(pattern) if r["sizes"][0] == 64]
    found += [record(pattern, "loglinear", s, 1.0) for s in range(4)]
    assert rates.residual(found, "loglinear", "main") is None
    other = [r | {"config": r["config"] | {"ar_steps": 7}} for r in curve(pattern)]
    assert rates.residual(found[-4:] + other, "loglinear", "main") is None  # trained otherwise


def test_advice_follows_the_verdicts(pattern):
    better = findings.images(study(pattern, lambda s: 0.6 + 0.01 * s))
    worse = findings.images(study(pattern, lambda s: 1.6 + 0.01 * s))
    even = findings.images(study(pattern, lambda s: 0.5 if s % 2 else 2.0))
    assert "codebook: yes" in findings.advice(better)[0]
    assert "codebook: no (behind" in findings.advice(worse)[0]
    assert "no difference" in findings.advice(even)[0]
    assert "in some regimes (ahead" in findings.advice(findings.together(better, even))[0]
    assert "it depends" in findings.advice(findings.together(better, worse))[0]
    few = findings.images(study(pattern, lambda s: 0.6 + 0.01 * s, seeds=2))
    assert few["verdict"].tolist() == [scorecard.UNTESTABLE]
    assert findings.advice(few) == ["Too few seeds to advise anything."]
    size_first = findings.together(better, even.assign(control="matched"))
    assert "growing one was seen to beat" in findings.advice(size_first)[-1]
    assert "no clear difference was seen in any of them" in " ".join(findings.advice(size_first))
    some = findings.together(size_first, better.assign(control="reversed"))
    assert "no clear difference was seen in the others" in " ".join(findings.advice(some))
    some = findings.together(some, even.assign(control="shuffled"))
    assert findings.advice(some)[-1] == "So tune the size of a plain codebook first."
    leaning = better.assign(verdict=scorecard.DIRECTION)  # is no gain yet, and is named
    assert "no difference was seen (ahead before the correction" in findings.advice(leaning)[0]
    said = findings.advice(findings.together(better, leaning.assign(control="matched")))
    assert "ahead in 0 of 1 comparisons" in said[1] and "growing one was seen" in said[2]
    grows = findings.together(better, better.assign(control="matched"))
    assert "let the codebook grow" in findings.advice(grows)[-1]


def test_the_box_holds_every_number_and_escapes_names(pattern):
    rows = findings.images(study(pattern, lambda s: 0.6 + 0.01 * s)).assign(set="<b>")
    box = findings.answer(rows)
    assert f"{rows['ratio'].iloc[0]:.2f}" in box and rows["interval"].iloc[0] in box
    assert "&lt;b&gt;" in box and "<b>, 600" not in box


def test_what_would_have_been_seen_stands_beside_what_was_not(pattern):
    clear = findings.images(study(pattern, lambda s: 0.6 + 0.01 * s))
    even = findings.images(study(pattern, lambda s: 0.5 if s % 2 else 2.0, n=1200))
    few = findings.images(study(pattern, lambda s: 0.6, seeds=2, n=2400))
    (seen,) = even["detectable"]
    for table, mark in ((clear, ""), (even, f" [{seen:.2f}]"), (few, "")):
        assert findings.unseen(table.iloc[0]) == mark
    rows = findings.together(clear, even, few)
    for words in (findings.answer(rows), findings.markdown(rows)):
        assert words.count(f" [{seen:.2f}]") == 1


def test_a_regime_that_memorised_is_marked_wherever_it_is_shown(pattern):
    rows = findings.images(study(pattern, lambda s: 0.6 + 0.01 * s))
    for memorised in (True, False):
        marked = rows.assign(memorises=memorised)
        assert ("<br><i>memorised</i>" in findings.answer(marked)) == memorised
        assert (", *memorised* |" in findings.markdown(marked)) == memorised


def test_the_explorer_offers_every_comparison_once(pattern):
    made = rates.explorer(curve(pattern) + study(pattern, lambda s: 0.6, seeds=4)[1::2])
    keys = [(r["regime"], r["control"], r["method"], r["measure"]) for r in made["rows"]]
    assert len(set(keys)) == len(keys) == len(findings.MEASURES)
    (regime,) = made["rates"]
    assert {arm for arm, *_ in made["rates"][regime]["gFD"]} == {
        "uniform", "uniform-4", "uniform-16", "loglinear"
    }  # fmt: skip


def test_each_set_has_the_rates_of_its_own(pattern):
    found = curve(pattern) + study(pattern, lambda s: 0.6, seeds=4)[1::2]
    other = [r | {"study": "other", "config": r["config"] | {"dataset": "mnist"}}
             for r in found if r["arm"] in ("uniform", "loglinear")]  # fmt: skip
    made = rates.explorer(found + other)["rates"]
    arms = {regime: {arm for arm, *_ in by["gFD"]} for regime, by in made.items()}
    assert len(arms) == 2 and {"uniform", "loglinear"} in arms.values()


def test_a_measure_that_was_not_taken_has_no_row(pattern):
    found = study(pattern, lambda s: 0.7 + 0.05 * s)
    for name in findings.CHOSEN:  # the smoke study has sweeps
        assert findings.has(found[0], name) and len(findings.images(found, name)) == 1
    del found[0]["measures"]["tuned"]
    swept = [name for name in findings.CHOSEN if "snapshot" not in name]
    assert [findings.has(found[0], name) for name in swept] == [False, False]
    assert all(findings.images(found, name).empty for name in swept)
    assert len(findings.images(found)) == 1
    assert "temperature" not in str(rates.explorer(found)["rates"].keys())


def test_what_is_said_names_every_interval_without_one(pattern):
    clear = findings.images(study(pattern, lambda s: 0.6 + 0.01 * s))
    even = findings.images(study(pattern, lambda s: 0.5 if s % 2 else 2.0, n=1200))
    few = findings.images(study(pattern, lambda s: 0.6, seeds=2, n=2400))
    words = findings.said(findings.together(clear, even, few), "uniform")
    assert findings.effect(clear.iloc[0]) in words and findings.regime(clear.iloc[0]) in words
    assert "not told apart in 1 of 3 regimes" in words and "too few seeds in 1" in words
    assert findings.said(clear, "matched") == "not measured"
    assert 'class="not-testable-here"' in findings.answer(few)  # no colour of a gain


def test_where_the_error_arises_is_read_from_the_curves(pattern):
    forced = {"0": 1.0, "1": 0.9, "2": 0.5, "4": 0.3, "8": 0.1}
    told = {"accuracy": {str(m): 0.5 + (0.01 if m <= 2 else 0.05) * m for m in range(1, 9)}}
    r = record(pattern, "uniform", 0, 1.0, forced_prefix=forced, two_sample=told)
    assert findings.steepest(r) == 2  # 0.4 a position, against 0.1 on both sides
    assert findings.told_late(r, 2) == pytest.approx(0.9 - 0.52 - 0.02)


def test_ten_claims_one_row_each_in_order():
    evidence = claims.Evidence(["smoke"])
    rows = claims.rows(evidence, None, texts=("shakespeare", "kjv", "handbook-en"))
    assert [row.claim for row in rows] == [f"C{i}" for i in range(1, 11)]
    assert all(row.verdict in scorecard.VERDICTS for row in rows)
    exact = {row.claim: row.verdict for row in rows if row.rung == "exact"}
    assert exact == dict.fromkeys(("C1", "C4", "C5"), "reproduced")
    table = claims.table([replace(rows[0], ours="a < b\nc"), *rows[1:]])
    assert "a &lt; b<br>c" in table  # two lines of one row
    table = claims.table(rows)
    assert len(re.findall("<tr>", table)) == 11 and rows[0].ours in table
    assert rows[0].ours not in claims.table(rows, full=False)


def test_a_regime_that_counts_as_not_run_decides_no_row(pattern):
    evidence = claims.Evidence(["smoke"])
    clear = findings.images(study(pattern, lambda s: 0.6 + 0.01 * s))
    behind = findings.images(study(pattern, lambda s: 1.6 + 0.01 * s, n=1200))
    few = findings.images(study(pattern, lambda s: 1.6, seeds=2, n=2400))
    below = clear.assign(verdict=scorecard.UNTESTABLE)

    def verdict(*tables):
        evidence.judged = findings.together(*tables)
        return claims.ratios("C6", evidence, None, ["uniform"]).verdict

    assert verdict(clear, few, below) == "reproduced"
    assert verdict(clear, behind, few) == "contradicted"
    assert verdict(below) == "not testable here" and verdict(few) == few["verdict"].item()


def test_the_worksheet_tells_few_seeds_from_a_floor(pattern):
    few = findings.images(study(pattern, lambda s: 0.6, seeds=2))
    found = study(pattern, lambda s: 0.6 + 0.01 * s)
    found[3]["measures"]["unigram"] = [0.0] * 8
    below = findings.images(found)
    assert few["floors"].tolist() == [True] and below["floors"].tolist() == [False]
    assert worksheet.reason(few.iloc[0]) == "step 1: 2 seeds are too few"
    assert worksheet.reason(below.iloc[0]) == "step 1: a run misses a pass mark"
    assert "<td>yes</td>" in worksheet._sheet(few, [], False)
    assert "<td>no</td>" in worksheet._sheet(below, [], False)


def test_unequal_arms_are_seen():
    evidence = claims.Evidence(["smoke"])
    evidence.found[0]["measures"]["parameters"]["ar"] += 1
    assert claims.c5(evidence).verdict == "contradicted"
    assert claims.c4([2, 4, 3], 8).verdict == "contradicted"


def test_the_readme_answers_as_the_records_do(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book"))
    from readme_answer import answered

    readme = (ROOT / "README.md").read_text("utf-8")
    assert answered(readme) == readme, "run book/readme_answer.py"
    with pytest.raises(ValueError, match="README"):
        answered("no marks")
