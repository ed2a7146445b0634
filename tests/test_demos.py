"""Each demo draws a picture without a display; the logistic regression stops where it should."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the demos need matplotlib: pip install '.[demos]'")
Image = pytest.importorskip("PIL.Image", reason="needs pillow: pip install '.[demos]'")

ROOT = pathlib.Path(__file__).parent.parent
DEMOS = ("linear_regression", "logistic_regression", "two_layer_net", "micrograd_moons")


def run(name, *options):
    command = [sys.executable, str(ROOT / "demos" / f"{name}.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", DEMOS)
def test_a_few_steps_give_a_picture(name, tmp_path):
    path = tmp_path / "picture.png"
    run(name, "--steps", "3", "--save", str(path))
    with Image.open(path) as picture:
        assert picture.width >= 600 and picture.height >= 400
        pixels = np.asarray(picture.convert("RGB").reduce(8)).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 20


@pytest.mark.parametrize("options", [(), ("--compile",)])
def test_logistic_regression_stops_at_iteration_380(options, tmp_path):
    path = str(tmp_path / "picture.png")
    out = run("logistic_regression", "--seed", "10", "--save", path, *options)
    assert "Iteration 380: loss 0.0493, accuracy 99.50%" in out


@pytest.mark.parametrize("name", DEMOS)
def test_a_compiled_step_gives_the_same_picture(name, tmp_path):
    pictures = []
    for options in ((), ("--compile",)):
        path = tmp_path / f"picture{len(pictures)}.png"
        run(name, "--steps", "25", "--save", str(path), *options)
        with Image.open(path) as picture:
            pictures.append(np.asarray(picture.convert("RGB")).astype(int))
    if name == "two_layer_net":
        # The lower panel shows rounding errors, which depend on the order of sums.
        pictures = [picture[:390] for picture in pictures]
    assert np.mean(abs(pictures[0] - pictures[1]) > 8) < 1e-3


def test_gif_has_several_frames(tmp_path):
    path = tmp_path / "picture.gif"
    run("linear_regression", "--steps", "50", "--save", str(path))
    with Image.open(path) as picture:
        assert picture.n_frames > 1
