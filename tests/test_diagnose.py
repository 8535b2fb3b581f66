"""`vcq diagnose`: its page as text, JSON and HTML, and one line for bad input."""

import json

import numpy as np
import pytest
from test_diagnosis import K, chain, held_out, ideal, pictures, with_column

from browser import launched, visit
from vcqlib.cli.app import main
from vcqlib.cli.page import page
from vcqlib.entropy.diagnosis import diagnose
from vcqlib.entropy.twins import twins

__all__ = ["pictures"]  # a fixture


@pytest.fixture
def codes_file(tmp_path):
    np.save(tmp_path / "codes.npy", with_column(3, 7).astype(np.uint16))
    return tmp_path / "codes.npy"


def test_the_page_as_text_and_json(codes_file, tmp_path, capsys):
    line = ["diagnose", str(codes_file), "--sizes", str(K), "--json", str(tmp_path / "d.json")]
    assert main(line) == 0
    out = capsys.readouterr().out
    found = diagnose(np.load(codes_file), sizes=[K])
    assert json.loads((tmp_path / "d.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    for advice in found.advice:
        assert advice.finding in " ".join(out.split())
    assert f"cliff {found.measured_cliff} positions tell 99 %" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 100


def test_a_page_in_a_browser(tmp_path, pictures):
    """Nothing from outside, no fault of axe-core in light and dark, no wider than a phone."""
    codes = np.concatenate([ideal(3, seed=5).repeat(2, axis=0), with_column(3, 7)])
    found = diagnose(codes, np.arange(len(codes)) % 5, sizes=[K]).with_model(held_out(5.0, 5.2))
    html = page(found, '<b>"codes" & more</b>', twins(codes[:6], pictures))
    (tmp_path / "d.html").write_text(html)
    assert "&lt;b&gt;" in html and "<b>" not in html and html.count("data:image/png") == 6
    with launched() as browser:
        seen = visit(browser, tmp_path, "d.html")
    assert (seen.troubles, seen.violations, seen.wide) == ([], [], [])


@pytest.mark.parametrize("length", [1, 40])
def test_pages_of_any_length(length, tmp_path):
    found = diagnose(ideal(300, (5,) * length), sizes=[5])
    (tmp_path / "d.html").write_text(page(found, "codes.npy"))
    with launched() as browser:
        seen = visit(browser, tmp_path, "d.html")
    assert (seen.troubles, seen.violations, seen.wide) == ([], [], [])


def test_a_llamagen_folder_with_its_pictures(tmp_path, pictures, capsys):
    codes = ideal(6, (K,) * 4)
    codes[1] = codes[0]
    codes[4] = codes[5]
    for name, rows in (("x_codes", codes[:, None, None]), ("x_labels", np.arange(6)[:, None])):
        (tmp_path / name).mkdir()
        for i, row in enumerate(rows):
            np.save(tmp_path / name / f"{i}.npy", row)
    line = ["diagnose", str(tmp_path / "x_codes"), "--images", str(tmp_path / "pictures")]
    assert main([*line, "--labels", str(tmp_path / "x_labels")]) == 0
    assert "(6 classes)" in capsys.readouterr().out
    assert main([*line, "--html", str(tmp_path / "d.html")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "equal codes 2 groups of pictures; 1 equal to the pixel, 1 not" in out
    assert "(6 classes)" in out
    assert "not equal" in (tmp_path / "d.html").read_text()


def test_a_small_model_learns_a_chain(tmp_path, monkeypatch, capsys):
    """Its held-out bits lie between the source's, 3 + 4 · 1, and those of single positions."""
    monkeypatch.setenv("VCQ_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "chain.npy", chain(1000, 5, 8))
    files = ["--json", str(tmp_path / "d.json")]
    assert main(["diagnose", str(tmp_path / "chain.npy"), "--model-steps", "80", *files]) == 0
    record = json.loads((tmp_path / "d.json").read_text())
    assert 6.8 < sum(record["model_held_out"]) < 0.75 * sum(record["unigram_bits"])
    assert "held out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sizes", "32"], "sizes: K_1 = 32, but position 1 holds the token 63"),
        (["--sizes", "64", "64"], "sizes: got 2 values, need 1 or T = 16"),
        (["--sizes", "x"], "--sizes"),
        (["--labels", "absent.npy"], "absent.npy does not exist"),
        (["--labels", "short.npy"], "short.npy: labels of shape (3,) do not fit 5000 sequences"),
        (["--images", "absent"], "absent does not exist"),
        (["--images", "empty"], "holds no image"),
        (["--images", "pictures"], "pictures: 6 images do not go with 5,000 sequences"),
        (["--model-steps", "-1"], "--model-steps must be at least 0, got -1"),
        (["--html", "/proc/no/d.html"], "/proc/no/d.html could not be written"),
        (["--json", "/proc/no/d.json"], "/proc/no/d.json could not be written"),
    ],
)
def test_bad_options_are_one_line(options, message, codes_file, pictures, monkeypatch, capsys):
    monkeypatch.chdir(codes_file.parent)
    np.save("short.npy", np.arange(3))
    (codes_file.parent / "empty").mkdir()
    assert main(["diagnose", str(codes_file), *options]) == 2
    # a folder of images says what it took before
    *_, said = capsys.readouterr().err.splitlines()
    assert said.startswith("vcq: ") and message in said
