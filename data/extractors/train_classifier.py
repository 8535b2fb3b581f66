"""Train a classifier that serves as feature extractor; writes it and its record.

    python data/extractors/train_classifier.py mnist      (or fashion-mnist)

7 minutes on one core if the machine has little else to do, 25 if it has much. Both sets are
trained in the same way, but that digits are not mirrored: a digit seen in a mirror is a mistake
that the features should show.

The committed weights are the ones every committed Fréchet distance was computed with: a retrained
file gives other features and so other distances (the record's SHA-256 tells them apart).
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from vcqlib.data.image_sets import load_images
from vcqlib.data.vendored import data_root, manifest
from vcqlib.files import atomic_path, sha256_file, write_json
from vcqlib.metrics.extractors import SmallClassifier

# data set → its name in print, extractor, file, whether training images are mirrored
SETS = {
    "fashion-mnist": ("Fashion-MNIST", "classifier", "fashion_classifier", True),
    "mnist": ("MNIST", "mnist-classifier", "mnist_classifier", False),
}
SEED, EPOCHS, BATCH, PEAK_LR, SMOOTHING, SHIFT, NOISE = 0, 10, 256, 5e-3, 0.02, 1, 15


def augment(images: Tensor, mirror: bool, generator: torch.Generator) -> Tensor:
    """Perhaps mirror, move by one pixel, blur and roughen; uint8 in, float in 0…255 out.

    Blur and noise, each on a third of the images: without them the features answer to the softness
    of every autoencoder's output before they answer to what is in the picture.
    """
    mirrored, blurred, rough = torch.rand(3, len(images), 1, 1, 1, generator=generator)
    blurred, rough = blurred < 1 / 3, rough < 1 / 3
    x = torch.where(mirrored < 0.5 * mirror, images.flip(3), images).float()
    down, right = torch.randint(0, 2 * SHIFT + 1, (2,), generator=generator).tolist()
    x = F.pad(x, (SHIFT,) * 4)[:, :, down : down + 28, right : right + 28]
    blend, sigma = torch.rand(2, len(x), 1, 1, 1, generator=generator)
    x = x.lerp(gaussian_blur(x, 5, 1.2), blend * blurred)
    noise = NOISE * sigma * rough * torch.randn(x.shape, generator=generator)
    return (x + noise).clamp(0, 255)


def train(images: Tensor, labels: Tensor, mirror: bool) -> SmallClassifier:
    torch.manual_seed(SEED)  # the initial weights
    generator = torch.Generator().manual_seed(SEED)
    model = SmallClassifier().to(memory_format=torch.channels_last)
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=generator)
        for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
            x = augment(images[batch], mirror, generator).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(x), labels[batch], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{EPOCHS} loss {loss.item():.3f}", flush=True)
    return model.to(memory_format=torch.contiguous_format).eval()


@torch.no_grad()
def standardise_exactly(model: SmallClassifier, images: Tensor) -> None:
    """Replace the running estimate by the moments of the features of all training images."""
    raw = torch.cat([model.project(model.body(b.float() / 127.5 - 1)) for b in images.split(256)])
    model.standardise.running_mean.copy_(raw.double().mean(0))
    model.standardise.running_var.copy_(raw.double().var(0))


@torch.no_grad()
def accuracy(model: SmallClassifier, images: Tensor, labels: Tensor) -> float:
    predicted = torch.cat([model(batch).argmax(1) for batch in images.split(256)])
    return (predicted == labels).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dataset", choices=SETS)
    dataset = parser.parse_args().dataset
    title, extractor, file, mirror = SETS[dataset]
    train_set, test_set = (load_images(dataset, split) for split in ("train", "test"))
    start = time.perf_counter()
    model = train(train_set.images, train_set.labels, mirror)
    standardise_exactly(model, train_set.images)
    seconds = time.perf_counter() - start
    name = f"extractors/{file}.safetensors"
    weights = data_root() / name
    with atomic_path(weights) as temporary:
        save_file(model.state_dict(), temporary)
    record = {
        "what": f"{title} classifier, the extractor {extractor!r} of vcqlib.metrics.extractors",
        "script": Path(__file__).name,
        "sha256": sha256_file(weights),
        "parameters": sum(p.numel() for p in model.parameters()),
        "features": model.dim,
        "train_accuracy": accuracy(model, train_set.images, train_set.labels),
        "test_accuracy": accuracy(model, test_set.images, test_set.labels),
        "training_images": len(train_set.images),
        "seed": SEED,
        "epochs": EPOCHS,
        "steps": EPOCHS * (len(train_set.images) // BATCH),
        "batch": BATCH,
        "peak_learning_rate": PEAK_LR,
        "label_smoothing": SMOOTHING,
        "augmentation": f"{'mirror, ' * mirror}shift {SHIFT}; on a third blur, on a third noise up "
        f"to {NOISE}/255",
        "wall_seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "device": "cpu",
        "machine": platform.machine(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    write_json(weights.with_suffix(".json"), record)
    entry = {
        "bytes": weights.stat().st_size,
        "licence": "MIT, as this project",
        "sha256": record["sha256"],
        "source": f"trained by data/extractors/{Path(__file__).name} {dataset}",
    }
    write_json(data_root() / "MANIFEST.json", manifest() | {name: entry})
    print({key: record[key] for key in ("test_accuracy", "train_accuracy", "wall_seconds")})


if __name__ == "__main__":
    main()
