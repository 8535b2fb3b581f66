"""What surrounds the loss in a training loop: update, average, checkpoints, log, progress.

Randomness and the order of the data depend on seed and step alone, so that a run that was stopped
and resumed equals one that was not (bit for bit on a CPU).

with Run("AR model", model, recipe, folder, about) as run:
    parts = iter(run.batches(len(codes)))
    for step in run.steps():
        for _, rows in run.parts(parts):  # accumulated, shared among processes
            run.backward(run.network(codes[rows]))
        run.update()  # refuses what is not finite
        run.note(loss=run.loss)
        run.finish()  # log, bar, checkpoint
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batches import Batches, Order
from ..data.image_sets import write_sheet
from ..files import atomic_path, held
from ..models.guards import evaluating
from ..progress import bar
from . import distributed
from .average import MovingAverage
from .checkpoints import Checkpoints
from .recipe import Recipe


class Run:
    """One training run of `model`.

    Args:
        about: JSON that describes model and data; a checkpoint of another one is refused.
        critic: a second network, trained by the same optimiser on its own part of the loss.
    """

    def __init__(
        self,
        title: str,
        model: nn.Module,
        recipe: Recipe,
        folder: Path | None,
        about: dict[str, Any],
        critic: nn.Module | None = None,
    ) -> None:
        self.title, self.model, self.recipe = title, model, recipe
        self.device = next(model.parameters()).device
        self.processes = distributed.world()
        if recipe.compile:
            _need_compiler(self.device)
            model.compile()
        self.network = distributed.wrap(model, recipe.shard)  # as which its forward is called
        self.critic = critic
        # a group each: sharded and whole weights do not go through one fused step
        self.trained = [model, *([critic] if critic else [])]
        self.optimiser = torch.optim.AdamW(
            [{"params": list(m.parameters())} for m in self.trained], recipe.lr, recipe.betas,
            weight_decay=recipe.weight_decay, fused=True,
        )  # fmt: skip
        self.average = MovingAverage(model, recipe.ema) if recipe.ema else None
        parts = {"model": model, "optimiser": self.optimiser}
        parts |= {"critic": critic} if critic else {}
        parts |= {"average": self.average} if self.average else {}
        self.checkpoints = Checkpoints(
            folder, parts, {"recipe": recipe.identity(), **about},
            recipe.checkpoint_minutes, recipe.keep,
        )  # fmt: skip
        self.folder = None if distributed.rank() else folder  # logs and pictures: the first's
        self._sums: dict[str, Tensor] = {}
        self._values: dict[str, Any] = {}
        self.loss = math.nan  # of the last update, over all parts and processes

    def __enter__(self) -> Run:
        r, quiet = self.recipe, {"disable": True} if distributed.rank() else {}
        with ExitStack() as stack:
            stack.enter_context(memory_advice(self._advice()))
            stack.enter_context(own_randomness(self.device))
            if self.folder is not None:
                stack.enter_context(held(self.folder))
            self.step = self.checkpoints.resume()
            if self.device.type == "cpu":
                keep_memory()
                stack.enter_context(fast_products())
            stack.enter_context(self.checkpoints.watched())
            self.log = stack.enter_context(Log(self.folder, self.step, r.tensorboard))
            self.bar = stack.enter_context(
                bar(desc=self.title, total=r.steps * r.batch, initial=self.step * r.batch,
                    unit="image", unit_scale=True, **quiet)
            )  # fmt: skip
            self._stack = stack.pop_all()
        self.model.train()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        self._stack.__exit__(kind, error, trace)
        if error is None:
            if self.average:
                self.average.copy_to_model()
            self.model.eval()

    def steps(self) -> Iterator[int]:
        """The steps that are left; randomness depends on seed, step and process alone."""
        for step in range(self.step, self.recipe.steps):
            self.step = step
            torch.manual_seed(self.recipe.seed * 1_000_003 + step + (distributed.rank() << 40))
            yield step

    def batches(self, n: int, order: Order | None = None) -> Batches:
        """This process's parts of every batch of n rows that is left."""
        r = self.recipe
        return Batches(
            n, r.batch, r.seed, self.step, r.steps, r.accumulate, distributed.rank(),
            self.processes, order,
        )  # fmt: skip

    def parts(self, stream: Iterator[Any]) -> Iterator[Any]:
        """The next parts of `stream` that make one update; gradients add up."""
        for part in range(self.recipe.accumulate):
            with distributed.last_part(self.network, part == self.recipe.accumulate - 1):
                yield next(stream)

    def autocast(self) -> AbstractContextManager:
        """bf16 where the recipe says so; weights and optimiser stay fp32."""
        choice, kind = self.recipe.precision, self.device.type
        enabled = choice == "bf16" or (choice == "auto" and kind == "cuda")
        return torch.autocast(kind, torch.bfloat16, enabled=enabled)

    def backward(self, loss: Tensor, **values: Tensor) -> None:
        """Add a part's gradient; `values` (scalars) are averaged over parts for the log."""
        n = self.recipe.accumulate
        (loss / n).backward()
        for name, value in {"loss": loss, **values}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().float() / n

    def update(self) -> None:
        """One update with clipped gradients; refuses a loss or a gradient that is not finite."""
        r, loss = self.recipe, self._sums["loss"]
        if self.critic:
            distributed.average_gradients(self.critic)
        norms = [nn.utils.clip_grad_norm_(m.parameters(), r.clip) for m in self.trained]
        found = torch.stack([loss, sum(distributed.whole(norm).to(loss) for norm in norms)])
        wishes = torch.tensor(self.checkpoints.wishes()).to(loss)
        loss, norm, *wishes = distributed.mean(torch.cat([found, wishes])).tolist()
        self._stop, self._save = (wish > 0 for wish in wishes)
        for what, value in (("loss", loss), ("the gradient's length", norm)):
            if not math.isfinite(value):
                self.optimiser.zero_grad(set_to_none=True)
                raise FloatingPointError(
                    f"{what} is {value} at step {self.step + 1}; {self.checkpoints.state()}: "
                    f"lower lr (now {r.lr})"
                )
        for group in self.optimiser.param_groups:
            group["lr"] = r.lr_at(self.step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average:
            self.average.update()
        self.loss = loss

    def due(self, every: int) -> bool:
        """True every so many steps and after the last; never if `every` is 0."""
        done = self.step + 1
        return every > 0 and (done % every == 0 or done == self.recipe.steps)

    @contextmanager
    def evaluation(self) -> Iterator[nn.Module]:
        """The model with the weights that will be kept (averaged ones, if any), in eval mode."""
        with (
            self.average.applied() if self.average else nullcontext(),
            distributed.gathered(self.network),
            evaluating(self.model),
        ):
            yield self.model

    def means(self) -> dict[str, float]:
        """This update's means of the values given to `backward`."""
        return {k: distributed.mean(v).item() for k, v in self._sums.items() if k != "loss"}

    def note(self, **values: Any) -> None:
        """Values of this step for the log: numbers or lists of them, which have to be finite."""
        for name, value in values.items():
            if not np.isfinite(value).all():
                raise FloatingPointError(
                    f"{name} is {value} at step {self.step + 1}; {self.checkpoints.state()}"
                )
        self._values |= values

    def picture(self, images: Tensor) -> None:
        """Write uint8 images [N, C, H, W] as samples/step-NNNNNNNN.png."""
        if self.folder is not None:
            write_sheet(self.folder / "samples" / f"step-{self.step + 1:08d}.png", images)

    def finish(self) -> None:
        """Write what was noted, move the bar, save if it is time or if asked to stop."""
        done = self.step + 1
        if self._values:
            self.log.write(done, self._values)
        self._sums, self._values = {}, {}
        self.bar.set_postfix(loss=f"{self.loss:.4g}", refresh=False)
        self.bar.update(self.recipe.batch)
        if self._save:
            self.checkpoints.save(done)
        if self._stop:
            raise SystemExit(f"stopped by SIGTERM after step {done}; run again to continue")

    def _advice(self) -> str:
        r = self.recipe
        now = r.batch // (r.accumulate * self.processes)
        if now == 1:
            return "out of memory with one image at a time: choose a smaller model, or shard it"
        return (
            f"out of memory with {now} images at a time: try accumulate={2 * r.accumulate} "
            f"({max(1, now // 2)} at a time, the same batch), or batch={max(1, r.batch // 2)}"
        )


class Log:
    """log.jsonl, one line a logged step, and the same for TensorBoard if wanted."""

    def __init__(self, folder: Path | None, start: int, tensorboard: bool = False) -> None:
        self.path = folder / "log.jsonl" if folder else None
        self.board = None
        if folder and tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ValueError("tensorboard is missing: pip install tensorboard") from None
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        if self.path and self.path.exists():  # without steps that are done again, or half a line
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= start]
            with atomic_path(self.path) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.board:
            self.board.close()

    def write(self, step: int, values: dict[str, Any]) -> None:
        if self.path is None:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items() if self.board else ():
            several = isinstance(value, list)
            for t, scalar in enumerate(value if several else [value], start=1):
                self.board.add_scalar(f"{name}/{t}" if several else name, scalar, step)


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the caller's global generators as they were (dropout can use no other)."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def fast_products() -> Iterator[None]:
    """Products of fp32 matrices by oneDNN on processors with AVX-512, all in fp32.

    MKL, which torch calls otherwise, uses half of the width of a processor that is not Intel's.
    torch turns to oneDNN if bf16 is allowed, for which oneDNN has no kernels without AMX: where
    there is AMX the precision would change, and nothing is done.
    """
    matmul, capability = torch.backends.mkldnn.matmul, torch.backends.cpu.get_cpu_capability()
    before = matmul.fp32_precision
    if capability == "AVX512" and not torch.cpu._is_amx_tile_supported():
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def keep_memory() -> None:
    """Keep up to 512 MiB of what is freed (glibc): to ask the system anew in each step is slow."""
    with suppress(OSError, AttributeError, TypeError):  # no glibc: nothing to set
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 2**29)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, its largest value


def _need_compiler(device: torch.device) -> None:
    """Raise ValueError if torch.compile has no compiler to call."""
    names = [os.environ.get("CXX"), "c++", "g++", "clang++", "cl"]
    if device.type == "cuda":
        names = [os.environ.get("CC"), "cc", "gcc", "clang", "cl"]  # Triton builds its launchers
    if not any(name and shutil.which(name) for name in names):
        raise ValueError("compile=True needs a C++ compiler (g++ or clang++) and found none: "
                         "install one, or leave compile off: the model is the same")  # fmt: skip


@contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Turn running out of memory, on a GPU or a CPU, into a MemoryError that says what to try."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise MemoryError(advice) from error
        raise
