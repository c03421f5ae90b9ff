"""Both ways of giving predictions to MSLE are one loss."""

import torch

import fallline as fl
from fallline.losses import MSLE, predict_from


def test_logarithms_and_values_agree_and_read_back():
    x = torch.tensor([0.5, 3.0, 200.0, -0.5], dtype=torch.float64)
    y = torch.tensor([1.0, 2.0, 180.0, 0.0], dtype=torch.float64)
    loss = MSLE(input_from="logarithms")
    assert torch.allclose(loss(torch.log1p(x), y), MSLE()(x, y), atol=1e-15)
    assert torch.allclose(loss.quick(torch.log1p(x), y), MSLE().quick(x, y), atol=1e-15)
    assert torch.allclose(predict_from(loss.output, torch.log1p(x)), x, atol=1e-12)
    assert MSLE().output == "identity"


def test_training_by_name_predicts_logarithms_and_learns():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=generator)
    y = torch.exp(x @ torch.tensor([1.0, -0.5, 0.3]) + 2)
    run = fl.fit("linear", (x.numpy(), y.numpy()), loss="msle", lr=0.05, epochs=15, quiet=True)
    assert any("log(1 + value)" in choice for choice in run.choices)
    assert run.metrics["test"]["loss"] < 0.05
    assert run.metrics["test"]["r2"] > 0.9
