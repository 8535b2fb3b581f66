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

import math
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batches import Batches, ImageSource
from ..data.image_sets import write_sheet
from ..data.readers import Readers
from ..files import held
from ..models.guards import evaluating
from ..models.transformer import Block
from ..progress import bar
from . import distributed, memory
from .average import MovingAverage
from .checkpoints import Checkpoints
from .log import Log
from .processor import fast_products, keep_memory, need_compiler
from .recipe import Recipe, halves


class Run:
    """One training run of `model`.

    Args:
        about: JSON that describes model and data; a checkpoint of another one is refused.
        critic: a second network, trained by the same optimiser on its own part of the loss.
        trial: as in `memory.peak`; with it a run on a GPU knows what fits before it starts.
    """

    def __init__(
        self,
        title: str,
        model: nn.Module,
        recipe: Recipe,
        folder: Path | None,
        about: dict[str, Any],
        critic: nn.Module | None = None,
        trial: memory.Trial | None = None,
    ) -> None:
        self.title, self.model, self.recipe = title, model, recipe
        self.device = next(model.parameters()).device
        self.processes = distributed.world()
        self.critic = critic
        self.trained = [model, *([critic] if critic else [])]
        blocks = [part for part in model.modules() if isinstance(part, Block)]
        for block in blocks:
            block.recompute = recipe.recompute
        self.accumulate = self._parts(trial)
        if recipe.compile:
            need_compiler(self.device)
            for block in blocks:
                block.compiled = True
            if not blocks:
                model.compile()
        self.network = distributed.wrap(model, recipe.shard, self.bf16)  # whose forward is called
        # a group each: sharded and whole weights do not go through one fused step
        weights = [list(m.parameters()) for m in self.trained]
        groups = [{"params": some} for some in weights]
        if not recipe.decay_norms:
            large, small = ([[p for p in some if (p.ndim > 1) is wide] for some in weights]
                            for wide in (True, False))  # fmt: skip
            groups = [{"params": some} for some in large if some]
            groups += [{"params": some, "weight_decay": 0.0} for some in small if some]
        self.optimiser = torch.optim.AdamW(
            groups, recipe.lr, recipe.betas, weight_decay=recipe.weight_decay, fused=True
        )
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
        self.loss = self.norm = math.nan  # of the last update looked at, over parts and processes
        # on a GPU the host looks at a step's numbers when the next one has been started
        self.late = int(self.device.type == "cuda" and not recipe.shard)
        self._sent: deque[tuple[int, Tensor, Any]] = deque()
        self._stop = self._save = False

    def _parts(self, trial: memory.Trial | None) -> int:
        """Into how many parts a batch goes, the same in all processes."""
        r, free = self.recipe, memory.free(self.device)
        if free is None or trial is None:
            return 1 if r.accumulate == "auto" else r.accumulate
        weights = sum(p.numel() for m in self.trained for p in m.parameters())
        plan = memory.Plan(
            free + 4 * weights, weights, r.ema > 0, self.processes if r.shard else 1, r.compile
        )
        asked = None if r.accumulate == "auto" else r.accumulate
        found = memory.parts(trial, plan, r.batch, self.processes, self.bf16, asked)
        return distributed.most(found)

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
            self.log = stack.enter_context(
                Log(self.folder, self.step, r.tensorboard, r.wandb, self.checkpoints.configuration)
            )
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

    def batches(self, n: int, images: ImageSource | None = None, workers: int = 0) -> Batches:
        """This process's parts of every batch of n rows that is left; in the order of a source."""
        r, order = self.recipe, None
        if images is not None:
            readers = Readers(min(n, r.batch), self.accumulate, self.processes, max(1, workers))
            order = partial(images.order, readers=readers)
        return Batches(
            n, r.batch, r.seed, self.step, r.steps, self.accumulate, distributed.rank(),
            self.processes, order,
        )  # fmt: skip

    def parts(self, stream: Iterator[Any]) -> Iterator[Any]:
        """The next parts of `stream` that make one update; gradients add up."""
        for part in range(self.accumulate):
            with distributed.last_part(self.network, part == self.accumulate - 1):
                yield next(stream)

    @property
    def bf16(self) -> bool:
        return halves(self.recipe.precision, self.device.type)

    def autocast(self) -> AbstractContextManager:
        """bf16 where the recipe says so; weights and optimiser stay fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def backward(self, loss: Tensor, **values: Tensor) -> None:
        """Add a part's gradient; `values` (scalars) are averaged over parts for the log."""
        n = self.accumulate
        (loss / n).backward()
        for name, value in {"loss": loss, **values}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().float() / n

    def update(self) -> None:
        """One update with clipped gradients; refuses a loss or a gradient that is not finite.

        On a GPU such an update is left out by the device, and refused one step later.
        """
        r, loss = self.recipe, self._sums["loss"]
        if self.critic:
            distributed.average_gradients(self.critic)
        norms = [nn.utils.clip_grad_norm_(m.parameters(), r.clip or math.inf) for m in self.trained]
        found = torch.stack([loss, sum(distributed.whole(norm).to(loss) for norm in norms)])
        wishes = torch.tensor(self.checkpoints.wishes()).to(loss, non_blocking=True)
        numbers = distributed.mean(torch.cat([found, wishes]))
        self._sent.append((self.step, *_sent(numbers)))
        if self.late:
            self.optimiser.found_inf = (~numbers[:2].isfinite().all()).float()
        else:
            self._heed()
        for group in self.optimiser.param_groups:
            group["lr"] = r.lr_at(self.step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average:
            self.average.update()
        self._heed(0 if self.due(r.log_every) else self.late)

    def _heed(self, unread: int = 0) -> None:
        """Look at the numbers of all updates but the last few."""
        while len(self._sent) > unread:
            step, numbers, arrived = self._sent.popleft()
            if arrived:
                arrived.synchronize()
            self.loss, self.norm, stop, save = numbers.tolist()
            self._stop, self._save = self._stop or stop > 0, self._save or save > 0
            for what, value in (("loss", self.loss), ("the gradient's length", self.norm)):
                if not math.isfinite(value):
                    self.optimiser.zero_grad(set_to_none=True)
                    raise FloatingPointError(
                        f"{what} is {value} at step {step + 1}; {self.checkpoints.state()}: "
                        f"lower lr (now {self.recipe.lr})"
                    )

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
        if self.due(self.recipe.log_every):
            rate = self.recipe.lr_at(self.step)
            self.log.machine(done, self.recipe.batch, lr=rate, gradient_norm=self.norm)
        self._sums, self._values = {}, {}
        self.bar.set_postfix(loss=f"{self.loss:.4g}", refresh=False)
        self.bar.update(self.recipe.batch)
        if self._save:
            self._heed()
            self.checkpoints.save(done)
            self._save = False
        if self._stop:
            raise SystemExit(f"stopped by SIGTERM after step {done}; run again to continue")

    def _advice(self) -> str:
        r = self.recipe
        now = r.batch // (self.accumulate * self.processes)
        if now == 1:
            return "out of memory with one image at a time: choose a smaller model, or shard it"
        return (
            f"out of memory with {now} images at a time: try accumulate={2 * self.accumulate} "
            f"({max(1, now // 2)} at a time, the same batch), or batch={max(1, r.batch // 2)}"
        )


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the caller's global generators as they were (dropout can use no other)."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _sent(numbers: Tensor) -> tuple[Tensor, Any]:
    """Numbers on their way to the host, and the event that says that they have arrived."""
    if numbers.device.type != "cuda":
        return numbers, None
    held = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    held.copy_(numbers, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return held, arrived


@contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Turn running out of memory, on a GPU or a CPU, into a MemoryError that says what to try."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise MemoryError(advice) from error
        raise
