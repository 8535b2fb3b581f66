"""Make the pretrained models and their cards from the stages of the study of Fashion-MNIST.

    python data/models/make.py                all of them; what the cache lacks is trained (about
                                              six minutes a model on one core)
    python data/models/make.py loglinear      one of them

Seed 0 of the groups in GROUPS of book/studies/fashion.yaml. VCQ_CACHE names the study's cache.

A weight matrix becomes int8 with one scale a row, 1 / STEPS of the row's root mean square, so that
most values lie within ±8 and xz packs them into 3.5 bits each. Columns are rounded one after
another, and what rounding one of them changes in the layer's output is made good by those to come
(GPTQ, arXiv 2210.17323). Biases, norms and the codebook are fp16, usage counts int32. The card
says what all this changes.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

import vendor  # noqa: E402

from vcqlib.data.image_sets import to_float, to_uint8  # noqa: E402
from vcqlib.files import read_json, write_json  # noqa: E402
from vcqlib.metrics.distances import frechet_distance  # noqa: E402
from vcqlib.models.autoregressive import ARModel  # noqa: E402
from vcqlib.models.tokenizer import Tokenizer  # noqa: E402
from vcqlib.study.experiment import Experiment  # noqa: E402
from vcqlib.study.instruments import rows  # noqa: E402
from vcqlib.study.judge import judge  # noqa: E402
from vcqlib.study.origin import commit, hardware, versions  # noqa: E402
from vcqlib.study.plan import load_study  # noqa: E402
from vcqlib.study.pretrained import SCALE, load_pretrained  # noqa: E402
from vcqlib.study.samples import draw  # noqa: E402
from vcqlib.training.inference import both_bits, decode, reconstruction_error  # noqa: E402

STUDY = HERE.parents[1] / "book" / "studies" / "fashion.yaml"
GROUPS = {"uniform": "main", "loglinear": "main", "matched": "main", "doubling": "more-arms"}
STEPS = 2.25  # rounding steps in a row's root mean square: what fits the size of the clone
TABLE = 8.0  # the same for the codes' embedding, whose error no later column makes good
EXAMPLES, POSITIONS = 2000, 20_000  # behind the roundings of a layer
HELD_OUT = 2000  # images and samples behind the card's comparison
LICENCE = "MIT, as this project"


def rounded(weight: Tensor, steps: float) -> tuple[Tensor, Tensor]:
    """Row by row to the nearest step: int8 [out, in] and scale fp16 [out, 1]."""
    scale = (weight.square().mean(1, keepdim=True).sqrt() / steps).half()
    return (weight / scale.float()).round().clamp(-127, 127).to(torch.int8), scale


def rounded_for(weight: Tensor, inputs: Tensor, steps: float) -> tuple[Tensor, Tensor]:
    """The same, column by column, so that weight @ inputs [n, in] changes as little as may be."""
    _, scale = rounded(weight, steps)
    rest, step = weight.double(), scale.double()
    second = inputs.double().T @ inputs.double() / len(inputs)
    second += 0.01 * second.diagonal().mean() * torch.eye(len(second))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(second))
    factor = torch.linalg.cholesky(inverse, upper=True)
    codes = torch.zeros_like(rest)
    for j in range(weight.shape[1]):
        codes[:, j] = (rest[:, j] / step[:, 0]).round().clamp(-127, 127)
        error = (rest[:, j] - codes[:, j] * step[:, 0]) / factor[j, j]
        rest[:, j:] -= error[:, None] * factor[j, j:]
    return codes.to(torch.int8), scale


@torch.no_grad()
def shrink(model: nn.Module, use: Callable[[nn.Module], object]) -> dict[str, Tensor]:
    """What is stored of a model; the model itself takes the rounded values.

    use: runs the model on examples, through every linear layer in the order of the forward pass.
    """
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and len(m.weight) > 64]
    found = {id(m.weight): rounded(m.weight, TABLE) for m in tables}
    for table in tables:
        _take(table, *found[id(table.weight)])
    names = {m: name for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    order: dict[nn.Module, None] = {}
    watched(names, lambda m, _: order.setdefault(m), model, use)
    for layer in order:  # later ones see what the roundings of earlier ones do
        seen: list[Tensor] = []
        watched([layer], lambda _, x, seen=seen: seen.append(x), model, use)
        found[id(layer.weight)] = rounded_for(layer.weight, seen[0][:POSITIONS], STEPS)
        _take(layer, *found[id(layer.weight)])
    whole = dict(model.named_parameters())
    stored = {}
    for name, tensor in model.state_dict().items():
        if id(whole.get(name)) in found:
            stored[name], stored[name + SCALE] = found[id(whole[name])]
        else:
            stored[name] = tensor.half() if tensor.is_floating_point() else tensor.int()
    return stored


def watched(layers, see: Callable, model: nn.Module, use: Callable) -> None:
    """Run the model; `see(layer, inputs [n, in])` for each of these layers."""
    hooks = [m.register_forward_pre_hook(lambda m, x: see(m, x[0].reshape(-1, m.in_features)))
             for m in layers]  # fmt: skip
    use(model)
    for hook in hooks:
        hook.remove()


def _take(layer: nn.Module, codes: Tensor, scale: Tensor) -> None:
    layer.weight.copy_(codes.float() * scale.float())


def store(e: Experiment) -> tuple[dict[str, Tensor], dict]:
    """The tensors of both models, and their shapes."""
    tokenizer, ar = copy.deepcopy(e.tokenizer), copy.deepcopy(e.ar.model)
    images = to_float(e.images.images[:EXAMPLES])
    codes, labels = rows(e.codes.codes[:EXAMPLES]), torch.from_numpy(e.codes.labels[:EXAMPLES])
    labels = torch.where(torch.arange(len(labels)) % 10 == 0, ar.null_label, labels)
    parts = {"tokenizer": shrink(tokenizer, lambda m: m.decode(m.encode(images))),
             "ar": shrink(ar, lambda m: m.logits(codes, labels))}  # fmt: skip
    shapes = {"tokenizer": tokenizer.config.to_dict(), "ar": ar.config.to_dict()}
    return {f"{p}.{n}": t.contiguous() for p, s in parts.items() for n, t in s.items()}, shapes


@torch.no_grad()
def compare(e: Experiment, tokenizer: Tokenizer, ar: ARModel) -> dict[str, dict[str, float]]:
    """Measure → its value as trained and as stored."""
    test, codes = e.test.images[:HELD_OUT], rows(e.test_codes.codes[:HELD_OUT])
    labels, known = torch.from_numpy(e.test_codes.labels[:HELD_OUT]), judge(e)
    turn = torch.arange(HELD_OUT) % ar.config.classes
    rebuilt = known.extract(e.decode(rows(e.test_codes.codes)))
    found: dict[str, dict[str, float]] = {}
    for which, t, m in (("trained", e.tokenizer, e.ar.model), ("stored", tokenizer, ar)):
        made = known.extract(draw(m, t, turn).images)
        found[which] = {
            "reconstruction MSE, held out": reconstruction_error(t, test),
            "rFD": frechet_distance(known.extract(to_uint8(decode(t, codes))), known.test),
            "bits per image, held out": both_bits(m, codes, labels)[1].sum().item(),
            "bits per image, training": both_bits(m, rows(e.codes.codes[:HELD_OUT]),
                torch.from_numpy(e.codes.labels[:HELD_OUT]))[1].sum().item(),
            "gFD": known.gfd(made),
            "FD to reconstructions": frechet_distance(made, rebuilt),
        }  # fmt: skip
    changed = (tokenizer.encode(to_float(test)) != codes).double().mean().item()
    a, b = (m.logits(codes, labels).log_softmax(-1) for m in (e.ar.model, ar))
    apart = (a.exp() * (a - b)).sum(-1).mean().item() / np.log(2)
    both = {k: {which: values[k] for which, values in found.items()} for k in found["stored"]}
    return both | {
        "codes that are others, held out": {"stored": changed},
        "bits per position between the predictions": {"stored": apart},
    }


def make(name: str, group: str) -> None:
    """Write NAME.safetensors.xz, its card NAME.json, and NAME.md for people."""
    run = next(r for r in load_study(STUDY).runs if r.name == f"{group}-{name}-s0")
    e = run.experiment
    tensors, shapes = store(e)
    content = lzma.compress(save(tensors), preset=vendor.PRESET)
    path = HERE / f"{name}.safetensors.xz"
    path.write_bytes(content)
    card = shapes | {
        "name": name, "study": run.study, "record": f"data/results/{run.study}/{run.name}.json",
        "data": f"Fashion-MNIST, training images: AR model {e.c.data.n_images:,}, "
                f"tokenizer {e.c.tokenizer.tokenizer_images:,}",
        "configuration": e.c.to_dict(), "seed": e.c.seed, "sizes": list(e.sizes),
        "classes": list(e.images.classes),
        "codes": {"data": e.c.data.dataset, "reversed": False},
        "storage": "weights int8 with a scale a row, the rest fp16, counts int32",
        "file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
        "licence": LICENCE, "script": "data/models/make.py",
        "versions": versions(), "hardware": hardware(e.device), "commit": commit(),
    }  # fmt: skip
    write_json(HERE / f"{name}.json", card)
    manifest = HERE.parent / "MANIFEST.json"
    listed = read_json(manifest)
    about = {"licence": LICENCE, "source": f"made by data/models/make.py, {run.study} {run.name}"}
    listed |= {f"models/{file}": about.copy() for file in (path.name, f"{name}.json")}
    manifest.write_text(json.dumps(listed), encoding="utf-8")
    vendor.refresh_manifest()
    stored = load_pretrained(name)  # as a reader gets it
    card["measures"] = compare(e, stored.tokenizer, stored.ar)
    write_json(HERE / f"{name}.json", card)
    (HERE / f"{name}.md").write_text(page(card), encoding="utf-8")
    vendor.refresh_manifest()
    print(f"{name}: {len(content):,} bytes")


def page(card: dict) -> str:
    """The card for people."""
    c = card["configuration"]
    values = [
        f"| {what} | {number(v.get('trained'))} | {number(v['stored'])} |"
        for what, v in card["measures"].items()
    ]
    return "\n".join([
        f"# {card['name']}", "",
        f"Tokenizer and AR model of the arm *{card['name']}*, seed {card['seed']}. "
        f"K_t = {', '.join(map(str, card['sizes']))}.", "",
        f"- Data: {card['data']}; {len(card['classes'])} classes.",
        f"- Recipe: {c['tokenizer_steps']:,} steps of the tokenizer `{c['tokenizer']}` at batch "
        f"{c['tokenizer_batch']}, {c['ar_steps']:,} of the AR model `{c['ar']}` at batch "
        f"{c['ar_batch']}; all settings in `{card['name']}.json`, the study's record in "
        f"`{card['record']}`.",
        f"- Stored: {card['storage']}; {card['bytes']:,} bytes, SHA-256 `{card['sha256']}`.",
        f"- Licence: {card['licence']}. For teaching: {c['length']} codes cannot hold a picture, "
        "and samples are as blurred as the reconstructions.", "",
        f"| {HELD_OUT:,} held-out images and as many samples | as trained | as stored |",
        "|---|---|---|", *values, "",
    ])  # fmt: skip


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(GROUPS))
    parser.add_argument("--group", help="another group of the study, for a trial")
    options = parser.parse_args()
    if unknown := set(options.names) - GROUPS.keys():
        parser.error(f"no such arm: {min(unknown)} (known: {', '.join(GROUPS)})")
    for name in options.names or GROUPS:
        make(name, options.group or GROUPS[name])


if __name__ == "__main__":
    main()
