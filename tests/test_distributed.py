"""Two processes under torchrun train what one process trains."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

import vcqlib
from vcqlib.cli.app import main
from vcqlib.files import load_tensors, read_json
from vcqlib.training import distributed
from vcqlib.training.checkpoints import Checkpoints

SCRIPT = """
import sys
from test_distributed import Checkpoints, kept
from vcqlib.cli.app import main
from vcqlib.training.distributed import processes
Checkpoints.save = kept
with processes("cpu"):
    for line in open(sys.argv[1]):
        if main(line.split()):
            sys.exit(1)
"""
EQUAL = """
import torch
import torch.distributed as dist
from vcqlib.models.tokenizer import Tokenizer, TokenizerConfig
from vcqlib.training import tokenizer
from vcqlib.training.distributed import SharedBatchNorm, processes
from vcqlib.training.losses import ImageLosses
from vcqlib.training.recipe import Losses, Recipe

made = []

class Seen(ImageLosses):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        made.append(self)

tokenizer.ImageLosses = Seen
with processes("cpu"):
    rank = dist.get_rank()

    def same(tensors):
        for name, tensor in tensors.items():
            every = [torch.empty_like(tensor) for _ in range(2)]
            dist.all_gather(every, tensor.contiguous())
            assert torch.equal(*every), name

    for settings, shard in (({"codebook_ema": 0.9}, False), ({"balance": True}, False), ({}, True)):
        torch.manual_seed(rank)  # a careless script: each process draws its own
        features = torch.nn.ModuleList([torch.nn.Conv2d(3, 4, 3)])
        features.forward = lambda x: [features[0](x)]
        model = Tokenizer(TokenizerConfig((2, 4, 8), 8, 8, 1, 4, width=16, depth=1, **settings))
        images = torch.randint(256, (32, 1, 8, 8), generator=torch.Generator().manual_seed(0))
        losses = Losses(perceptual=0.1, adversarial=0.1, critic_width=4)
        recipe = Recipe(3, 8, 1e-3, shard=shard)
        tokenizer.train_tokenizer(
            model, images.byte(), recipe, features=features, losses=losses
        )
        same({k: getattr(v, "full_tensor", lambda v=v: v)() for k, v in model.state_dict().items()
              if "running" not in k and "counts" not in k})
        same(made[-1].state_dict())
    norm, x = SharedBatchNorm(3, affine=False), torch.randn(4, 3)
    from vcqlib.models.guards import steady
    y = steady(norm, x * (float("nan") if rank else 1))
    assert y.isnan().all() and norm.num_batches_tracked == 0 and (norm.running_var == 1).all()
    assert steady(norm, x).isfinite().all() and norm.num_batches_tracked == 1
"""


def small(kind):
    words = "steps 6", "batch 16", "log-every 1", "validate-every 3", "sample-every 6"
    return " ".join(["--device cpu", *(f"--{kind}-{word}" for word in words)])


TOKENIZER = (
    "train tokenizer --dataset synthetic:8x1 --n-images 64 --tokenizer mlp-tiny --length 4 "
    f"--k-max 8 --held-out 20 {small('tokenizer')}"
)
CRITIC = f"{TOKENIZER} --no-balance --adversarial 0.1 --adaptive --critic-width 4"
AR = (
    "train ar --codes-folder codes --held-out-folder codes --tokenizer-folder one --ar nano "
    f"--dropout 0 --label-dropout 0 --ar-ema 0.5 --ar-checkpoint-minutes 0 {small('ar')}"
)


def weights(folder):
    return load_tensors(folder / "weights.safetensors")[0]


def last_line(folder):
    return json.loads((folder / "log.jsonl").read_text().splitlines()[-1])


def kept(self, step, save=Checkpoints.save):
    """Save, and keep a copy of step 5 beside the folder: a finished run leaves no checkpoint."""
    save(self, step)
    if step == 5 and distributed.rank() == 0:
        beside = self.folder.with_name(f"{self.folder.name}-kept")
        shutil.copytree(self.folder, beside, ignore=lambda _, names: {
            name for name in names if "step-00000005" not in name})  # fmt: skip


def close(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-6, msg=name)


def torchrun(*arguments):
    """Two processes on this machine."""
    root = str(Path(vcqlib.__file__).parents[1])
    paths = [root, str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    return subprocess.run([*command, "2", *arguments], capture_output=True, text=True,
                          env=environment)  # fmt: skip


def test_two_processes_equal_one(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Checkpoints, "save", kept)
    for line in (f"{TOKENIZER} --no-balance --out one", f"{TOKENIZER} --out balanced",
                 f"{CRITIC} --out critic", f"{TOKENIZER} --revive 100 --out revived",
                 "encode --tokenizer-folder one --out codes --device cpu",
                 f"{AR} --out ar"):  # fmt: skip
        assert main(line.split()) == 0
    (tmp_path / "ar-kept").rename(tmp_path / "resumed")
    lines = (f"{TOKENIZER} --no-balance --out one2", f"{TOKENIZER} --out balanced2",
             f"{CRITIC} --tokenizer-shard --out critic2",
             f"{TOKENIZER} --revive 100 --out revived2", f"{AR} --out ddp",
             f"{AR} --ar-accumulate 2 --out parts", f"{AR} --ar-shard --out sharded",
             f"{AR} --ar-shard --out resumed", f"{AR} --ar-batch 15 --out odd")  # fmt: skip
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "lines").write_text("\n".join(lines))
    done = torchrun("script.py", "lines")
    assert "a batch of 15 does not divide into 2 processes x 1" in done.stderr, done.stderr
    assert not list((tmp_path / "ddp").glob("step-*"))
    assert len(list((tmp_path / "ddp" / "samples").iterdir())) == 1
    assert read_json(tmp_path / "ddp" / "run.json")["processes"] == 2
    close(weights(tmp_path / "one"), weights(tmp_path / "one2"))
    ours, theirs = (weights(tmp_path / name) for name in ("revived", "revived2"))
    assert torch.equal(ours["quantizer.recent"], theirs["quantizer.recent"])  # over both processes
    assert theirs["quantizer.recent"].sum() > 0
    for name in ("ddp", "parts", "sharded", "resumed"):
        close(weights(tmp_path / "ar"), weights(tmp_path / name))
    for single, several in (
        ("ar", "ddp"),
        ("ar", "sharded"),
        ("balanced", "balanced2"),
        ("critic", "critic2"),
    ):
        a, b = last_line(tmp_path / single), last_line(tmp_path / several)
        assert a.keys() == b.keys()
        for key in a:
            least = 1e-3 if "critic" in single else 1e-6  # hinges and ratios of gradients
            torch.testing.assert_close(torch.tensor(a[key]), torch.tensor(b[key]), rtol=1e-5,
                                       atol=least)  # fmt: skip
    # what a sharded run wrote, one process continues
    (tmp_path / "sharded-kept").rename(tmp_path / "alone")
    assert main(f"{AR} --out alone".split()) == 0
    close(weights(tmp_path / "ar"), weights(tmp_path / "alone"))


def test_processes_of_different_seeds_train_one_model_and_one_critic(tmp_path):
    (tmp_path / "equal.py").write_text(EQUAL)
    torchrun(tmp_path / "equal.py").check_returncode()


def test_alone_nothing_is_wrapped_or_changed():
    network, values = torch.nn.Linear(2, 2), torch.tensor([1.0, 2.0])
    assert distributed.wrap(network) is network
    assert distributed.mean(values) is values
    assert distributed.world() == 1 and distributed.rank() == 0
    with distributed.processes("cpu") as device:
        assert device == torch.device("cpu")
