"""The folder of one trained model: what was asked for, what came out, and where.

config.json          the kind of model, its shape, its data and its recipe
weights.safetensors  the weights for use (the moving average, if there is one)
log.jsonl            what was measured on the way
run.json             hardware, versions, time: what differs from run to run
samples/             pictures on the way
step-*.safetensors   the last checkpoints
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..files import load_tensors, read_record, tensors_digest, write_json, write_record
from ..models.autoregressive import ARConfig, ARModel
from ..models.tokenizer import Tokenizer, TokenizerConfig
from ..training import distributed
from ..training.checkpoints import differences, save_weights
from ..training.recipe import Recipe

WEIGHTS = "weights.safetensors"


@contextmanager
def run_folder(
    folder: Path, kind: str, about: dict[str, Any], recipe: Recipe, device: torch.device
) -> Iterator[Callable[[nn.Module], None] | None]:
    """Write config.json, then yield a function that takes the trained model and writes the rest.

    Yields None if this very run is already finished. A run that fails before its first checkpoint
    leaves no config.json, so that the folder is free for another try.

    Raises:
        ValueError: the folder holds another run; the differences are listed.
    """
    config = {"kind": kind, "recipe": recipe.identity(), **about}
    config["habits"] = {k: v for k, v in asdict(recipe).items() if k not in config["recipe"]}
    first, start = distributed.rank() == 0, time.time()
    if held := (folder / "config.json").is_file():
        before = read_record(folder / "config.json")
        before |= {"habits": config["habits"]}
        if wrong := differences(before, json.loads(json.dumps(config))):
            raise ValueError(
                f"{folder} holds another run ({'; '.join(wrong)}): give another --out, or remove it"
            )
        if (folder / WEIGHTS).is_file():
            if first:
                print(f"{folder}: finished already")
            yield None
            return
    distributed.barrier()
    if first:
        write_record(folder / "config.json", config)

    def finish(model: nn.Module) -> None:
        save_weights(folder / WEIGHTS, model)
        if not first:
            return
        seconds = time.time() - start
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        record = {
            "seconds": round(seconds, 1), "processes": distributed.world(),
            "device": gpu or platform.processor() or platform.machine(),
            "python": platform.python_version(), "torch": torch.__version__,
            "vcqlib": __version__, "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }  # fmt: skip
        write_json(folder / "run.json", record)
        print(f"{folder}: {kind}, {recipe.steps:,} steps, {seconds:.0f} s in this start")

    try:
        yield finish
    except Exception:
        if first and not held and not any(folder.glob("step-*.safetensors")):
            (folder / "config.json").unlink()
        raise


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """The config.json of a finished run of this kind.

    Raises:
        FileNotFoundError: no such folder, or the run has not finished.
        ValueError: it holds another kind of model, or a byte of it has changed.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no run folder: it has no config.json")
    config = read_record(folder / "config.json")
    if config.get("kind") != kind:
        raise ValueError(f"{folder} holds {config.get('kind')!r}, expected {kind!r}")
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}: its training has not finished")
    return config


def load_tokenizer(folder: Path, device: torch.device) -> Tokenizer:
    """The trained tokenizer of a run folder, in eval mode."""
    config = read_config(folder, "tokenizer")
    return _load(folder, Tokenizer(TokenizerConfig.from_dict(config["tokenizer"])), device)


def load_ar(folder: Path, device: torch.device) -> ARModel:
    """The trained AR model of a run folder, in eval mode."""
    config = read_config(folder, "ar")
    return _load(folder, ARModel(ARConfig.from_dict(config["ar"])), device)


def _load(folder: Path, model: Any, device: torch.device) -> Any:
    model.load_state_dict(load_tensors(folder / WEIGHTS)[0])
    return model.to(device).eval()


def weights_digest(folder: Path) -> str:
    """SHA-256 of a run's weights, which ties codes to the tokenizer that made them."""
    return tensors_digest(folder / WEIGHTS)


def check_tokenizer(folder: Path, codes: dict[str, Any]) -> None:
    """Refuse a tokenizer other than the one that wrote the codes (their sidecar's `info`)."""
    read_config(folder, "tokenizer")
    ours, theirs = weights_digest(folder)[:12], codes["tokenizer"]["sha256"][:12]
    if ours != theirs:
        raise ValueError(
            f"{folder} holds tokenizer {ours}, but {theirs} wrote the codes: give that one"
        )
