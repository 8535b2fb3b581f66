"""Train the Fashion-MNIST classifier that serves as feature extractor; writes it and its record.

    python data/extractors/train_fashion_classifier.py      about 6 minutes on one core

The committed weights are the ones every committed Fréchet distance was computed with: a retrained
file gives other features and so other distances (the record's SHA-256 tells them apart).
"""

from __future__ import annotations

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
from vcqlib.metrics.extractors import FashionClassifier

SEED, EPOCHS, BATCH, PEAK_LR, SMOOTHING, SHIFT, NOISE = 0, 10, 256, 5e-3, 0.02, 1, 15


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror, move by one pixel, blur and roughen; uint8 in, float in 0…255 out.

    Blur and noise, each on a third of the images: without them the features answer to the softness
    of every autoencoder's output before they answer to what is in the picture.
    """
    mirrored, blurred, rough = torch.rand(3, len(images), 1, 1, 1, generator=generator)
    blurred, rough = blurred < 1 / 3, rough < 1 / 3
    x = torch.where(mirrored < 0.5, images.flip(3), images).float()
    down, right = torch.randint(0, 2 * SHIFT + 1, (2,), generator=generator).tolist()
    x = F.pad(x, (SHIFT,) * 4)[:, :, down : down + 28, right : right + 28]
    blend, sigma = torch.rand(2, len(x), 1, 1, 1, generator=generator)
    x = x.lerp(gaussian_blur(x, 5, 1.2), blend * blurred)
    noise = NOISE * sigma * rough * torch.randn(x.shape, generator=generator)
    return (x + noise).clamp(0, 255)


def train(images: Tensor, labels: Tensor) -> FashionClassifier:
    torch.manual_seed(SEED)  # the initial weights
    generator = torch.Generator().manual_seed(SEED)
    model = FashionClassifier().to(memory_format=torch.channels_last)
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=generator)
        for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
            x = augment(images[batch], generator).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(x), labels[batch], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{EPOCHS} loss {loss.item():.3f}", flush=True)
    return model.to(memory_format=torch.contiguous_format).eval()


@torch.no_grad()
def standardise_exactly(model: FashionClassifier, images: Tensor) -> None:
    """Replace the running estimate by the moments of the features of all training images."""
    raw = torch.cat([model.project(model.body(b.float() / 127.5 - 1)) for b in images.split(256)])
    model.standardise.running_mean.copy_(raw.double().mean(0))
    model.standardise.running_var.copy_(raw.double().var(0))


@torch.no_grad()
def accuracy(model: FashionClassifier, images: Tensor, labels: Tensor) -> float:
    predicted = torch.cat([model(batch).argmax(1) for batch in images.split(256)])
    return (predicted == labels).double().mean().item()


def main() -> None:
    train_set = load_images("fashion-mnist", "train")
    test_set = load_images("fashion-mnist", "test")
    start = time.perf_counter()
    model = train(train_set.images, train_set.labels)
    standardise_exactly(model, train_set.images)
    seconds = time.perf_counter() - start
    name = "extractors/fashion_classifier.safetensors"
    weights = data_root() / name
    with atomic_path(weights) as temporary:
        save_file(model.state_dict(), temporary)
    record = {
        "what": "Fashion-MNIST classifier, the extractor 'classifier' of vcqlib.extractors",
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
        "augmentation": f"mirror, shift {SHIFT}; a third blurred, a third noise up to {NOISE}/255",
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
        "source": f"trained by data/extractors/{Path(__file__).name}",
    }
    write_json(data_root() / "MANIFEST.json", manifest() | {name: entry})
    print({key: record[key] for key in ("test_accuracy", "train_accuracy", "wall_seconds")})


if __name__ == "__main__":
    main()
