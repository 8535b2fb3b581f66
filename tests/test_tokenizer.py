"""The tokenizer: all backbones behind one interface."""

import pytest
import torch

from vcqlib.models.tokenizer import PRESETS, Tokenizer, TokenizerConfig

SIZES = (2, 4, 8, 8, 16)
SMALL = {
    "mlp": {"backbone": "mlp", "width": 24, "depth": 2},
    "conv": {"backbone": "conv", "width": 8, "depth": 2},
    "vit": {"backbone": "vit", "width": 24, "depth": 1, "heads": 2, "patch": 4},
}


def make(backbone, **changes):
    torch.manual_seed(0)
    settings = {"num_codes": 16, "image_size": 8, "channels": 3, "code_dim": 4} | changes
    return Tokenizer(TokenizerConfig(SIZES, **settings, **SMALL[backbone])).eval()


def pictures(batch=6):
    return torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


every = pytest.mark.parametrize("backbone", list(SMALL))


@every
def test_shapes_types_and_ranges(backbone):
    model, x = make(backbone), pictures()
    codes = model.encode(x)
    assert codes.shape == (6, 5) and codes.dtype == torch.int64
    assert (codes >= 0).all() and (codes < torch.tensor(SIZES)).all()
    assert model.features(x).shape == (6, 5, 4)
    images = model.decode(codes)
    assert images.shape == x.shape and images.dtype == torch.float32
    assert images.abs().max() <= 1
    output = model(x)
    assert torch.equal(output.codes, codes) and output.loss.ndim == 0
    # forward and decode(encode) are one path
    torch.testing.assert_close(output.images.clamp(-1, 1), images)


@every
def test_codes_are_those_nearest_to_the_features(backbone):
    model, x = make(backbone), pictures()
    features, rows = model.features(x), model.quantizer.rows()
    for t, k in enumerate(SIZES):
        assert torch.equal(model.encode(x)[:, t], (features[:, t] @ rows[:k].T).argmax(-1))


@every
def test_prefix_decoding(backbone):
    """A prefix stands for its codes and the mean vector of every later position."""
    model, x = make(backbone), pictures(64)
    codes = model.encode(x)
    model.quantizer.count(codes)
    means = model.quantizer.mean_vectors()
    for m in (1, 3, 5):
        prefix = codes[:, :m]
        known = model.quantizer.decode(prefix)
        vectors = torch.cat([known, means[m:].expand(64, -1, -1)], 1)
        torch.testing.assert_close(model.decode(prefix), model.decoder(vectors).clamp(-1, 1))
    # images that agree on the prefix look the same, whatever follows
    other = codes.clone()
    other[:, 3:] = 0
    assert torch.equal(model.decode(codes[:, :3]), model.decode(other[:, :3]))
    assert not torch.equal(model.decode(codes), model.decode(other))


@every
def test_every_position_and_every_pixel_take_part(backbone):
    """No dead wire: codes depend on the image, the image on every position."""
    model, x = make(backbone), pictures(1).requires_grad_()
    model.features(x)[0].pow(3).sum().backward()
    assert (x.grad != 0).float().mean() > 0.9
    codes = torch.zeros(1, 5, dtype=torch.int64)
    base = model.decode(codes)
    for t in range(5):
        changed = codes.clone()
        changed[0, t] = 1
        assert not torch.equal(model.decode(changed), base)


@every
def test_all_parameters_get_a_gradient(backbone):
    model, x = make(backbone).train(), pictures(32)
    output = model(x)
    ((output.images - x).square().mean() + output.loss).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@every
def test_schedules_have_equal_parameters(backbone):
    """Arms of a study differ in K_t only."""
    shapes = []
    for sizes in ((2, 4, 8, 16, 16), (16,) * 5, (3,) * 5):
        model = Tokenizer(TokenizerConfig(sizes, 16, 8, 3, **SMALL[backbone]))
        shapes.append([(n, tuple(p.shape)) for n, p in model.named_parameters()])
    assert shapes[0] == shapes[1] == shapes[2]


def test_patches_return_to_their_place():
    """The ViT's fold undoes the patch embedding's order."""
    model = make("vit")
    image = torch.arange(3 * 64.0).view(1, 3, 8, 8)
    columns = torch.nn.functional.unfold(image, 4, stride=4)
    assert torch.equal(model.decoder.fold(columns), image)
    weight = torch.zeros_like(model.encoder.embed.weight)
    weight[0, 0, 0, 0] = 1  # first channel of the embedding: each patch's top left pixel
    model.encoder.embed.weight.data, model.encoder.embed.bias.data = weight, torch.zeros(24)
    patches = model.encoder.embed(image).flatten(2)[0, 0]
    assert torch.equal(patches, columns[0, 0])


def test_presets_can_be_built():
    for name, preset in PRESETS.items():
        size = 256 if preset.get("patch") == 16 else 28
        with torch.device("meta"):
            model = Tokenizer(TokenizerConfig((2, 256), 256, size, 1, **preset))
        assert model.config.backbone == name.split("-")[0]


@every
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 8, 8), r"images must be \[B, 3, 8, 8\], got \(2, 1, 8, 8\)"),
        (torch.zeros(3, 8, 8), r"got \(3, 8, 8\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "images must be float in .*, got torch.uint8"),
    ],
)
def test_wrong_images_are_refused(backbone, images, message):
    model = make(backbone)
    for call in (model, model.encode, model.features):
        with pytest.raises(ValueError, match=message):
            call(images)


def test_wrong_codes_are_refused():
    with pytest.raises(ValueError, match="code 2 at image 0, position 1"):
        make("mlp").decode(torch.full((1, 5), 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "cnn"}, "backbone must be one of mlp, conv, vit, got 'cnn'"),
        (
            {"backbone": "conv", "depth": 4},
            r"image_size must be divisible by 16 \(.*2\^depth\), got 8",
        ),
        ({"backbone": "vit", "patch": 5}, "image_size must be divisible by 5 .patch.*, got 8"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"num_codes": 4}, r"K_3 = 8 is outside 2\.\.4"),
    ],
)
def test_bad_settings_are_named(changes, message):
    settings = {"codebook_sizes": SIZES, "num_codes": 16, "image_size": 8, "channels": 3}
    with pytest.raises(ValueError, match=message):
        Tokenizer(TokenizerConfig(**settings | changes))


def test_config_round_trip_refuses_unknown_names():
    config = make("vit").config
    assert TokenizerConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="unknown setting 'layers'"):
        TokenizerConfig.from_dict(config.to_dict() | {"layers": 3})
