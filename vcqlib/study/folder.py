"""The folder of one trained model: what was asked for, what came out, and where.

config.json          the kind of model, the settings, its shape, its data
weights.safetensors  the weights for use (the moving average, if there is one)
log.jsonl            what was measured on the way
run.json             hardware, versions, time: what differs from run to run
samples/             pictures on the way
step-*.safetensors   checkpoints, while it is trained
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..files import held, read_record, tensors_digest, write_json, write_record
from ..models.saved import CONFIG, WEIGHTS
from ..training import distributed
from ..training.checkpoints import differences, save_weights


@contextmanager
def run_folder(
    folder: Path, network: type[nn.Module], about: dict[str, Any], device: torch.device
) -> Iterator[Callable[[nn.Module], None] | None]:
    """Write config.json, then yield a function that takes the trained model and writes the rest.

    The folder is held meanwhile. Yields None if this very run is already finished. A run that fails
    before its first checkpoint leaves no config.json, so that the folder is free for another try.
    ValueError if the folder is in use, or holds another run, whose differences are listed.
    """
    config = json.loads(json.dumps({"kind": network.__name__, **about}))
    first, start = distributed.rank() == 0, time.time()
    finished = (folder / WEIGHTS).is_file()
    with held(folder) if first and not finished else nullcontext():
        distributed.barrier()
        if known := (folder / CONFIG).is_file():
            if wrong := differences(read_record(folder / CONFIG), config):
                raise ValueError(f"{folder} holds another run ({'; '.join(wrong)}): give another "
                                 "--out, or remove it")  # fmt: skip
            if (folder / WEIGHTS).is_file():
                if first:
                    print(f"{folder}: finished already")
                yield None
                return
        distributed.barrier()
        if first:
            write_record(folder / CONFIG, config)
        try:
            yield lambda model: _finish(model, folder, device, start)
        except Exception:
            if first and not known and not any(folder.glob("step-*.safetensors")):
                (folder / CONFIG).unlink()
            raise


def _finish(model: nn.Module, folder: Path, device: torch.device, start: float) -> None:
    """Write the trained weights and how they came about; the checkpoints go."""
    save_weights(folder / WEIGHTS, model)
    if distributed.rank() == 0:
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        record = {
            "seconds": round(time.time() - start, 1), "processes": distributed.world(),
            "device": gpu or platform.processor() or platform.machine(),
            "python": platform.python_version(), "torch": torch.__version__,
            "vcqlib": __version__, "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }  # fmt: skip
        write_json(folder / "run.json", record)
        for old in folder.glob("step-*"):  # those set aside as damaged too
            old.unlink()
    distributed.barrier()  # the others read what the first one writes


def weights_digest(folder: Path) -> str:
    """SHA-256 of a run's weights, which ties codes to the tokenizer that made them."""
    return tensors_digest(folder / WEIGHTS)


def read_log(folder: Path) -> list[dict]:
    """The lines of a run's log: `step`, and what was measured there."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
