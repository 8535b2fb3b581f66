"""What a run says on its way: log.jsonl, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from ..extras import needed
from ..files import atomic_path


class Log:
    """log.jsonl, one line a logged step, and the same and more for a board if one is wanted.

    The boards alone see how fast and how large the run is: what differs from machine to machine
    stays out of the file.
    """

    def __init__(
        self, folder: Path | None, start: int, tensorboard: bool = False, wandb: bool = False,
        settings: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.path = folder / "log.jsonl" if folder else None
        self.board = self.online = None
        self._since, self._step = time.monotonic(), start
        if folder and tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ValueError("tensorboard is missing: pip install tensorboard") from None
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        if folder and wandb:
            with needed():
                import wandb as service
            self.online = service.init(project="vcqlib", dir=str(folder), id=folder.name,
                                       config=settings, resume="allow")  # fmt: skip
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
        if self.online:
            self.online.finish()

    def write(self, step: int, values: dict[str, Any]) -> None:
        """A line of the file, and the same values for the boards."""
        if self.path is None:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        self._show(step, values)

    def machine(self, step: int, images: int, **values: float) -> None:
        """For the boards: `values`, images a second since the last call, the most memory; GB."""
        now = time.monotonic()
        seconds, steps = max(now - self._since, 1e-9), step - self._step
        self._since, self._step = now, step
        memory = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
        speed = {"images_per_second": steps * images / seconds, "memory_gb": memory}
        self._show(step, values | speed)

    def _show(self, step: int, values: dict[str, Any]) -> None:
        if not (self.board or self.online):
            return
        scalars = {}
        for name, value in values.items():
            several = isinstance(value, list)
            for t, scalar in enumerate(value if several else [value], start=1):
                scalars[f"{name}/{t}" if several else name] = scalar
        for name, scalar in scalars.items() if self.board else ():
            self.board.add_scalar(name, scalar, step)
        if self.online:
            self.online.log(scalars, step=step)
