"""The 1-D tokenizer: image → T codes → image.

Three backbones behind one interface. "vit" follows the companion work of the paper's authors
(arXiv 2605.06137): image patches and T learned queries pass through a ViT, the query outputs are
quantized, and a second ViT reads codes and mask tokens. "mlp" is small enough for a CPU; "conv" has
strided convolutions around one linear map, and needs three times as long for a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..checks import must
from ..settings import Flag, Whole, settings
from .guards import Codes, Count, ModelConfig, Share
from .quantizer import VariableCodebookQuantizer
from .saved import Saved
from .transformer import Block, rotary_table

BRIGHTEST = 2.0  # pictures resized by a bicubic filter leave [-1, 1] by a little


@settings
class TokenizerConfig(ModelConfig):
    """Shape of the tokenizer; `codebook_ema` and `revive` as in `VariableCodebookQuantizer`."""

    num_codes: Count
    image_size: Count
    channels: Count
    code_dim: Count = 8
    balance: Flag = False
    backbone: str = "mlp"
    width: Count = 512
    depth: Count = 2
    heads: Count = 8
    patch: Count = 4
    codebook_ema: Share = 0.0
    revive: Whole = 0

    def __post_init__(self) -> None:
        must(self.backbone in BACKBONES, "backbone", f"one of {', '.join(BACKBONES)}",
             repr(self.backbone))  # fmt: skip
        part = {"vit": self.patch, "conv": 2**self.depth}.get(self.backbone, 1)
        must(self.image_size % part == 0, "image_size", f"divisible by {part} (patch, or 2^depth)",
             self.image_size)  # fmt: skip


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


class _Dense(nn.Linear):
    """A linear layer from all entries of an image, map or sequence to those of another shape."""

    def __init__(self, inputs: int, *shape: int) -> None:
        super().__init__(inputs, math.prod(shape))
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1)).unflatten(1, self.shape)


class _Stack(nn.Module):
    """Layers with GELU behind each, and a last one, `out`, without."""

    def __init__(self, layers: Iterable[nn.Module], out: nn.Module) -> None:
        super().__init__()
        self.layers, self.out = nn.ModuleList(layers), out

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = nn.functional.gelu(layer(x))
        return self.out(x)


def _mlp(c: TokenizerConfig) -> Iterator[nn.Module]:
    """`depth` hidden layers each way."""
    images, vectors = (c.channels, c.image_size, c.image_size), (c.length, c.code_dim)
    for inputs, outputs in ((images, vectors), (vectors, images)):
        widths = [math.prod(inputs)] + [c.width] * c.depth
        yield _Stack([_Dense(a, b) for a, b in pairwise(widths)], _Dense(c.width, *outputs))


def _conv(c: TokenizerConfig) -> Iterator[nn.Module]:
    """`depth` convolutions of stride 2 and one linear map, and the same way back."""
    widths = [c.channels] + [c.width * 2**i for i in range(c.depth)]
    side = c.image_size // 2**c.depth
    last = widths[-1], side, side  # the map behind all convolutions
    down = [nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths)]
    yield _Stack(down, _Dense(math.prod(last), c.length, c.code_dim))
    embed = _Dense(c.length * c.code_dim, *last)
    up = [nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(widths[:0:-1])]
    yield _Stack([embed, *up], nn.ConvTranspose2d(c.width, c.channels, 4, 2, 1))


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


class _ViTEncoder(_ViT):
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


class _ViTDecoder(_ViT):
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


# Encoder, images [B, C, H, W] → [B, T, code_dim], and decoder, the way back; built in this order.
BACKBONES: dict[str, Callable[[TokenizerConfig], Iterable[nn.Module]]] = {
    "mlp": _mlp,
    "conv": _conv,
    "vit": lambda c: (_ViTEncoder(c), _ViTDecoder(c)),
}


class Reconstruction(NamedTuple):
    """What `Tokenizer.forward` returns."""

    images: Tensor  # [B, C, H, W]
    codes: Tensor  # int64 [B, T]
    loss: Tensor  # scalar, the quantizer's


class Tokenizer(nn.Module, Saved):
    """Encoder, variable-codebook quantizer, decoder. Images are float in [−1, 1]."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = BACKBONES[config.backbone](config)
        self.quantizer = VariableCodebookQuantizer(
            config.codebook_sizes, config.code_dim, config.num_codes,
            balance=config.balance, ema=config.codebook_ema, revive=config.revive,
        )  # fmt: skip

    def _check(self, images: Tensor, measured: bool = True) -> None:
        c, shape = self.config, tuple(images.shape)
        good = shape[1:] == (c.channels, c.image_size, c.image_size)
        must(good, "images", f"[B, {c.channels}, {c.image_size}, {c.image_size}]", shape)
        must(images.is_floating_point(), "images", "float in [-1, 1]", images.dtype)
        if measured and len(images):
            least, most = (float(end) for end in images.detach().aminmax())  # NaN if one is
            good = least >= -BRIGHTEST and most <= BRIGHTEST
            must(good, "images", "in [-1, 1]", f"{least:g} to {most:g}")

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
