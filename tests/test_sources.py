"""The key of a stage holds every line that can shape it, and no others'."""

from __future__ import annotations

import ast
import importlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from vcqlib.study import language, measures, sources
from vcqlib.study.configuration import Configuration
from vcqlib.study.experiment import Experiment

STAGES = {
    "tokenizer": Experiment.tokenizer_folder.func,
    "codes": Experiment._codes,
    "ar": Experiment.ar.func,
    "samples": Experiment.samples,
    "metrics": measures.metrics,
    "measures": measures.measure,
    "language": language.model_bits,
    "text": language.text_windows,
}
MODULES = sorted(
    ".".join(path.relative_to(sources.LIBRARY).with_suffix("").parts)
    for path in sources.LIBRARY.rglob("[!_]*.py")
)


def digests(library: Path) -> dict[str, dict[str, str]]:
    """What each stage depends on, read anew."""
    sources._digests.cache_clear()
    return {name: sources.digests(function, library) for name, function in STAGES.items()}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(sources.LIBRARY, tmp_path_factory.mktemp("copy") / "vcqlib")


def path_of(module: str, library: Path) -> Path:
    return library.joinpath(*module.split(".")).with_suffix(".py")


def changed(copy: Path, module: str, old: str, new: str) -> set[str]:
    """The stages whose key another word in a module changes."""
    before, path = digests(copy), path_of(module, copy)
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    try:
        after = digests(copy)
    finally:
        path.write_text(text, "utf-8")
    return {name for name in STAGES if before[name] != after[name]}


def test_each_module_in_turn_changes_the_stages_that_reach_it_and_no_others(copy: Path) -> None:
    before = digests(copy)
    assert before == digests(sources.LIBRARY)  # a key does not say where the clone lies
    for module in MODULES:
        path = path_of(module, copy)
        text = path.read_text("utf-8")
        path.write_text(text + "\nprint(0)\n", "utf-8")
        after = digests(copy)
        path.write_text(text, "utf-8")
        for stage, found in before.items():
            differ = {m for m in found | after[stage] if found.get(m) != after[stage].get(m)}
            assert differ == {module} & found.keys(), (module, stage)
    reached = set().union(*before.values())
    assert {"data.image_sets", "models.search", "training.run", "metrics.distances"} <= reached
    assert not any(m.startswith(("cli.", "chapters.", "study.scorecard")) for m in reached)


ALL_OF_IMAGES = {"tokenizer", "codes", "ar", "samples", "metrics", "measures"}
AFTER_AR = {"ar", "samples", "metrics", "measures"}


@pytest.mark.parametrize(
    ("module", "old", "new", "stages"),
    [
        # every image mirrored on its way into training
        ("data.batches", "(images[part.rows] for", "(images[part.rows].flip(-1) for",
         ALL_OF_IMAGES),
        # another seed in the builders of stages
        ("study.experiment", "train_tokenizer(self.c,",
         "train_tokenizer(self.c.changed(seed=self.c.seed + 7),", ALL_OF_IMAGES),
        ("study.experiment", "train_ar(self.c,",
         "train_ar(self.c.changed(seed=self.c.seed + 7),", AFTER_AR),
        ("study.language", "torch.manual_seed(seed)", "torch.manual_seed(seed + 7)", {"language"}),
        ("study.language", "length, seed)", "length, seed + 7)", {"text"}),
        ("training.recipe", "(self.final_lr + ", "(2 * self.final_lr + ",
         ALL_OF_IMAGES | {"language"}),
        ("training.losses", "F.mse_loss(images, target)", "2 * F.mse_loss(images, target)",
         ALL_OF_IMAGES),
        ("models.search", "import torch", "import numpy as torch", ALL_OF_IMAGES),
        ("models.autoregressive", "class ARModel(nn.Module, Saved):",
         "class ARModel(nn.Module, Saved):\n    new = 1\n", AFTER_AR | {"language"}),
        ("training.inference", "/ len(codes) / math.log(2)", "/ len(codes)",
         AFTER_AR | {"language"}),
        ("study.samples", "1_000_003", "1_000_033", {"samples", "metrics", "measures"}),
        ("study.scorecard", "MIN_SEEDS = 3", "MIN_SEEDS = 4", set()),
        ("study.stages", '"""From images to samples', '"""To samples', set()),
        ("study.cache", "[:16]", "[:17]", set()),
    ],
)  # fmt: skip
def test_a_change_reaches_the_stages_that_it_shapes(copy, module, old, new, stages) -> None:
    assert changed(copy, module, old, new) == stages


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[tuple[str, int]]]:
    """Stage -> (module, line) of every function of the library that runs when it is built."""
    for module in MODULES:
        importlib.import_module(f"vcqlib.{module}")
    c = Configuration.of({
        "dataset": "digits", "n_images": 100, "length": 3, "k_max": 8, "tokenizer": "mlp-tiny",
        "tokenizer_steps": 3, "tokenizer_ema": 0.5, "adversarial": 0.1, "critic_width": 4,
        "ar": "nano", "ar_steps": 3, "n_samples": 60, "device": "cpu", "schedule": "reversed",
    })  # fmt: skip
    e, rows = Experiment(c), np.random.default_rng(0).integers(0, 4, (40, 3))
    calls = {
        "tokenizer": lambda: e.tokenizer_folder,
        "codes": lambda: e._codes("test"),
        "ar": lambda: e.ar,
        "samples": lambda: e.samples(),
        "measures": lambda: measures.measure(e, sweeps=True),
        "language": lambda: language.model_bits(rows[:30], rows[30:], 4, "nano", 2, 8),
        "text": lambda: language.text_windows("shakespeare", "bpe:300", 8, max_chars=2000),
    }
    found: dict[str, set[tuple[str, int]]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VCQ_CACHE", str(tmp_path_factory.mktemp("cache")))
        for stage, call in calls.items():
            seen = found.setdefault(stage, set())

            def note(frame, event, _, seen=seen) -> None:
                if event == "call":
                    seen.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))

            sys.setprofile(note)
            try:
                call()
            finally:
                sys.setprofile(None)
    ours = str(sources.LIBRARY)
    return {
        stage: {(".".join(Path(file).relative_to(ours).with_suffix("").parts), line)
                for file, line in seen if file.startswith(ours)}
        for stage, seen in found.items()
    }  # fmt: skip


@pytest.mark.parametrize("stage", sorted(STAGES.keys() - {"metrics"}))
def test_whatever_runs_while_a_stage_is_built_is_in_its_key(stage: str, executed: dict) -> None:
    """The truth to which reading is held: the functions that Python really called."""
    function = STAGES[stage]
    names = function.__qualname__.split(".")
    start = sources.Place(function.__module__.partition(".")[2], *names)
    lines: dict[str, set[int]] = {}
    for place, nodes in sources.reach(start).items():
        for node in nodes:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            lines.setdefault(place.module, set()).update(range(first, node.end_lineno + 1))
    missed = {
        (module, line)
        for module, line in executed[stage]
        if module not in sources.MACHINERY and line not in lines.get(module, ())
    }
    assert len(executed[stage]) > 5
    assert missed == set()


def test_code_that_is_none_of_the_librarys_has_no_sources() -> None:
    assert sources.digests(test_code_that_is_none_of_the_librarys_has_no_sources) == {}
    assert isinstance(ast.parse(""), ast.Module)
