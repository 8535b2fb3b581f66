"""ADM's scores: definitions against independent ones, and files of another layout refused."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
import torch
from scipy import linalg
from scipy.spatial.distance import cdist

from vcqlib.cli.app import main
from vcqlib.metrics import adm, extractors
from vcqlib.metrics import distances as ev
from vcqlib.metrics.extractors import load_extractor


def normal(n, d, seed=0, shift=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(shift, scale, (n, d))


# --- definitions --------------------------------------------------------------------------------


def score_of_parts(p, split):
    """As ADM's evaluator spells it: p · (log p − log mean p), a part after the other."""
    parts = [p[i : i + split] for i in range(0, len(p), split)]
    divergences = [(x * (np.log(x) - np.log(x.mean(0)))).sum(1).mean() for x in parts]
    return np.exp(divergences).mean()


def test_the_inception_score_is_the_mean_of_its_parts():
    p = np.random.default_rng(0).dirichlet(np.full(7, 0.3), 1100)
    assert adm.inception_score(p, 500) == pytest.approx(score_of_parts(p, 500), rel=1e-12)
    assert adm.inception_score(p) == pytest.approx(ev.class_score(p), rel=1e-12)  # one part
    assert adm.inception_score(p, 500) != pytest.approx(ev.class_score(p), rel=1e-4)
    assert adm.inception_score(np.eye(5), 5) == pytest.approx(5)  # a chance of 0 is no NaN


def test_the_inception_score_agrees_with_torch_fidelity():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = torch.from_numpy(normal(600, 9, scale=2))
    theirs = isc_features_to_metric(logits, splits=3, shuffle=False)
    ours = adm.inception_score(logits.softmax(1), 200)
    assert ours == pytest.approx(theirs["inception_score_mean"], rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(60, 150), (150, 60)])
def test_unequal_precision_and_recall_are_those_of_all_distances(n, m):
    real, fake = normal(n, 4), normal(m, 4, 1, 0.5, 0.7)

    def inside(points, centres):
        radii = np.sort(cdist(centres, centres), axis=1)[:, 3]  # the first is the point itself
        return (cdist(points, centres) <= radii).any(axis=1).mean()

    found = ev.precision_recall(real, fake, unequal=True)
    assert found == pytest.approx((inside(fake, real), inside(real, fake)))
    with pytest.raises(ValueError, match="give equal counts"):
        ev.precision_recall(real, fake)
    with pytest.raises(ValueError, match="at least 4 images, there are 3"):
        ev.precision_recall(real, fake[:3], unequal=True)


# --- references ---------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """Features of a width that a test can compare: 6 pooled, 5 spatial."""
    for module in (adm, extractors):
        monkeypatch.setattr(module, "POOLED", 6)
        monkeypatch.setattr(module, "SPATIAL", 5)


def arrays(**changes):
    x, y = normal(50, 6), normal(50, 5)
    found = {"mu": x.mean(0), "sigma": np.cov(x.T), "mu_s": y.mean(0), "sigma_s": np.cov(y.T),
             "arr_0": np.zeros((4, 8, 8, 3), np.uint8)}  # fmt: skip
    return {k: v for k, v in (found | changes).items() if v is not None}


def distance(a, b):
    """scipy's matrix root in place of two decompositions."""
    (m, s), (n, t) = a, b
    return np.square(m - n).sum() + np.trace(s + t - 2 * linalg.sqrtm(s @ t).real)


def inception(n, seed):
    p = np.random.default_rng(seed).dirichlet(np.ones(4), n)
    return adm.Inception(normal(n, 6, seed, 0.3), normal(n, 5, seed, 0.3), p)


def test_scores_are_those_of_the_moments_in_the_file(small, tmp_path):
    given, made, real = arrays(), inception(80, 3), inception(40, 4)
    np.savez(tmp_path / "batch.npz", **given)
    batch = adm.load_reference(tmp_path / "batch.npz")
    assert batch.images.shape == (4, 3, 8, 8)
    found = adm.scores(made, batch, real)
    for name, suffix, features in (("FID", "", made.pooled), ("sFID", "_s", made.spatial)):
        ours = features.mean(0), np.cov(features.T)
        expected = distance(ours, (given[f"mu{suffix}"], given[f"sigma{suffix}"]))
        assert found[name] == pytest.approx(expected, rel=1e-6), name
    assert found["Inception score"] == pytest.approx(score_of_parts(made.probabilities, 5000))
    both = ev.precision_recall(real.pooled, made.pooled, unequal=True)
    assert (found["precision"], found["recall"]) == both


def test_what_a_reference_lacks_is_said_or_made_of_its_images(small, tmp_path):
    made, real = inception(80, 3), inception(40, 4)
    np.savez(tmp_path / "moments.npz", **arrays(mu_s=None, sigma_s=None, arr_0=None))
    found = adm.scores(made, adm.load_reference(tmp_path / "moments.npz"), None)
    assert found["sFID"] == "unknown: the reference has no mu_s and sigma_s"
    assert "no images" in found["precision, recall"] and found["FID"] > 0
    np.savez(tmp_path / "images.npz", arr_0=arrays()["arr_0"])
    found = adm.scores(made, adm.load_reference(tmp_path / "images.npz"), real)
    for name, which in (("FID", "pooled"), ("sFID", "spatial")):
        expected = ev.frechet_distance(getattr(made, which), getattr(real, which))
        assert found[name] == pytest.approx(expected)


WRONG = {
    "nothing": ({k: None for k in arrays()} | {"images": np.zeros(3)}, "neither mu and sigma nor"),
    "no sigma": ({"sigma": None}, "has no sigma: not a reference"),
    "no sigma_s": ({"sigma_s": None}, "has no sigma_s: not a reference"),
    "of another network": ({"mu": np.zeros(64)}, r"mu must be Inception's, \[6\], got \(64,\)"),
    "other spatial ones": ({"mu_s": np.zeros(6)}, r"mu_s must be Inception's, \[5\], got \(6,\)"),
    "a flat sigma": ({"sigma": np.zeros(6)}, r"a covariance \[d, d\]"),
    "channels first": ({"arr_0": np.zeros((4, 3, 8, 8), np.uint8)}, r"uint8 \[n, H, W, 3\], got"),
    "floats": ({"arr_0": np.zeros((4, 8, 8, 3))}, r"arr_0 must be uint8 .* got float64"),
    "nan": ({"mu": np.full(6, np.nan)}, "NaN"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_reference_of_another_layout_is_refused_in_one_line(case, small, tmp_path):
    changes, message = WRONG[case]
    np.savez(tmp_path / "r.npz", **arrays(**changes))
    with pytest.raises(ValueError, match=message) as refused:
        adm.load_reference(tmp_path / "r.npz")
    assert "r.npz" in str(refused.value) and "\n" not in str(refused.value)


# --- the network --------------------------------------------------------------------------------


def test_the_real_network_gives_the_map_of_mixed_6_and_the_unbiased_classes(tmp_path, monkeypatch):
    """torch-fidelity's network with drawn weights; the branch computed once more by hand."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    with monkeypatch.context() as patch:  # bare: what it would download is not at hand
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        bare = theirs.FeatureExtractorInceptionV3("bare", ["2048"])
    torch.save(bare.state_dict(), tmp_path / "weights.pth")
    images = torch.randint(256, (3, 3, 20, 20), dtype=torch.uint8)
    inputs = []
    bare.Mixed_6d.register_forward_pre_hook(lambda _, given: inputs.append(given[0].clone()))
    with torch.no_grad():
        pooled = bare(images)[0]
        branch = bare.Mixed_6d.branch1x1
        spatial = branch.bn(branch.conv(inputs[0])).relu()[:, :7]
    extract = load_extractor("inception", weights=tmp_path / "weights.pth")
    found = extract.everything(images)
    assert found.spatial.shape == (3, 2023) and found.probabilities.shape == (3, 1008)
    # as TensorFlow lays a map out: rows, columns, channels
    assert found.spatial.reshape(3, 17, 17, 7).transpose(0, 3, 1, 2) == pytest.approx(
        spatial.numpy(), rel=1e-4, abs=1e-5
    )
    assert found.pooled == pytest.approx(pooled.numpy(), rel=1e-4, abs=1e-5)
    logits = pooled @ bare.fc.weight.T  # without the bias, as ADM's evaluator multiplies
    assert found.probabilities == pytest.approx(logits.softmax(1).detach().numpy(), rel=1e-4)
    assert extract(images) == pytest.approx(found.pooled)


class Fake(torch.nn.Module):
    """Six pooled features, a map whose first seven channels make 7, four classes."""

    def __init__(self, name, features, feature_extractor_weights_path):
        super().__init__()
        assert features == ["2048", "logits_unbiased"]
        self.Mixed_6d = torch.nn.Module()
        self.Mixed_6d.branch1x1 = torch.nn.Identity()

    def forward(self, images):
        x = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, (2, 1)).flatten(1)
        self.Mixed_6d.branch1x1(x.repeat(1, 2)[:, :, None, None])
        return x, x[:, :4]


@pytest.fixture
def network(monkeypatch, tmp_path):
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Fake
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for place in (adm, extractors):
        monkeypatch.setattr(place, "POOLED", 6)
        monkeypatch.setattr(place, "SPATIAL", 7)
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (150, 8, 8, 3), dtype=np.uint8)
    np.savez("samples.npz", arr_0=pixels[:50])
    np.savez("batch.npz", arr_0=pixels[50:])
    np.savez("own.npz", arr_0=pixels[50:], mu=np.zeros(6), sigma=np.eye(6), mu_s=np.ones(7),
             sigma_s=np.eye(7))  # fmt: skip
    return pixels


def numbers(line, capsys):
    assert main([*line.split(), "--json", "m.json", "--device", "cpu"]) == 0, capsys.readouterr()
    with open("m.json") as file:
        return json.load(file)


def test_the_command_gives_the_five_numbers_of_adms_evaluator(network, capsys):
    found = numbers("evaluate samples.npz --reference own.npz --weights w.pth", capsys)
    assert {"Inception score", "FID", "sFID", "precision", "recall"} <= found.keys()
    assert found["reference"] == "own.npz" and "real/real floor at 50 images" in found
    pictures = torch.from_numpy(network[:50].transpose(0, 3, 1, 2).copy())
    made = load_extractor("inception", weights="w.pth").everything(pictures)
    own = ev.Moments(np.ones(7), np.eye(7))
    expected = ev.frechet_from_moments(ev.moments(made.spatial), own)
    assert found["sFID"] == pytest.approx(expected, rel=1e-5)
    # a batch without moments gives those of its images
    images = numbers("evaluate samples.npz --reference batch.npz --weights w.pth", capsys)
    assert images["precision"] == found["precision"] and images["FID"] != found["FID"]
    # several files of samples are one set
    twice = numbers("evaluate samples.npz samples.npz --reference own.npz --weights w.pth", capsys)
    assert twice["samples"] == 100
    np.savez("nchw.npz", arr_0=np.zeros((4, 3, 8, 8), np.uint8))
    line = "evaluate samples.npz --reference nchw.npz --weights w.pth"
    assert main(line.split()) == 2
    said = capsys.readouterr().err
    assert "nchw.npz: arr_0 must be uint8 [n, H, W, 3]" in said and said.count("\n") == 1
