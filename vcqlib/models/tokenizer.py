"""The 1-D tokenizer: image → T codes → image.

Three backbones behind one interface. "vit" follows the companion work of the paper's authors
(arXiv 2605.06137): image patches and T learned queries pass through a ViT, the query outputs are
quantized, and a second ViT reads codes and mask tokens. "mlp" is small enough for a CPU; "conv" has
strided convolutions around one linear map, and needs three times as long for a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .guards import Codes
from .quantizer import VariableCodebookQuantizer
from .transformer import Block, ModelConfig, rotary_table

BRIGHTEST = 2.0  # pictures resized by a bicubic filter leave [-1, 1] by a little


@dataclass(frozen=True)
class TokenizerConfig(ModelConfig):
    """Everything that fixes a tokenizer's shape. Refused at construction if impossible."""

    codebook_sizes: tuple[int, ...]
    num_codes: int
    image_size: int
    channels: int
    code_dim: int = 8
    balance: bool = False
    backbone: str = "mlp"
    width: int = 512
    depth: int = 2
    heads: int = 8
    patch: int = 4
    codebook_ema: float = 0.0  # see `VariableCodebookQuantizer`: ema and revive
    revive: int = 0

    def __post_init__(self) -> None:
        if not self.codebook_sizes:
            raise ValueError("codebook_sizes is empty")
        if self.backbone not in BACKBONES:
            names = ", ".join(BACKBONES)
            raise ValueError(f"backbone must be one of {names}, got {self.backbone!r}")
        for name in (
            "num_codes", "image_size", "channels", "code_dim", "width", "depth", "heads", "patch"
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.backbone == "vit" and self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is not divisible by patch {self.patch}")
        if self.backbone == "conv" and self.image_size % 2**self.depth:
            raise ValueError(
                f"image_size {self.image_size} cannot be halved {self.depth} times (depth)"
            )


# Sizes by name. mlp: the CPU profiles. vit-b, vit-l: the recipe of arXiv 2605.06137.
PRESETS: dict[str, dict] = {
    "mlp": {"backbone": "mlp", "width": 384, "depth": 2},
    "mlp-tiny": {"backbone": "mlp", "width": 64, "depth": 1},
    "conv": {"backbone": "conv", "width": 32, "depth": 2},
    "vit-tiny": {"backbone": "vit", "width": 96, "depth": 3, "heads": 3, "patch": 4},
    "vit-s": {"backbone": "vit", "width": 384, "depth": 6, "heads": 6, "patch": 4},
    "vit-b": {"backbone": "vit", "width": 768, "depth": 12, "heads": 12, "patch": 16},
    "vit-l": {"backbone": "vit", "width": 1024, "depth": 24, "heads": 16, "patch": 16},
}


class MLPEncoder(nn.Module):
    """Images [B, C, H, W] → [B, T, code_dim] by `depth` hidden layers."""

    def __init__(self, c: TokenizerConfig) -> None:
        super().__init__()
        sizes = [c.channels * c.image_size**2] + [c.width] * c.depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.out = nn.Linear(c.width, c.length * c.code_dim)
        self.length = c.length

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        for layer in self.layers:
            x = nn.functional.gelu(layer(x))
        return self.out(x).unflatten(-1, (self.length, -1))


class MLPDecoder(nn.Module):
    """Code vectors [B, T, code_dim] → images [B, C, H, W]."""

    def __init__(self, c: TokenizerConfig) -> None:
        super().__init__()
        sizes = [c.length * c.code_dim] + [c.width] * c.depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.out = nn.Linear(c.width, c.channels * c.image_size**2)
        self.shape = (c.channels, c.image_size, c.image_size)

    def forward(self, vectors: Tensor) -> Tensor:
        x = vectors.flatten(1)
        for layer in self.layers:
            x = nn.functional.gelu(layer(x))
        return self.out(x).unflatten(-1, self.shape)


def _maps(c: TokenizerConfig) -> tuple[list[int], int]:
    """Channels of the image and after each halving, and the side of the last map."""
    return [c.channels] + [c.width * 2**i for i in range(c.depth)], c.image_size // 2**c.depth


class ConvEncoder(nn.Module):
    """Images [B, C, H, W] → [B, T, code_dim] by `depth` convolutions of stride 2, and linearly."""

    def __init__(self, c: TokenizerConfig) -> None:
        super().__init__()
        widths, side = _maps(c)
        pairs = zip(widths, widths[1:], strict=False)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairs)
        self.out = nn.Linear(widths[-1] * side**2, c.length * c.code_dim)
        self.length = c.length

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for layer in self.layers:
            x = nn.functional.gelu(layer(x))
        return self.out(x.flatten(1)).unflatten(-1, (self.length, -1))


class ConvDecoder(nn.Module):
    """Code vectors [B, T, code_dim] → images [B, C, H, W], the encoder's way back."""

    def __init__(self, c: TokenizerConfig) -> None:
        super().__init__()
        widths, side = _maps(c)
        self.embed = nn.Linear(c.length * c.code_dim, widths[-1] * side**2)
        pairs = reversed(list(zip(widths[1:], widths[2:], strict=False)))
        self.layers = nn.ModuleList(nn.ConvTranspose2d(b, a, 4, 2, 1) for a, b in pairs)
        self.out = nn.ConvTranspose2d(widths[1], c.channels, 4, 2, 1)
        self.shape = (widths[-1], side, side)

    def forward(self, vectors: Tensor) -> Tensor:
        x = nn.functional.gelu(self.embed(vectors.flatten(1))).unflatten(-1, self.shape)
        for layer in self.layers:
            x = nn.functional.gelu(layer(x))
        return self.out(x)


class _ViT(nn.Module):
    """Bidirectional Transformer over P patch tokens and T query tokens."""

    def __init__(self, c: TokenizerConfig) -> None:
        super().__init__()
        self.patches = (c.image_size // c.patch) ** 2
        hidden = int(c.width * 8 / 3)
        self.blocks = nn.ModuleList(Block(c.width, c.heads, hidden) for _ in range(c.depth))
        self.norm = nn.RMSNorm(c.width)
        table = rotary_table(self.patches + c.length, c.width // c.heads)
        self.register_buffer("table", table, persistent=False)

    def run(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, self.table)
        return self.norm(x)


class ViTEncoder(_ViT):
    """Patches and T learned queries in, the query outputs [B, T, code_dim] out."""

    def __init__(self, c: TokenizerConfig) -> None:
        super().__init__(c)
        self.embed = nn.Conv2d(c.channels, c.width, c.patch, stride=c.patch)
        self.queries = nn.Parameter(torch.randn(c.length, c.width) * 0.02)
        self.out = nn.Linear(c.width, c.code_dim)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.embed(images).flatten(2).transpose(1, 2)  # [B, P, width]
        queries = self.queries.expand(len(images), -1, -1).to(patches.dtype)
        x = self.run(torch.cat([patches, queries], dim=1))
        return self.out(x[:, self.patches :])


class ViTDecoder(_ViT):
    """Mask tokens and code vectors in, pixels of the mask tokens' patches out."""

    def __init__(self, c: TokenizerConfig) -> None:
        super().__init__(c)
        self.embed = nn.Linear(c.code_dim, c.width)
        self.mask = nn.Parameter(torch.randn(1, c.width) * 0.02)
        self.out = nn.Linear(c.width, c.channels * c.patch**2)
        self.fold = nn.Fold(c.image_size, c.patch, stride=c.patch)

    def forward(self, vectors: Tensor) -> Tensor:
        codes = self.embed(vectors)
        masks = self.mask.expand(len(vectors), self.patches, -1).to(codes.dtype)
        x = self.run(torch.cat([masks, codes], dim=1))
        return self.fold(self.out(x[:, : self.patches]).transpose(1, 2))


BACKBONES: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "mlp": (MLPEncoder, MLPDecoder),
    "conv": (ConvEncoder, ConvDecoder),
    "vit": (ViTEncoder, ViTDecoder),
}


class Reconstruction(NamedTuple):
    """What `Tokenizer.forward` returns."""

    images: Tensor  # [B, C, H, W]
    codes: Tensor  # int64 [B, T]
    loss: Tensor  # scalar, the quantizer's


class Tokenizer(nn.Module):
    """Encoder, variable-codebook quantizer, decoder. Images are float in [−1, 1]."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        encoder, decoder = BACKBONES[config.backbone]
        self.encoder, self.decoder = encoder(config), decoder(config)
        self.quantizer = VariableCodebookQuantizer(
            config.codebook_sizes, config.code_dim, config.num_codes,
            balance=config.balance, ema=config.codebook_ema, revive=config.revive,
        )  # fmt: skip

    def _check(self, images: Tensor, measured: bool = True) -> None:
        c = self.config
        expected = (c.channels, c.image_size, c.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            shape = ", ".join(map(str, expected))
            raise ValueError(f"images must be [B, {shape}], got {tuple(images.shape)}")
        if not images.is_floating_point():
            raise ValueError(f"images must be float in [-1, 1], got {images.dtype}")
        if measured and len(images):
            least, most = (float(end) for end in images.detach().aminmax())  # NaN if one is
            if not (least >= -BRIGHTEST and most <= BRIGHTEST):
                raise ValueError(f"images must lie in [-1, 1], got {least:g} to {most:g}")

    def forward(self, images: Tensor) -> Reconstruction:
        """Encode, quantize and decode [B, C, H, W]."""
        self._check(images, measured=not self.training)  # in training the loss says so
        quantized, codes, loss = self.quantizer(self.encoder(images))
        return Reconstruction(self.decoder(quantized), codes, loss)

    def features(self, images: Tensor) -> Tensor:
        """Continuous vectors before quantization, as compared with the codes: [B, T, code_dim]."""
        self._check(images)
        return self.quantizer.prepare(self.encoder(images))

    def encode(self, images: Tensor) -> Tensor:
        """Codes of the images, int64 [B, T]."""
        self._check(images)
        return self.quantizer.encode(self.encoder(images))

    def decode(self, codes: Codes) -> Tensor:
        """Images [B, C, H, W] in [−1, 1] from codes, integers [B, m ≤ T].

        Positions beyond the prefix get the mean code vector of their position, so that a prefix
        shows what its codes say and nothing else.

        Raises:
            ValueError: codes out of range; a prefix, and no code was ever counted.
        """
        known = self.quantizer.decode(codes)
        if known.shape[1] < self.config.length and not self.quantizer.counts.any():
            raise ValueError(
                "a prefix is completed by the mean code of each position, and no code was counted: "
                "count some with quantizer.count(codes)"
            )
        rest = self.quantizer.mean_vectors()[known.shape[1] :]
        vectors = torch.cat([known, rest.expand(len(known), -1, -1)], dim=1)
        return self.decoder(vectors).clamp(-1, 1)
