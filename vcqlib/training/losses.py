"""The tokenizer's image losses: pixels, features of a given network, a PatchGAN critic.

Pixels and features are averaged over all entries; the critic is that of pix2pix (arXiv 1611.07004)
with a hinge loss and LeCam regularisation (arXiv 2104.03310), trained from step 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files import load_foreign
from . import distributed
from .recipe import Losses


class ImageLoss(NamedTuple):
    """What the tokenizer minimises, and its terms for the log."""

    total: Tensor  # scalar, the quantizer's loss not included
    terms: dict[str, Tensor]  # name → scalar, not weighted


class Perceptual(nn.Module):
    """Mean squared distance of unit-length feature maps, averaged over a network's layers.

    This is LPIPS (arXiv 1801.03924) without its learned weights. The network is frozen.

    Args:
        network: images [B, 3, H, W] in [−1, 1] → list of maps [B, c, h, w].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        maps = self.network(images.expand(-1, 3, -1, -1))
        with torch.no_grad():
            wanted = self.network(target.expand(-1, 3, -1, -1))
        gaps = [
            (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean()
            for a, b in zip(maps, wanted, strict=True)
        ]
        return torch.stack(gaps).mean()


class Backbone(nn.Module):
    """Feature maps of a torchvision classifier, before each pooling (VGG) and after each stage.

    Args:
        name: "vgg16", "vgg19", "alexnet" or another one with a sequential `features`.
        weights: file with the classifier's state_dict, read as tensors alone.

    Raises:
        ValueError: an unknown network or one without `features`; other weights, or no weights.
        FileNotFoundError: no such file.
    """

    def __init__(self, name: str, weights: str | Path) -> None:
        from torchvision import models

        super().__init__()
        if name not in models.list_models(module=models):
            raise ValueError(f"torchvision has no model {name!r}")
        with torch.device("meta"):
            model = models.get_model(name, weights=None)
        if not isinstance(getattr(model, "features", None), nn.Sequential):
            raise ValueError(f"{name} has no sequential `features`: use vgg16, vgg19 or alexnet")
        if not Path(weights).is_file():
            raise FileNotFoundError(f"no weights of {name} at {weights}")
        try:
            model.load_state_dict(load_foreign(weights), assign=True)
        except (RuntimeError, TypeError):
            raise ValueError(f"{weights} does not hold the weights of {name}") from None
        self.layers = model.features
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = ((images + 1) / 2 - self.mean) / self.deviation, []
        for layer in self.layers:
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
            x = layer(x)
        return maps or [x]


class PatchCritic(nn.Module):
    """PatchGAN: images [B, C, H, W] → one score a patch, [B, 1, h, w].

    Three strided convolutions, fewer for images below 32 pixels; group norms, which need no other
    image of the batch and so no other process.
    """

    def __init__(self, channels: int, image_size: int, width: int = 64) -> None:
        super().__init__()
        strides = 3 if image_size >= 32 else 1
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, strides + 1):
            a, b = width * 2 ** min(i - 1, 3), width * 2 ** min(i, 3)
            stride = 2 if i < strides else 1
            layers += [nn.Conv2d(a, b, 4, stride, 1, bias=False), nn.GroupNorm(1, b)]
            layers += [nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(b, 1, 3, 1, 1)]
        self.layers = nn.Sequential(*layers)
        self.register_buffer("averages", torch.zeros(2))  # of the scores: real, made

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

    def loss(self, real: Tensor, made: Tensor, lecam: float, decay: float = 0.999) -> Tensor:
        """Hinge loss, plus `lecam` times the distance of each side's scores to the other's mean."""
        real, made = self(torch.cat([real, made.detach()])).float().chunk(2)
        loss = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())
        if lecam:
            means = distributed.mean(torch.stack([real.detach().mean(), made.detach().mean()]))
            moved = self.averages.lerp(means, 1 - decay)
            self.averages.copy_(torch.where(moved.isfinite().all(), moved, self.averages))
            towards = F.relu(real - self.averages[1]).square().mean()
            loss = loss + lecam * (towards + F.relu(self.averages[0] - made).square().mean())
        return loss


class ImageLosses(nn.Module):
    """The terms that a recipe asks for, with their networks.

    Raises:
        ValueError: a perceptual weight without a network.
    """

    def __init__(
        self, losses: Losses, channels: int, image_size: int, features: nn.Module | None = None
    ) -> None:
        super().__init__()
        if losses.perceptual and features is None:
            raise ValueError("perceptual needs a feature network: give one, or set it to 0")
        self.losses = losses
        self.perceptual = Perceptual(features) if losses.perceptual else None
        self.critic = None
        if losses.adversarial:
            self.critic = PatchCritic(channels, image_size, losses.critic_width)

    def prepare(self, device: torch.device, compiled: bool) -> None:
        """On a GPU convolutions read channels last; compiled, if blocks are."""
        for network in (self.critic, self.perceptual and self.perceptual.network):
            if network is not None and device.type == "cuda":
                network.to(memory_format=torch.channels_last)
                if compiled:
                    network.compile()

    def forward(self, images: Tensor, target: Tensor, last: Tensor | None = None) -> ImageLoss:
        """Loss of reconstructions [B, C, H, W] in [−1, 1].

        last: the decoder's last weight, where the adaptive weight compares the gradients.
        """
        c = self.losses
        images = images.float()
        mse = F.mse_loss(images, target)
        total, terms = mse if c.pixels == "l2" else F.l1_loss(images, target), {"mse": mse}
        if self.perceptual:
            terms["perceptual"] = self.perceptual(images, target)
            total = total + c.perceptual * terms["perceptual"]
        if self.critic:
            self.critic.requires_grad_(False)
            try:
                terms["adversarial"] = -self.critic(images).float().mean()
            finally:
                self.critic.requires_grad_(True)
            scale = _balance(total, terms["adversarial"], last) if c.adaptive else 1.0
            # the critic's own loss sees the images detached, so one backward serves both
            terms["critic"] = self.critic.loss(target, images, c.lecam)
            total = total + c.adversarial * scale * terms["adversarial"] + terms["critic"]
        return ImageLoss(total, terms)


def _balance(loss: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """|∂loss/∂last| / |∂adversarial/∂last|, at most 10,000 (VQGAN, arXiv 2012.09841)."""
    wanted, opposed = (torch.autograd.grad(term, last, retain_graph=True)[0].norm()
                       for term in (loss, adversarial))  # fmt: skip
    return distributed.mean((wanted / (opposed + 1e-4)).clamp(0, 1e4).detach())
