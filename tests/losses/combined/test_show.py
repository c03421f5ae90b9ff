"""Two heads on one trunk learn both tasks: the class and the brightness of a picture, by every weighting."""

import importlib.util
from functools import cache
from pathlib import Path

import pytest
import torch

from fallline import FalllineError, data, losses, models
from tests.losses.combined.toys import TASKS, WEIGHTINGS

EXAMPLE = Path(__file__).parents[3] / "examples" / "multi_task.py"


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_digits_class_and_brightness(weighting):
    digits, ink = data.load("digits", seed=0), data.load("digits", seed=0, scale="none")
    gray, held = ink.train.x.flatten(1).mean(1), ink.test.x.flatten(1).mean(1)
    std, mean = torch.std_mean(gray)
    model = models.MultiHead("mlp:64", {"class": 10, "brightness": 1}, input_shape=digits.input_shape, seed=0)
    loss = losses.MultiTask(TASKS, weighting=weighting)
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=5e-3)
    for epoch in range(15):
        for rows in data.batches(len(gray), 64, seed=0, epoch=epoch):
            optimizer.zero_grad()
            targets = {"class": digits.train.y[rows], "brightness": (gray[rows] - mean) / std}
            loss.backward(loss.parts(model(digits.train.x[rows]), targets), shared=model.shared)
            optimizer.step()
    x, y = digits.test
    with torch.no_grad():
        out = model(x)
    true = (held - mean) / std
    accuracy = (out["class"].argmax(1) == y).float().mean().item()
    r2 = 1 - ((out["brightness"] - true).square().sum() / (true - true.mean()).square().sum()).item()
    assert accuracy >= 0.95
    assert r2 >= 0.95
    moved = max(abs(loss.weights["class"] - 1), abs(loss.weights["brightness"] - (0.5 if weighting == "uncertainty" else 1)))
    assert (moved > 0.1) == (weighting != "fixed")


@cache
def example():
    spec = importlib.util.spec_from_file_location("multi_task_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_two_heads_cost_the_class_half_a_point_at_most_on_fashion_mnist():
    """On a third of the rows: the network with both heads against the one for the class alone, and R2 of the brightness."""
    try:
        train, test = example().load(20000)
    except FalllineError as error:
        pytest.skip(str(error))
    alone, both = (example().judge(example().fit(way, train, epochs=6, batch=64, seed=0), test) for way in ("class alone", "both, fixed"))
    assert both[0] >= alone[0] - 0.5
    assert both[1] >= 0.95
    assert alone[0] >= 88
