"""The figure that lets a reader move N: cells, samples and memorised points are what they say."""

import numpy as np
import pytest
import torch

import vcqlib
from vcqlib.chapters import scenes
from vcqlib.lab import trial

EXTENT = (-2.0, 2.0)


def test_points_come_back_within_a_step_and_those_outside_on_the_edge() -> None:
    points = torch.tensor([[-2.0, 1.999], [0.0, 0.5], [9.0, -9.0]])
    text = scenes.packed_points(points, EXTENT)
    assert len(text) == 4 * len(points)
    back = scenes.unpacked_points(text, EXTENT)
    assert np.abs(back - points.clamp(*EXTENT).numpy()).max() <= 4 / scenes.FINE


def test_cells_fill_when_their_first_and_second_point_come() -> None:
    generator = torch.Generator().manual_seed(0)
    training = torch.randint(3, (40, 3), generator=generator)
    places = torch.randint(3, (25, 3), generator=generator)
    ns = (5, 10, 40)
    found = scenes.occupied(places, training, ns)
    for p, place in enumerate(places):
        for t in range(3):
            for k, n in enumerate(ns):
                held = int((training[:n, : t + 1] == place[: t + 1]).all(1).sum())
                assert [held >= 1, held >= 2] == (found[p, t] <= k).tolist()


@pytest.fixture(scope="module")
def scene() -> dict:
    arms = {arm: tuple(vcqlib.codebook_sizes(arm, 8, 64).tolist())
            for arm in ("uniform", "loglinear")}  # fmt: skip
    live = trial.Trial(arms=arms, passes=(1.0,), n=30, samples=50, fresh=50, tokenizer_steps=20)
    (tokenizers,) = trial.tokenizers([live])
    return scenes.scene(live, tokenizers, (20, 60), 150, EXTENT, samples=300)


def test_a_scene_counts_what_it_draws(scene: dict) -> None:
    assert scene["ns"] == [20, 60] and len(scene["training"]) == 4 * 60
    for arm in scene["arms"]:
        assert len(arm["cells"]) == len(arm["filled"]) == scenes.SIDE**2 * 8
        codes = [scenes.ALPHABET.index(c) for c in arm["cells"]]
        assert (np.array(codes).reshape(-1, 8) < np.array(arm["sizes"])).all()
        for n, at in zip(scene["ns"], arm["at"], strict=True):
            assert at["passes"] * n == pytest.approx(150 * 16)
            assert len(at["known"]) * 4 == len(at["samples"]) == 4 * scenes.SHOWN
            assert len(at["repeated"]) == n and set(at["known"]) <= {"A", "B"}
            assert at["alone"] == sorted(at["alone"])  # what is alone stays alone
    uniform, variable = (arm["at"][0] for arm in scene["arms"])
    assert uniform["alone"][0] > variable["alone"][0]
    assert uniform["share"] > uniform["fresh"]  # 120 passes over 20 points: learned by heart


def test_its_static_version_has_a_panel_for_each_arm_at_both_ends(scene: dict) -> None:
    titles = [ax.get_title() for ax in scenes.static(scene, EXTENT).axes]
    assert titles == [
        "uniform, N = 20",
        "uniform, N = 60",
        "loglinear, N = 20",
        "loglinear, N = 60",
    ]
