"""The tokenizer's image losses: what they are zero for, and what their gradients reach."""

import pytest
import torch
from torch import nn

from vcqlib.models.tokenizer import Tokenizer, TokenizerConfig
from vcqlib.training.losses import Backbone, ImageLosses, PatchCritic, Perceptual
from vcqlib.training.recipe import Losses, Recipe
from vcqlib.training.tokenizer import train_tokenizer


def pictures(seed=0, channels=3, size=32):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(4, channels, size, size, generator=g) * 2 - 1


class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 3, 2)

    def forward(self, x):
        first = self.a(x).relu()
        return [first, self.b(first)]


def test_pixels_are_the_means_they_are_called():
    x, y = pictures(), pictures(1)
    for name, expected in (("l2", (x - y).square().mean()), ("l1", (x - y).abs().mean())):
        loss = ImageLosses(Losses(pixels=name), 3, 32)(y, x)
        torch.testing.assert_close(loss.total, expected)
        torch.testing.assert_close(loss.terms["mse"], (x - y).square().mean())


def test_perceptual_distance_is_zero_for_equal_images_and_moves_only_the_image():
    torch.manual_seed(0)
    network, x = Maps(), pictures()
    distance = Perceptual(network)
    assert distance(x, x).item() == 0
    made = pictures(1).requires_grad_()
    value = distance(made, x)
    value.backward()
    assert value > 0 and made.grad.abs().sum() > 0
    assert all(p.grad is None for p in network.parameters())
    # scale of the features does not matter: maps are compared by direction
    with torch.no_grad():
        network.b.weight *= 3
        network.b.bias *= 3
    torch.testing.assert_close(distance(made, x), value)


def test_grey_images_are_given_three_channels():
    assert Perceptual(Maps())(pictures(0, 1), pictures(1, 1)) > 0


def test_the_critic_sees_detached_images_and_the_generator_a_frozen_critic():
    torch.manual_seed(0)
    losses = ImageLosses(Losses(adversarial=0.1, critic_width=4), 3, 32)
    x, made = pictures(), pictures(1).requires_grad_()
    loss = losses(made, x)
    adversarial, critic = loss.terms["adversarial"], loss.terms["critic"]
    weights = list(losses.critic.parameters())
    assert torch.autograd.grad(adversarial, made, retain_graph=True)[0].abs().sum() > 0
    none = torch.autograd.grad(adversarial, weights, retain_graph=True, allow_unused=True)
    assert all(g is None for g in none)
    assert torch.autograd.grad(critic, made, retain_graph=True, allow_unused=True)[0] is None
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(critic, weights))


@pytest.mark.parametrize(("size", "patches"), [(8, 3), (32, 3), (64, 7)])
def test_the_critic_learns_to_tell_two_sets_apart(size, patches):
    torch.manual_seed(0)
    critic = PatchCritic(1, size, width=8)
    assert critic(torch.zeros(2, 1, size, size)).shape == (2, 1, patches, patches)
    real, made = pictures(0, 1, size) * 0.2 + 0.5, pictures(1, 1, size)
    optimiser = torch.optim.Adam(critic.parameters(), 1e-2)
    first = critic.loss(real, made, 0.0).item()
    for _ in range(15):
        optimiser.zero_grad()
        critic.loss(real, made, 0.001).backward()
        optimiser.step()
    assert critic.loss(real, made, 0.0).item() < 0.5 * first
    assert critic.averages[0] > critic.averages[1]


def test_the_critic_starts_by_the_recipes_seed():
    config = TokenizerConfig((2, 4), 4, 8, 1, width=8, depth=1)
    images = torch.randint(256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    state, trained = Tokenizer(config).state_dict(), []
    for seed in (1, 2):  # of the global generator: no matter
        model = Tokenizer(config)
        model.load_state_dict(state)
        torch.manual_seed(seed)
        losses = Losses(adversarial=1.0, critic_width=4)
        trained.append(train_tokenizer(model, images, Recipe(3, 10), losses=losses))
    assert torch.equal(*(model.decoder.out.weight for model in trained))


def test_hinge_and_lecam_by_hand():
    critic = PatchCritic(1, 8, width=4)
    critic.forward = lambda x: x.mean((1, 2, 3), keepdim=True)
    real, made = torch.full((2, 1, 8, 8), 0.5), torch.full((2, 1, 8, 8), -0.25)
    hinge = 0.5 * ((1 - 0.5) + (1 - 0.25))
    assert critic.loss(real, made, 0.0).item() == pytest.approx(hinge)
    means = [0.001 * 0.5, 0.001 * -0.25]
    lecam = (0.5 - means[1]) ** 2 + (means[0] + 0.25) ** 2
    assert critic.loss(real, made, 2.0).item() == pytest.approx(hinge + 2 * lecam)


def test_the_adaptive_weight_makes_both_gradients_equally_long():
    torch.manual_seed(0)
    last = torch.randn(3, 3, 1, 1, requires_grad=True)
    made, x = torch.conv2d(pictures(1), last), pictures()
    plain = ImageLosses(Losses(adversarial=0.1, critic_width=4), 3, 32)
    adaptive = ImageLosses(Losses(adversarial=0.1, adaptive=True, critic_width=4), 3, 32)
    adaptive.load_state_dict(plain.state_dict())
    a, b = plain(made, x, last), adaptive(made, x, last)

    def length(term):
        return torch.autograd.grad(term, last, retain_graph=True)[0].norm()

    ratio = length(a.terms["mse"]) / (length(a.terms["adversarial"]) + 1e-4)
    gap = b.total - a.total
    torch.testing.assert_close(gap, 0.1 * (ratio - 1) * a.terms["adversarial"], rtol=1e-3,
                               atol=1e-5)  # fmt: skip


def test_a_backbone_reads_a_weights_file_and_nothing_else(tmp_path):
    from torchvision import models

    torch.manual_seed(0)
    model = models.squeezenet1_1(weights=None)
    torch.save(model.state_dict(), tmp_path / "net.pth")
    maps = Backbone("squeezenet1_1", tmp_path / "net.pth")(torch.zeros(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == [64, 128, 256]
    with pytest.raises(ValueError, match="no model 'alexnot'"):
        Backbone("alexnot", tmp_path / "net.pth")
    with pytest.raises(ValueError, match="use vgg16"):
        Backbone("resnet18", tmp_path / "net.pth")
    with pytest.raises(FileNotFoundError, match="no weights of vgg16"):
        Backbone("vgg16", tmp_path / "none.pth")
    with pytest.raises(ValueError, match="net.pth does not hold the weights of alexnet"):
        Backbone("alexnet", tmp_path / "net.pth")
    for junk in (b"", b"hello", (tmp_path / "net.pth").read_bytes()[:-500]):
        (tmp_path / "junk.pth").write_bytes(junk)
        with pytest.raises(ValueError, match="junk.pth is damaged, or no file of weights alone"):
            Backbone("alexnet", tmp_path / "junk.pth")


def test_bad_losses_are_named():
    with pytest.raises(ValueError, match="needs a feature network"):
        ImageLosses(Losses(perceptual=1.0), 3, 32)
    with pytest.raises(ValueError, match="adversarial must be at least 0, got -1"):
        Losses(adversarial=-1)
    with pytest.raises(ValueError, match="pixels must be 'l2' or 'l1', got 'l3'"):
        Losses(pixels="l3")
