"""Arguments of every kind: an error of ours or a right result, never a traceback or a hang."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import math
import operator
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import torch
from hypothesis import strategies as st

from runner.chapters import Book
from torture.jobs import ROOT
from torture.tally import OURS, Hang, Tally, no_hang, unclear
from vcqlib import VariableCodebookQuantizer, cliff_position, conditional_entropy
from vcqlib.chapters.parameters import known
from vcqlib.cli import app as cli

CHECKS = ("parameters.experiment", "parameters.check")
WORDS = ("uniform", "loglinear", "doubling", "matched", "reversed", "digits", "mlp", "nano", "cpu",
         "synthetic:8x1", "folder:/", "folder:", "kjv", "", "a\nb", "é" * 300)  # fmt: skip
LIMITS = {name: getattr(operator, name) for name in ("ge", "gt", "le", "lt")}
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 40), st.integers(), st.floats(),
    st.sampled_from(WORDS), st.text(max_size=8), st.just(10**400), st.just(-(2**63)),
    st.lists(st.one_of(st.integers(-2, 40), st.sampled_from(WORDS), st.floats()), max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def run(tally: Tally, count: int, seed: int, folder: Path) -> None:
    """`count` examples of each kind; of the chapters' parameters, for each chapter."""
    for name, check, parts in chapters():
        _fuzz(tally, f"parameters of {name}", check, parts, count, seed)
    _fuzz(tally, "entropy engine", check_entropy, {"codes": matrices()}, 2 * count, seed)
    _fuzz(tally, "quantizer", check_quantizer, quantizers(), 2 * count, seed)
    line = {"words": st.lists(ARGUMENTS, max_size=6), "codes": matrices()}
    _fuzz(tally, "vcq entropy", lambda **values: check_cli(folder, **values), line, count, seed)
    line = {"command": st.sampled_from(sorted(FILES)), "words": st.lists(ARGUMENTS, max_size=5),
            "content": CONTENTS}  # fmt: skip
    with contextlib.chdir(folder):  # no run is there, so that nothing can be trained or drawn
        check = lambda **values: check_command(folder, **values)  # noqa: E731
        _fuzz(tally, "vcq, other commands", check, line, count, seed)


def _fuzz(
    tally: Tally, what: str, check: Callable[..., str], parts: dict[str, Any], count: int, seed: int
) -> None:  # fmt: skip
    counted: Counter[str] = Counter()

    def example(**values: Any) -> None:
        counted[what] += 1
        with no_hang():
            problem = check(**values)
        assert not problem, problem

    settings = hypothesis.settings(
        max_examples=count, database=None, deadline=None, print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck), derandomize=False,
    )  # fmt: skip
    try:
        hypothesis.seed(seed)(settings(hypothesis.given(**parts)(example)))()
    except (Exception, Hang) as error:
        notes = " ".join(getattr(error, "__notes__", []))
        tally.count(what, " ".join(f"{type(error).__name__}: {error} {notes}".split())[:700])
    tally.tried[what] = counted[what]


# ------------------------------------------------------------------------ parameters


def chapters() -> Iterator[tuple[str, Callable[..., str], dict[str, Any]]]:
    """Name, check and changed parameters of each chapter."""
    for chapter in Book(ROOT / "book").chapters():
        declared = chapter.declared()
        changes = st.dictionaries(st.sampled_from(sorted(declared)), VALUES, min_size=1, max_size=3)
        head = compile(validation(chapter.read()), chapter.name, "exec")
        check = _parameter_check(head, declared)
        yield chapter.name, check, {"changes": changes}


def validation(notebook: Any) -> ast.Module:
    """The statements after the parameters cell, up to and with the one that checks them.

    Before it there may be nothing but imports: no data and no model is touched.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tagged = ["parameters" in cell.metadata.get("tags", []) for cell in cells].index(True)
    kept: list[ast.stmt] = []
    for statement in ast.parse(cells[tagged + 1].source).body:
        kept.append(statement)
        if any(check in ast.unparse(statement) for check in CHECKS):
            return ast.Module(kept, [])
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            break
    raise ValueError(f"{ast.unparse(kept[-1])!r} comes before the check of the parameters")


def _parameter_check(head: types.CodeType, declared: dict[str, Any]) -> Callable[..., str]:
    def check(changes: dict[str, Any]) -> str:
        values = declared | changes
        try:
            exec(head, space := dict(values))
        except OURS as error:
            problem = unclear(str(error))
            named = [*changes, "K_", "schedule", *map(repr, changes.values())]
            return problem or ("" if any(n in str(error) for n in named) else f"unnamed: {error}")
        wrong = [name for name, value in values.items() if not _within(name, value)]
        if wrong:
            return f"{wrong[0]} = {values[wrong[0]]!r} was taken"
        sizes = getattr(space.get("base"), "sizes", None)
        if sizes is None:
            return ""
        if len(sizes) != values["length"] or not all(2 <= k <= values["k_max"] for k in sizes):
            return f"sizes {sizes[:5]} do not fit"
        if len(sizes) > 4000:
            return ""
        n, t = values["n_images"], cliff_position(values["n_images"], sizes)
        right = math.prod(sizes) < n if t is None else math.prod(sizes[:t]) >= n
        return "" if right else f"cliff {t} of {n} images"

    return check


def _within(name: str, value: Any) -> bool:
    """Whether a number lies within the limits that stand beside the parameter."""
    limits = [m for m in known()[name].info.metadata if type(m).__name__.lower() in LIMITS]
    if limits and value is not None and type(value) not in (int, float):
        return False
    names = [type(m).__name__.lower() for m in limits]
    pairs = zip(names, limits, strict=True)
    return value is None or all(LIMITS[n](value, getattr(m, n)) for n, m in pairs)


# -------------------------------------------------------------------- entropy engine

KINDS = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8", "?", "O", "c8", ">i4", "U2")
EXTREMES = (0, 1, 255, 2**31, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**63))


@st.composite
def matrices(draw: st.DrawFn) -> Any:
    """Matrices of every type, size and stride, and what is none."""
    shape = draw(st.sampled_from([(0,), (3,), (0, 3), (3, 0), (2, 2, 2), ()]) | st.tuples(
        st.integers(1, 9), st.integers(1, 5)))  # fmt: skip
    kind = draw(st.sampled_from(KINDS))
    values = st.integers(0, 2) if draw(st.booleans()) else st.sampled_from(EXTREMES)
    flat = draw(st.lists(values, min_size=math.prod(shape), max_size=math.prod(shape)))
    if kind in ("f4", "f8") and flat and draw(st.booleans()):
        flat[0] = draw(st.sampled_from([math.nan, math.inf, 0.5]))
    try:
        array = np.array(flat, dtype="O").astype(kind).reshape(shape)
    except (OverflowError, ValueError, TypeError):
        array = np.array([x % 3 if isinstance(x, int) else 0 for x in flat]).reshape(shape)
    way = draw(st.sampled_from(["as is", "fortran", "reversed", "every second", "torch", "list"]))
    if way == "fortran":
        return np.asfortranarray(array)
    if way == "reversed" and array.ndim:
        return array[::-1]
    if way == "every second" and array.ndim == 2:
        return np.repeat(np.repeat(array, 2, axis=0), 2, axis=1)[::2, ::2]
    if way == "torch" and array.dtype.kind in "uif" and array.dtype.isnative:
        return torch.from_numpy(np.ascontiguousarray(array)).reshape(array.shape)
    return array.tolist() if way == "list" else array


def _oracle(codes: Any) -> tuple[list[float], list[int]]:
    """Joint entropies in bits and distinct prefixes, counted with a dictionary."""
    rows = [tuple(map(int, row)) for row in (codes.tolist() if hasattr(codes, "tolist") else codes)]
    joint, distinct = [], []
    for t in range(1, len(rows[0]) + 1):
        counts = Counter(row[:t] for row in rows).values()
        joint.append(sum(c / len(rows) * math.log2(len(rows) / c) for c in counts))
        distinct.append(len(counts))
    return joint, distinct


def check_entropy(codes: Any) -> str:
    try:
        result = conditional_entropy(codes)
    except OURS as error:
        problem = unclear(str(error))
        return problem or ("refused, and right" if _is_fine(codes) else "")
    if not _is_fine(codes):
        return "measured what is no matrix of whole numbers from 0"
    joint, distinct = _oracle(codes)
    if not np.allclose(np.cumsum(result.bits), joint, atol=1e-9):
        return f"bits {result.bits} where {np.diff(joint, prepend=0)} are right"
    return "" if result.distinct_prefixes.tolist() == distinct else "wrong distinct prefixes"


def _is_fine(codes: Any) -> bool:
    array = codes.numpy() if isinstance(codes, torch.Tensor) else np.asarray(codes)
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "iu":
        return False
    return int(array.min()) >= 0 and int(array.max()) < 2**63


# ------------------------------------------------------------------------- quantizer


def quantizers() -> dict[str, Any]:
    size = st.one_of(st.integers(2, 9), st.integers(-2, 3), st.just(2**40), st.just(2.5),
                     st.just(math.nan), st.none(), st.just("4"))  # fmt: skip
    fine = st.lists(st.integers(2, 9), min_size=1, max_size=3)
    number = st.one_of(
        st.floats(-3, 3), st.sampled_from([math.nan, math.inf, -math.inf, 1e38, 0.0])
    )
    return {
        "sizes": st.one_of(fine, fine, st.lists(size, max_size=3)),
        "dim": st.one_of(st.integers(1, 4), st.integers(1, 4), st.sampled_from([0, -1, 2.5, None])),
        "rows": st.one_of(st.none(), st.none(), st.integers(1, 12), st.sampled_from([2**50, 9.5])),
        "options": st.fixed_dictionaries(
            {"distance": st.sampled_from(["cosine", "euclidean", "cosine", "manhattan"]),
             "balance": st.booleans()}),
        "images": st.integers(0, 4),
        "dtype": st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16,
                                  torch.int64]),
        "values": st.lists(number, min_size=1, max_size=12),
        "training": st.booleans(),
    }  # fmt: skip


def check_quantizer(
    sizes: list, dim: Any, rows: Any, options: dict, images: int, dtype: torch.dtype, values: list,
    training: bool,
) -> str:  # fmt: skip
    try:
        model = VariableCodebookQuantizer(sizes, dim, rows, **options)
    except OURS as error:
        return unclear(str(error))
    if not all(type(k) is int and k >= 2 for k in sizes) or type(dim) is not int:
        return f"{sizes}, {dim} were taken"
    model.train(training)
    count = images * len(sizes) * dim
    flat = torch.tensor((values * (count // len(values) + 1))[:count], dtype=torch.float64)
    z = flat.nan_to_num(0, 0, 0) if dtype == torch.int64 else flat
    z = z.to(dtype).reshape(images, len(sizes), dim)
    finite = bool(torch.isfinite(z.float()).all())
    try:
        result = model(z)
    except OURS as error:
        return unclear(str(error)) or (f"refused: {error}" if _usual(z, finite, model) else "")
    if not finite:
        flagged = training and not torch.isfinite(result.loss)  # which ends the training
        return "" if flagged else "codes of numbers that are not finite"
    limits = torch.tensor(sizes)
    if (
        result.codes.shape != z.shape[:2]
        or not ((result.codes >= 0) & (result.codes < limits)).all()
    ):
        return f"codes {result.codes.tolist()} for sizes {sizes}"
    if images and not torch.allclose(
        model.decode(result.codes), result.quantized.float(), atol=1e-5
    ):
        return "the quantized vectors are not those of the codes"
    return ""


def _usual(z: torch.Tensor, finite: bool, model: Any) -> bool:
    return finite and len(z) > 1 and z.is_floating_point() and bool((z.abs() < 1e18).all())


# ------------------------------------------------------------------------------- vcq

ARGUMENTS = st.one_of(
    st.sampled_from(["entropy", "entropy", "entropy", "TOKENS", "TOKENS", "--labels", "--sizes",
                     "--epsilon", "--json", "OUT", "--help", "-x", "--nonsense", "0", "-1", "nan",
                     "0.5", "1e400", "", "/", "/dev/null", "MISSING"]),
    st.text(max_size=5),
)  # fmt: skip


FILES = {"encode": "c.yaml", "sample": "c.yaml", "evaluate": "c.npz", "study": "c.yaml",
         "reproduce": "c.json", "train ar": "c.yaml"}  # fmt: skip
CONTENTS = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(str.encode),
    st.sampled_from([b"{}", b"[]", b"a: [", b"batch: many", b"steps: -1", b"about: x\nruns: 3",
                     b'{"format": 1}', b'{"format": 1, "config": {}, "measures": 3}', b"PK\x03\x04",
                     b"about: x\nbase: {}\narms: {a: {length: 0}}\ngroups: [{name: g, arms: [a]}]",
                     b"base: 3\ngroups: 4", b"groups: [1, 2]", b"!!python/name:os.system"]),
)  # fmt: skip


def check_command(folder: Path, command: str, words: list[str], content: bytes) -> str:
    """`vcq COMMAND` on a file of anything: one line and exit code 2, or the help."""
    file = folder / FILES[command]
    file.write_bytes(content)
    given = (
        [str(file)] if command in ("evaluate", "study", "reproduce") else ["--config", str(file)]
    )
    names = {"TOKENS": str(file), "OUT": str(folder / "out"), "MISSING": "no.npy"}
    line = [*command.split(), *given, *(names.get(word, word) for word in words)]
    status, said = _vcq(line)
    if status is None:
        return ""
    return unclear(said, "vcq") if status == 2 else f"exit code {status}: {line}"


def _vcq(line: list[str]) -> tuple[int | str | None, str]:
    """Exit code, None where the help or the parser ended it as they may, and what was said."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            return cli.main(line), said.getvalue()
    except SystemExit as end:
        fine = end.code in (0, 2, None) and "Traceback" not in said.getvalue()
        return None if fine else f"ended with {end.code}", said.getvalue()


def check_cli(folder: Path, words: list[str], codes: Any) -> str:
    """`vcq entropy WORDS`, where TOKENS is a file of `codes`."""
    place, out = folder / "tokens.npy", folder / "out.json"
    out.unlink(missing_ok=True)
    array = codes.numpy() if isinstance(codes, torch.Tensor) else np.asarray(codes)
    np.save(place, array, allow_pickle=True)
    names = {"TOKENS": str(place), "OUT": str(out), "MISSING": str(folder / "no.npy")}
    line = ["entropy", *(names.get(word, word) for word in words if word != "entropy")]
    status, said = _vcq(line)
    if status is None:
        return ""
    if status == 2:
        return unclear(said, "vcq")
    if out.exists() and _is_fine(array) and str(place) in line:
        total = json.loads(out.read_text())["total_bits"]
        return "" if abs(total - _oracle(array)[0][-1]) < 1e-9 else f"{total} bits"
    return "" if status == 0 else f"status {status}"
