"""Work is not lost: damaged checkpoints, two runs in one folder, kills. One line a case."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import vcqlib
from vcqlib import files
from vcqlib.data.image_sets import to_float
from vcqlib.files import held, write_record
from vcqlib.models.autoregressive import ARConfig, ARModel
from vcqlib.models.tokenizer import Tokenizer, TokenizerConfig
from vcqlib.study.folder import run_folder
from vcqlib.training import autoregressive, inference
from vcqlib.training.autoregressive import train_ar
from vcqlib.training.checkpoints import Checkpoints
from vcqlib.training.losses import ImageLosses
from vcqlib.training.recipe import Losses, Recipe

# ------------------------------------------------------------ damaged checkpoints


def checkpoints(folder: Path, value: float = 0.0, keep: int = 2) -> Checkpoints:
    model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(model.weight, value)
    return Checkpoints(folder, {"model": model}, {"about": "a test"}, keep=keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


DAMAGE = {
    "cut short": lambda p: p.write_bytes(p.read_bytes()[:-20]),
    "empty": lambda p: p.write_bytes(b""),
    "a flipped byte": lambda p: p.write_bytes(p.read_bytes()[:-1] + b"?"),
    "text": lambda p: p.write_text("hello"),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "sealed by nobody": lambda p: _unsealed(p),
    "a link to nothing": lambda p: (p.unlink(), p.symlink_to(p.with_name("nothing"))),
}


def _unsealed(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"model.weight": torch.zeros(1, 1)}, path, {"step": "30"})


@pytest.mark.parametrize("case", DAMAGE)
def test_the_newest_that_cannot_be_read_is_set_aside_and_outranks_nothing(case, tmp_path) -> None:
    for step in (10, 20, 30):
        checkpoints(tmp_path, step, keep=3).save(step)
    newest = tmp_path / "step-00000030.safetensors"
    DAMAGE[case](newest)
    run = checkpoints(tmp_path)
    said = rf"{newest.name} is not readable .*set aside as {newest.name}.damaged, .* step 20"
    with pytest.warns(UserWarning, match=said):
        assert run.resume() == 20
    assert run.parts["model"].weight.item() == 20
    assert run.state() == "the checkpoint of step 20 is kept"
    for step in (22, 24):  # both lie below 30
        run.save(step)
        assert (tmp_path / f"step-{step:08d}.safetensors").exists()
        assert run.state() == f"the checkpoint of step {step} is kept"
    kept = ["step-00000022.safetensors", "step-00000024.safetensors", f"{newest.name}.damaged"]
    assert names(tmp_path) == kept
    assert checkpoints(tmp_path).resume() == 24


def test_what_a_killed_process_had_half_written_goes(tmp_path) -> None:
    checkpoints(tmp_path).save(10)
    (tmp_path / ".step-00000020.safetensors.x1y2.safetensors").write_bytes(b"half")
    assert checkpoints(tmp_path).resume() == 10
    assert names(tmp_path) == ["step-00000010.safetensors"]


def test_an_older_one_that_is_a_folder_ends_no_run(tmp_path) -> None:
    run = checkpoints(tmp_path)
    for step in (1, 2, 3, 4):
        run.save(step)
        if step == 1:
            DAMAGE["a folder"](tmp_path / "step-00000001.safetensors")
    assert names(tmp_path) == [f"step-0000000{step}.safetensors" for step in (1, 3, 4)]


def test_order_is_by_step_whatever_the_length_of_the_number(tmp_path) -> None:
    run = checkpoints(tmp_path)
    for step in (99_999_998, 99_999_999, 100_000_000):
        run.save(step)
    assert names(tmp_path) == ["step-100000000.safetensors", "step-99999999.safetensors"]
    assert checkpoints(tmp_path).resume() == 100_000_000


def test_files_of_others_are_left_alone(tmp_path) -> None:
    others = ["step-best.safetensors", "step-.safetensors", "step-3.txt", ".step-00000009.x"]
    for name in others:
        (tmp_path / name).write_text("mine")
    run = checkpoints(tmp_path, keep=1)
    assert run.resume() == 0
    run.save(1)
    run.save(2)
    assert names(tmp_path) == sorted([*others, "step-00000002.safetensors"])


# ------------------------------------------------------------ one folder, one run

HOLD = """
import sys, time
from vcqlib.files import held
with held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path / "run"."""
    root = str(Path(vcqlib.__file__).parents[1])
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], cwd=root,
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def train(folder: Path) -> ARModel:
    torch.manual_seed(0)
    model = ARModel(ARConfig((2, 4), 4, 2, width=8, layers=1, heads=1))
    rows = torch.stack([torch.arange(20) % 2, torch.arange(20) % 4], 1)
    recipe = Recipe(4, 5, 1e-2, log_every=1, checkpoint_minutes=0)
    return train_ar(model, rows, rows[:, 0], recipe, folder)


def test_a_second_run_is_refused_in_one_line_and_touches_nothing(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    log = tmp_path / "run" / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n')
    found = names(tmp_path / "run")
    with pytest.raises(ValueError, match=f"run is in use by process {holder.pid} on .* since 20"):
        train(tmp_path / "run")
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert names(tmp_path / "run") == found == ["log.jsonl", "run.lock"]
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(ValueError, match=f"link is in use by process {holder.pid} on"):
        train(tmp_path / "link")  # nor is the holder's name forgotten


def test_a_run_beside_one_that_has_just_begun_writes_and_removes_nothing(
    tmp_path, holder, monkeypatch
):
    """The first one holds the folder before its config.json is there."""
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    folder, cpu = tmp_path / "run", torch.device("cpu")
    for there in ([], ["config.json"]):
        for name in there:
            write_record(folder / name, {"kind": "ARModel"})
        refused = pytest.raises(ValueError, match=f"in use by process {holder.pid}")
        with refused, run_folder(folder, ARModel, {}, cpu):
            raise AssertionError("two runs in one folder")
        assert names(folder) == [*there, "run.lock"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_holder_blocks_nobody(tmp_path, holder, end):
    holder.send_signal(end)
    holder.wait()
    assert (tmp_path / "run" / "run.lock").exists()  # it could not tidy up
    train(tmp_path / "run")
    assert "run.lock" not in names(tmp_path / "run")


def test_the_lock_goes_with_the_run_whether_it_ends_well_or_not(tmp_path, monkeypatch):
    train(tmp_path)
    lines = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").open()]
    assert lines == [1, 2, 3, 4]
    with monkeypatch.context() as m, pytest.raises(FloatingPointError):
        m.setattr(ARModel, "loss", lambda self, c, y: self.head.weight.sum() * torch.nan)
        train(tmp_path / "bad")
    assert "run.lock" not in [*names(tmp_path), *names(tmp_path / "bad")]
    train(tmp_path / "bad")


def test_a_thread_may_hold_it_twice_another_one_may_not(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    said: list[str] = []

    def second() -> None:
        try:
            with held(tmp_path):
                said.append("taken")
        except ValueError as error:
            said.append(str(error))

    with held(tmp_path):
        with held(tmp_path):
            pass
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert re.search("is in use by process", said[0])
    second()
    assert said[1] == "taken" and names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        train(tmp_path / "file" / "run")


# ------------------------------------------------------------ state given back after an error

SIZES = (2, 4, 8)


def tokenizer() -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(TokenizerConfig(SIZES, 8, 8, 1, 4, width=8, depth=1, balance=True))


def ar() -> ARModel:
    torch.manual_seed(0)
    return ARModel(ARConfig(SIZES, 8, 2, width=8, layers=1, heads=1))


ROWS = torch.tensor([[1, 3, 7], [0, 0, 0]])
PIXELS = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
DOORS = {  # model, and a call that reaches the module which breaks
    "quantizer": (tokenizer, lambda m: m.quantizer.encode(torch.randn(2, 3, 4)), "quantizer.norm"),
    "tokenizer.encode": (tokenizer, lambda m: m.encode(to_float(PIXELS)), "quantizer.norm"),
    "encode": (tokenizer, lambda m: list(inference.encode(m, PIXELS)), "encoder"),
    "decode": (tokenizer, lambda m: inference.decode(m, ROWS), "decoder"),
    "error": (tokenizer, lambda m: inference.reconstruction_error(m, PIXELS), "decoder"),
    "bits": (ar, lambda m: inference.position_bits(m, ROWS, ROWS[:, 0]), "norm"),
    "generate": (ar, lambda m: m.generate(ROWS[:, 0]), "norm"),
}


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("door", DOORS)
def test_every_part_is_given_back_in_its_own_mode(door: str, fails: bool) -> None:
    make, call, name = DOORS[door]
    model = make().train()
    next(model.children()).eval()  # a part that its user has frozen
    modes = [part.training for part in model.modules()]
    precision = torch.backends.cuda.matmul.fp32_precision

    def broken(*_):
        raise RuntimeError("out of memory")

    if fails:
        model.get_submodule(name).register_forward_hook(broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            call(model)
    else:
        call(model)
    assert [part.training for part in model.modules()] == modes
    assert torch.backends.cuda.matmul.fp32_precision == precision


def test_a_critic_that_fails_is_not_left_frozen() -> None:
    losses = ImageLosses(Losses(adversarial=0.1, critic_width=4), 1, 8)
    with pytest.raises(RuntimeError):
        losses(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))
    assert all(weight.requires_grad for weight in losses.critic.parameters())


def test_an_evaluation_that_fails_leaves_the_weights_as_they_were_trained(tmp_path) -> None:
    seen: list[torch.Tensor] = []
    model, rows = ar(), ROWS.repeat(5, 1)

    def evaluate(model: ARModel, step: int) -> None:
        seen.append(model.head.weight.detach().clone())
        raise RuntimeError("a careless evaluation")

    with pytest.raises(RuntimeError, match="careless"):
        train_ar(model, rows, rows[:, 0], Recipe(4, 5, 1e-2, ema=0.5), None, (2,), evaluate)
    assert model.training and not torch.equal(seen[0], model.head.weight)
    plain = ar()
    with pytest.raises(RuntimeError, match="careless"):
        train_ar(plain, rows, rows[:, 0], Recipe(4, 5, 1e-2), None, (2,), evaluate)
    assert torch.equal(plain.head.weight, model.head.weight)


def test_the_log_holds_json_and_says_what_was_not_finite(tmp_path, monkeypatch) -> None:
    """NaN is no JSON, and a run whose measurement is NaN has gone wrong."""
    monkeypatch.setattr(
        autoregressive, "position_bits", lambda *_, **__: torch.tensor([0.5, torch.nan])
    )
    rows, recipe = ROWS.repeat(5, 1), Recipe(2, 5, 1e-2, validate_every=1)
    with pytest.raises(FloatingPointError, match=r"held_out_bits is \[0.5, nan\] at step 1; no ch"):
        train_ar(ar(), rows, rows[:, 0], recipe, tmp_path, held_out=(rows, rows[:, 0]))
