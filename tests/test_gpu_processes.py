"""Several processes: the large profiles in small, and a stop on a slow disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_distributed import last_line, torchrun, weights

import vcqlib
from vcqlib.cli.app import main
from vcqlib.training import distributed
from vcqlib.training.checkpoints import Checkpoints

ROOT = Path(vcqlib.__file__).parents[1]
PROFILES = ROOT / "book" / "profiles"
SCRIPT = """
import sys
from vcqlib.cli.app import main
from vcqlib.training.distributed import processes
with processes("cpu"):
    for line in open(sys.argv[1]):
        if main(line.split()):
            sys.exit(1)
"""
SMALL = "--device cpu --config {}/{}.yaml"
IMAGES = "--dataset synthetic:32x3 --n-images 64 --image-size 32 --workers 0 --held-out 8"


def lines(profile, compiled):
    """A profile's commands, two steps of each, with models that a test can train."""
    common, flag = SMALL.format(PROFILES, profile), "" if compiled else "no-"
    words = "steps 2", "batch 8", "warmup 1", "log-every 1", "validate-every 2"
    tokenizer, ar = (
        " ".join([f"--{flag}{kind}-compile", *(f"--{kind}-{word}" for word in words)])
        for kind in ("tokenizer", "ar")
    )
    tokenizer += " --tokenizer-ema 0.5"
    extra = "--ar-shard --ar-precision bf16" if compiled else "--ar-recompute"
    return [
        f"train tokenizer {common} {IMAGES} --tokenizer vit-tiny --length 8 --k-max 16 "
        f"--perceptual 0 {tokenizer} --out tok",
        f"encode {common} --tokenizer-folder tok --out codes --batch 16 --workers 0 "
        "--dataset synthetic:32x3",
        f"train ar {common} --codes-folder codes --held-out-folder codes --tokenizer-folder tok "
        f"--ar nano {ar} {extra} --ar-sample-every 2 --out ar",
        f"sample {common} --ar-folder ar --tokenizer-folder tok --n-samples 6 --batch 4 "
        "--out samples.npz",
    ]  # fmt: skip


@pytest.mark.parametrize("profile", ["gpu", "paper"])
@pytest.mark.parametrize("compiled", [False, True])
def test_two_steps_of_a_large_profile_on_two_processes(profile, compiled, tmp_path, monkeypatch):
    if compiled and not shutil.which("g++"):
        pytest.skip("no compiler")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "lines").write_text("\n".join(lines(profile, compiled)))
    done = torchrun("script.py", "lines")
    assert done.returncode == 0, done.stderr[-3000:]
    assert last_line(tmp_path / "tok")["step"] == last_line(tmp_path / "ar")["step"] == 2
    assert all(w.isfinite().all() for w in weights(tmp_path / "ar").values())
    assert (tmp_path / "samples.npz").is_file()


SLOW = """
import sys, time
from vcqlib.cli.app import main
from vcqlib.training import checkpoints
save = checkpoints.save_tensors
def slow(*arguments):
    time.sleep(float(sys.argv[1]))
    save(*arguments)
checkpoints.save_tensors = slow
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def codes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for line in ("train tokenizer --dataset synthetic:8x1 --n-images 32 --tokenizer mlp-tiny "
                 "--length 4 --k-max 8 --held-out 0 --tokenizer-steps 1 --tokenizer-batch 8 "
                 "--out tok --device cpu",
                 "encode --tokenizer-folder tok --out codes --device cpu"):  # fmt: skip
        assert main(line.split()) == 0


@pytest.mark.parametrize(("seconds", "patience"), [(3, 120), (60, 1)])
def test_a_stop_on_a_slow_disk_keeps_the_step_if_torchrun_waits(seconds, patience, tmp_path, codes):
    """By itself torchrun waits 30 seconds, then kills: `--shutdown-timeout` gives the time."""
    (tmp_path / "slow.py").write_text(SLOW)
    train = ("train ar --codes-folder codes --ar nano --ar-steps 1000000 --ar-batch 8 --device cpu "
             "--ar-log-every 1 --ar-checkpoint-minutes 1000 --out ar")  # fmt: skip
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    run = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "--shutdown-timeout", str(patience), "slow.py", str(seconds), *train.split()],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log, end = tmp_path / "ar" / "log.jsonl", time.monotonic() + 300
    while not (log.exists() and log.read_text().count("\n") > 2) and time.monotonic() < end:
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.2)
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=300)[1]
    found = sorted(p.name for p in (tmp_path / "ar").glob("step-*.safetensors"))
    if patience < seconds:
        assert found == []
        return
    step = json.loads(log.read_text().splitlines()[-1])["step"]
    name = f"step-{step:08d}"
    assert found == [f"{name}.part1.safetensors", f"{name}.safetensors"], said[-2000:]
    assert main([*train.replace("1000000", str(step + 1)).split()]) == 2  # another number of steps
    tensors, header = Checkpoints(tmp_path / "ar", {}, {})._read(
        tmp_path / "ar" / f"{name}.safetensors"
    )
    assert header["step"] == str(step) and any(k.startswith("optimiser") for k in tensors)


def share(folder, rank, monkeypatch, value=1.0):
    """The checkpoints of one of two processes that hold the same model."""
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "barrier", lambda: None)
    model = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(model.weight, value)
    torch.nn.init.constant_(model.bias, value)
    return Checkpoints(folder, {"model": model}, {"about": "a test"}, keep=1)


def test_each_process_writes_its_share_and_one_reads_them_all(tmp_path, monkeypatch):
    for step in (5, 9):
        with monkeypatch.context() as m:
            share(tmp_path, 1, m, step).save(step)
            assert not (tmp_path / f"step-{step:08d}.safetensors").exists()  # not yet
        with monkeypatch.context() as m:
            share(tmp_path, 0, m, step).save(step)
    names = ["step-00000009.part1.safetensors", "step-00000009.safetensors"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    model = torch.nn.Linear(3, 2)
    run = Checkpoints(tmp_path, {"model": model}, {"about": "a test"})
    assert run.resume() == 9
    assert (model.weight == 9).all() and (model.bias == 9).all()
    (tmp_path / names[0]).write_bytes(b"half")
    with pytest.warns(UserWarning, match="step-00000009.safetensors is not readable"):
        assert Checkpoints(tmp_path, {"model": model}, {"about": "a test"}).resume() == 0


def test_the_slurm_script_is_one_that_bash_and_torchrun_read():
    script = PROFILES / "paper.slurm"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert "--requeue" in text and "scontrol requeue" in text
    grace = int(text.split("--signal=B:TERM@")[1].split()[0])
    wait = int(text.split("--shutdown-timeout ")[1].split()[0])
    assert 30 < wait < grace  # torchrun's own patience, which is too short, and Slurm's
