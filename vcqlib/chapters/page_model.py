"""A pretrained model as one script for the book's pages, where it runs in plain JavaScript.

`book/_assets/draw.js` adds the script when a reader asks for the model: pages opened from a folder
may fetch nothing else. It holds what is needed to draw (AR model, decoder, code vectors) as it is
stored in `data/models`, int8 with a scale a row, and the codes of the training images.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import numpy as np

from ..data.vendored import manifest
from ..files import atomic_path
from ..study import cache

DRAWN = ("uniform", "loglinear", "matched")  # the models that the page offers
WIDE = ("int8", "uint8")  # of the types in the file; all else becomes float32


def file_name(name: str) -> str:
    """What the script of a model is called beside the book's other scripts."""
    return f"model-{name}.js"


def script(name: str) -> str:
    """JavaScript that sets `vcq.models[name]`; made once, then read from the cache.

    Raises as `load_pretrained`.
    """

    def build(folder: Path) -> None:
        with atomic_path(folder / file_name(name)) as temporary:
            temporary.write_text(_script(name), encoding="utf-8")

    parts = (f"models/{name}.", "fashion-mnist/train")
    inputs = {"model": name, "data": {k: v["sha256"] for k, v in manifest().items()
                                      if k.startswith(parts)}}  # fmt: skip
    return (cache.stage("page-model", inputs, build) / file_name(name)).read_text("utf-8")


def _script(name: str) -> str:
    """The layout of the tensors, and base64 of a zlib stream of them, those of four bytes first."""
    import torch  # the book's build only copies what is there already

    from ..study.configuration import Configuration
    from ..study.experiment import Experiment
    from ..study.pretrained import load_pretrained, stored_tensors
    from ..training.inference import encode

    given, stored = load_pretrained(name), stored_tensors(name)
    used = {k: v for k, v in stored.items() if k.startswith(("ar.", "tokenizer.decoder."))}
    quantizer = given.tokenizer.quantizer
    images = Experiment(Configuration.of(given.card["configuration"])).images
    codes = torch.cat([*encode(given.tokenizer, images.images)])
    used |= {"rows": quantizer.rows().detach(), "means": quantizer.mean_vectors()}
    used |= {"codes": codes.to(torch.uint8), "labels": images.labels.to(torch.uint8)}
    arrays = {key: tensor.numpy() for key, tensor in used.items()}
    whole = {k: a if str(a.dtype) in WIDE else a.astype(np.float32) for k, a in arrays.items()}
    order = sorted(whole, key=lambda key: -whole[key].itemsize)  # typed arrays start aligned
    packed = zlib.compress(b"".join(whole[key].tobytes() for key in order), 9)
    about = {
        "heads": given.ar.config.heads, "layers": given.ar.config.layers,
        "layout": [[key, str(whole[key].dtype), *whole[key].shape] for key in order],
        "data": base64.b64encode(packed).decode(),
    }  # fmt: skip
    text = json.dumps(about, separators=(",", ":"))
    return f'(vcq.models ??= {{}})["{name}"] = {text};\n'
