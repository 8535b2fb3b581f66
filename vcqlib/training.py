"""The two training loops, and checkpoints from which they continue exactly.

Order of the data, dropout and label dropout depend only on the seed and the step, so a run that
was stopped and resumed equals one that was not (bit for bit on a CPU).
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .autoregressive import ARModel
from .datasets import to_float
from .files import atomic_path
from .progress import bar
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Recipe:
    """Optimiser settings shared by both loops (AdamW, linear warm-up, cosine decay)."""

    steps: int
    batch: int
    lr: float
    final_lr: float = 0.1  # share of lr at the last step
    warmup: int = 50
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    checkpoint_minutes: float = 2.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(
                f"steps and batch must be at least 1, got {self.steps} and {self.batch}"
            )
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0..steps − 1."""
        warm = min(1.0, (step + 1) / max(1, min(self.warmup, self.steps)))
        decay = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.lr * warm * (self.final_lr + (1 - self.final_lr) * decay)


def batch_indices(n: int, batch: int, step: int, seed: int) -> Tensor:
    """Rows of step `step`, int64 [min(batch, n)]: epochs of a seeded shuffle, last part dropped."""
    per_epoch = max(1, n // batch)
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[place * batch : (place + 1) * batch]


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the caller's global generators as they were (dropout can use no other)."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


class Checkpoints:
    """Model and optimiser on disk every few minutes and on SIGTERM; the last two are kept."""

    def __init__(self, folder: Path | None, model: nn.Module, optimiser, minutes: float) -> None:
        self.folder, self.model, self.optimiser = folder, model, optimiser
        self.every, self.saved, self.stop = minutes * 60, time.monotonic(), False

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
        return {k: v.contiguous() for k, v in tensors.items()}

    def save(self, step: int) -> None:
        with atomic_path(self.folder / f"step-{step:08d}.safetensors") as temporary:
            save_file(self._tensors(), temporary, metadata={"step": str(step)})
        for old in sorted(self.folder.glob("step-*.safetensors"))[:-2]:
            old.unlink()
        self.saved = time.monotonic()

    def resume(self) -> int:
        """Load the newest readable checkpoint and return its step, 0 if there is none."""
        found = sorted(self.folder.glob("step-*.safetensors")) if self.folder else []
        for path in reversed(found):
            try:
                tensors = load_file(path)
                with safe_open(path, "pt") as file:
                    step = int(file.metadata()["step"])
            except (SafetensorError, OSError, KeyError, TypeError) as error:
                warnings.warn(f"{path} is not readable ({error}); trying the one before",
                              stacklevel=2)  # fmt: skip
                continue
            self.model.load_state_dict(
                {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
            )
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith("optimiser."):
                    _, i, name = key.split(".", 2)
                    state.setdefault(int(i), {})[name] = value
            groups = self.optimiser.state_dict()["param_groups"]
            self.optimiser.load_state_dict({"state": state, "param_groups": groups})
            return step
        return 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn SIGTERM into a saved checkpoint and a clean exit (main thread only)."""
        if self.folder is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stop", True))
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def after(self, step: int) -> None:
        """Save if it is time, or if the process was asked to stop."""
        if self.folder is None:
            return
        if self.stop or time.monotonic() - self.saved > self.every:
            self.save(step)
        if self.stop:
            raise SystemExit(f"stopped by SIGTERM after step {step}; run again to continue")


def _step(
    loss: Tensor, model: nn.Module, optimiser: torch.optim.Optimizer, r: Recipe, step: int
) -> float:
    """One update with clipped gradients; refuses a loss that is not a number."""
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(
            f"loss is {value} at step {step + 1}; last checkpoint kept: lower lr (now {r.lr})"
        )
    for group in optimiser.param_groups:
        group["lr"] = r.lr_at(step)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), r.clip)
    optimiser.step()
    return value


def _optimiser(model: nn.Module, r: Recipe) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        model.parameters(), lr=r.lr, betas=r.betas, weight_decay=r.weight_decay, fused=True
    )


def _open_log(folder: Path | None, start: int) -> Path | None:
    """The run's log, without lines of steps that a resumed run does again (or half a line)."""
    if folder is None:
        return None
    path = folder / "log.jsonl"
    if path.exists():
        kept = [
            line
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
            if line.endswith("\n") and json.loads(line)["step"] <= start
        ]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")
    return path


def _log(path: Path | None, **values) -> None:
    if path is not None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def train_tokenizer(
    model: Tokenizer, images: Tensor, recipe: Recipe, folder: Path | None = None
) -> Tokenizer:
    """Train on uint8 images [N, C, H, W]; loss = mean squared error + the quantizer's loss.

    Afterwards the usage counts hold one pass over at most 10,000 training images.
    """
    device, r = next(model.parameters()).device, recipe
    optimiser = _optimiser(model, r)
    checkpoints = Checkpoints(folder, model, optimiser, r.checkpoint_minutes)
    start = checkpoints.resume()
    log = _open_log(folder, start)
    model.train()
    with (
        own_randomness(device),
        checkpoints.watched(),
        bar(desc="tokenizer", total=r.steps, initial=start, unit="step") as progress,
    ):
        for step in range(start, r.steps):
            rows = batch_indices(len(images), r.batch, step, r.seed)
            x = to_float(images[rows]).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                output = model(x)
                error = F.mse_loss(output.images.float(), x)
            _step(error + output.loss, model, optimiser, r, step)
            progress.update()
            if (step + 1) % 100 == 0 or step + 1 == r.steps:
                _log(log, step=step + 1, mse=error.item(), quantizer=output.loss.item())
            checkpoints.after(step + 1)
    model.eval()
    model.quantizer.reset_usage()
    for codes in encode(model, images[:10_000]):
        model.quantizer.count(codes)
    return model


@torch.no_grad()
def encode(model: Tokenizer, images: Tensor, batch: int = 1000) -> Iterator[Tensor]:
    """Yield codes int64 [b, T] of uint8 images [N, C, H, W], in order."""
    device = next(model.parameters()).device
    model.eval()
    for part in images.split(batch):
        yield model.encode(to_float(part).to(device))


@torch.no_grad()
def decode(model: Tokenizer, codes: Tensor, batch: int = 1000) -> Tensor:
    """Images float [N, C, H, W] on the CPU from codes int64 [N, m ≤ T]."""
    device = next(model.parameters()).device
    model.eval()
    return torch.cat([model.decode(part.to(device)).cpu() for part in codes.split(batch)])


@torch.no_grad()
def position_bits(
    model: ARModel, codes: Tensor, labels: Tensor, own: bool = False, batch: int = 512
) -> Tensor:
    """Mean cross-entropy at each position, bits, float64 [T]; `own` as in `position_losses`."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    total = torch.zeros(codes.shape[1], dtype=torch.float64)
    for c, y in zip(codes.split(batch), labels.split(batch), strict=True):
        losses = model.position_losses(c.to(device), y.to(device), own)
        total += losses.double().sum(0).cpu()
    model.train(was_training)
    return total / len(codes) / math.log(2)


def train_ar(
    model: ARModel,
    codes: Tensor,
    labels: Tensor,
    recipe: Recipe,
    folder: Path | None = None,
    evaluate_at: tuple[int, ...] = (),
    evaluate: Callable[[ARModel, int], None] | None = None,
) -> ARModel:
    """Train on codes int64 [N, T] and labels int64 [N]: next-code cross-entropy, nothing else.

    `evaluate(model, step)` is called after each step named in `evaluate_at`. A resumed run does
    not repeat the evaluations before its checkpoint.
    """
    device, r = next(model.parameters()).device, recipe
    codes, labels = codes.to(device), labels.to(device)  # a few bytes a code: resident
    optimiser = _optimiser(model, r)
    checkpoints = Checkpoints(folder, model, optimiser, r.checkpoint_minutes)
    start = checkpoints.resume()
    log = _open_log(folder, start)
    model.train()
    with (
        own_randomness(device),
        checkpoints.watched(),
        bar(desc="AR model", total=r.steps, initial=start, unit="step") as progress,
    ):
        for step in range(start, r.steps):
            rows = batch_indices(len(codes), r.batch, step, r.seed).to(device)
            torch.manual_seed(r.seed * 1_000_003 + step)  # dropout and label dropout
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = model.loss(codes[rows], labels[rows])
            value = _step(loss, model, optimiser, r, step)
            progress.update()
            if (step + 1) % 100 == 0 or step + 1 == r.steps:
                _log(log, step=step + 1, bits=value / math.log(2))
            if step + 1 in evaluate_at and evaluate is not None:
                evaluate(model, step + 1)
            checkpoints.after(step + 1)
    return model.eval()
