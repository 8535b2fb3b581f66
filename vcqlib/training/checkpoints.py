"""Checkpoints from which a run continues exactly: whole or absent, and never of another run.

A checkpoint is one safetensors file for each process that wrote it: the tensors of every part
(model, optimiser, average, …), and in the header the step, a format version and the configuration
that it belongs to. Any number of processes continues what any other number wrote.
"""

from __future__ import annotations

import json
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import load_tensors, save_tensors
from ..settings import flat
from . import distributed
from .recipe import Recipe

FORMAT = 2
SPREAD = ("accumulate", "tokenizer_accumulate", "ar_accumulate")  # may change on another machine


class Checkpoints:
    """The parts of a run on disk every few minutes and on SIGTERM; the last `keep` are kept.

    Args:
        folder: where; None writes nothing.
        parts: name → model, optimiser or anything else with `state_dict` and `load_state_dict`.
        configuration: JSON; a checkpoint of another one is refused, and the differences listed.
    """

    def __init__(
        self,
        folder: Path | None,
        parts: dict[str, Any],
        configuration: dict[str, Any],
        minutes: float = 2.0,
        keep: int = 2,
    ) -> None:
        self.folder, self.parts, self.keep = folder, parts, keep
        self.configuration = json.loads(json.dumps(configuration))
        self.last = 0  # step of the newest one that was written or read
        self.every, self.saved, self.stop = minutes * 60, time.monotonic(), False

    def save(self, step: int) -> None:
        """Write step-NNNNNNNN.safetensors. Every process has to call it.

        Of several processes each writes its share, so that a large one is stored in a fraction of
        the time; the first one's file is named last, and only with it the checkpoint exists.
        """
        tensors, loads, rank = {}, [0] * distributed.world(), distributed.rank()
        for name, part in self.parts.items():
            for key, value in _flat(part).items():
                writer = loads.index(min(loads))
                loads[writer] += value.numel() * value.element_size()
                full = distributed.whole(value)
                if writer == rank:
                    tensors[f"{name}.{key}"] = full.contiguous()
        header = {"step": str(step), "configuration": json.dumps(self.configuration),
                  "parts": str(len(loads))}  # fmt: skip
        if len(loads) == 1:
            save_tensors(self._path(step), tensors, header, FORMAT)
        else:
            save_tensors(self._path(step, rank), tensors, header, FORMAT)
            distributed.barrier()
            if rank == 0:
                self._path(step, 0).replace(self._path(step))
        if rank == 0:
            for old in self._found()[: -self.keep]:
                if not old.is_dir():
                    old.unlink()
                for part in self.folder.glob(f"{old.stem}.part*.safetensors"):
                    part.unlink()
        self.saved, self.last = time.monotonic(), step

    def _path(self, step: int, part: int | None = None) -> Path:
        share = "" if part is None else f".part{part}"
        return self.folder / f"step-{step:08d}{share}.safetensors"

    def _read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors and header of a checkpoint, from all its files."""
        tensors, header = load_tensors(path, version=None)
        for part in range(1, int(header.get("parts", 1))):
            place = path.with_name(f"{path.stem}.part{part}.safetensors")
            more, beside = load_tensors(place, version=None)
            if beside != header:
                raise ValueError(f"{place.name} is of another checkpoint")
            tensors |= more
        return tensors, header

    def _found(self) -> list[Path]:
        """The checkpoints in the folder, by step."""
        paths = self.folder.glob("step-*.safetensors") if self.folder else ()
        return sorted((p for p in paths if p.stem[5:].isdecimal()), key=lambda p: int(p.stem[5:]))

    def state(self) -> str:
        """What an error may say of them."""
        return f"the checkpoint of step {self.last} is kept" if self.last else "no checkpoint yet"

    def resume(self) -> int:
        """Load the newest readable checkpoint and return its step, 0 if there is none.

        What cannot be read is renamed to *.damaged: it would count as the newest for ever. What a
        killed process had half written goes. (The run holds the folder's lock.)

        Raises:
            ValueError: it belongs to another configuration, or to another format.
        """
        step, damaged = 0, []
        for path in reversed(self._found()):
            try:
                tensors, header = self._read(path)
            except (ValueError, OSError) as error:
                damaged.append((path, error))
                continue
            self._check(path, header)
            for name, part in self.parts.items():
                start = len(name) + 1
                _load(part, {k[start:]: v for k, v in tensors.items() if k[:start] == f"{name}."})
            step = int(header["step"])
            break
        self.last = distributed.agree(step, "the checkpoint to continue from")
        if self.folder is None or distributed.rank():
            return self.last
        for half in self.folder.glob(".step-*.safetensors"):  # of a killed process
            half.unlink()
        for path, error in damaged:
            path.replace(aside := path.with_name(f"{path.name}.damaged"))
            warnings.warn(
                f"{path} is not readable ({error}): set aside as {aside.name}, continuing from "
                f"step {step}", stacklevel=2,
            )  # fmt: skip
        return self.last

    def _check(self, path: Path, header: dict[str, str]) -> None:
        if header.get("format") != str(FORMAT):
            raise ValueError(
                f"{path}: checkpoint format {header.get('format')} is not {FORMAT}; move it away "
                "to start anew"
            )
        saved = json.loads(header["configuration"])
        if "recipe" in saved:  # written before some settings were there: then they had no effect
            later = {n: s.default for n, s in flat(Recipe).items() if s.later}
            saved["recipe"] = later | saved["recipe"]
        wrong = differences(saved, self.configuration)
        if wrong:
            raise ValueError(
                f"{path} is a checkpoint of another configuration ({'; '.join(wrong)}): use "
                "another folder, or move it away"
            )

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

    def wishes(self) -> tuple[bool, bool]:
        """Whether this process was asked to stop, and whether it is time to save."""
        due = self.folder is not None and time.monotonic() - self.saved > self.every
        return self.stop, due or self.stop


def differences(theirs: Any, ours: Any, name: str = "") -> list[str]:
    """Where two JSON values differ: "recipe.lr 0.1 there, 0.2 here"."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        found = []
        for key in sorted((theirs.keys() | ours.keys()) - set(SPREAD)):
            inner = f"{name}.{key}" if name else key
            found += differences(theirs.get(key), ours.get(key), inner)
        return found
    return [] if theirs == ours else [f"{name} {theirs} there, {ours} here"]


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a model's weights for use. Every process has to call it; the first one writes."""
    tensors = {k: distributed.whole(v).contiguous().cpu() for k, v in model.state_dict().items()}
    if distributed.rank() == 0:
        save_tensors(path, tensors)


def _flat(part: Any) -> dict[str, Tensor]:
    """The tensors of a module or of an optimiser, by name."""
    state = part.state_dict()
    if not isinstance(part, torch.optim.Optimizer):
        return state
    moments = state["state"].items()
    return {f"{i}.{k}": torch.as_tensor(v) for i, entry in moments for k, v in entry.items()}


def _load(part: Any, tensors: dict[str, Tensor]) -> None:
    if not isinstance(part, torch.optim.Optimizer):
        now = part.state_dict()
        part.load_state_dict({k: distributed.like(v, now.get(k, v)) for k, v in tensors.items()})
        return
    weights = [p for group in part.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        i, name = key.split(".", 1)
        state.setdefault(int(i), {})[name] = distributed.like(value, weights[int(i)])
    part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})
