"""Built-in networks: shapes, counts, initial weights by their formula, and nothing drawn from torch's global state."""

import math

import pytest
import torch
from torch import nn

from fallline import data, models
from fallline._core.errors import FalllineError


@pytest.mark.parametrize("spec", ["linear", "mlp", "mlp:16", "mlp:16,8,4"])
@pytest.mark.parametrize("shape", [(7,), (2, 9, 8)])
@pytest.mark.parametrize("outputs", [1, 5])
def test_rows_in_outputs_out(spec, shape, outputs):
    model = models.build(spec, shape, outputs)
    assert model(torch.zeros(3, *shape)).shape == (3, outputs)
    models.check_output(model, torch.randn(3, *shape), outputs)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 9, 31), (4, 64, 64), (1, 128, 8)])
def test_cnn_takes_any_picture(shape):
    models.check_output(models.build("cnn", shape, 3), torch.randn(2, *shape), 3)


def test_large_pictures_do_not_make_large_dense_layers():
    count = sum(p.numel() for p in models.build("cnn", (3, 224, 224), 10).parameters())
    assert count < 300_000


def test_he_for_layers_before_a_relu_and_glorot_for_the_last():
    model = models.build("mlp:400", (900,), 300)
    model.requires_grad_(False)
    hidden, last = (layer for layer in model if isinstance(layer, nn.Linear))
    he, glorot = math.sqrt(6 / 900), math.sqrt(6 / (400 + 300))
    assert hidden.weight.abs().max() == pytest.approx(he, rel=1e-3)
    assert hidden.weight.std() == pytest.approx(he / math.sqrt(3), rel=0.01)
    assert last.weight.abs().max() == pytest.approx(glorot, rel=1e-3)
    assert not hidden.bias.any()
    assert not last.bias.any()


def test_he_keeps_the_size_of_activations_through_many_layers():
    model = models.build("mlp:" + ",".join(["256"] * 10), (256,), 1).requires_grad_(False)
    x = torch.randn(512, 256, generator=torch.Generator().manual_seed(0))
    assert 0.5 < float(model[:-1](x).square().mean()) < 2


@pytest.mark.parametrize("spec", ["linear", "mlp:8", "cnn"])
def test_the_seed_decides_the_weights_and_the_global_state_is_left_alone(spec):
    state = torch.get_rng_state()
    first = models.build(spec, (1, 8, 8), 2, seed=3).state_dict()
    assert torch.get_rng_state().equal(state)
    torch.rand(3)
    again = models.build(spec, (1, 8, 8), 2, seed=3).state_dict()
    other = models.build(spec, (1, 8, 8), 2, seed=4).state_dict()
    assert all(again[k].equal(first[k]) for k in first)
    assert any(not other[k].equal(first[k]) for k in first)


def test_dropout_is_there_when_asked_for():
    for spec in ("mlp:8,8", "cnn"):
        found = [m.p for m in models.build(spec, (1, 8, 8), 2, dropout=0.3).modules() if isinstance(m, nn.Dropout)]
        assert found
        assert set(found) == {0.3}
    assert not any(isinstance(m, nn.Dropout) for m in models.build("mlp:8", (4,), 2).modules())


@pytest.mark.parametrize(
    ("spec", "shape", "options", "message"),
    [
        ("mlpp", (4,), {}, "did you mean 'mlp'"),
        ("transformer", (4,), {}, "Known: linear"),
        ("mlp:", (4,), {}, "whole numbers"),
        ("mlp:a", (4,), {}, "whole numbers"),
        ("mlp:16,0", (4,), {}, "whole numbers"),
        ("cnn:3", (1, 8, 8), {}, "no options"),
        ("cnn", (4,), {}, "needs pictures"),
        ("cnn", (1, 7, 9), {}, "at least 8 x 8"),
        ("model.py", (4,), {}, "Give 'model.py:make_model'"),
        ("mlp", (4,), {"dropout": 1.0}, "0 <= dropout < 1"),
    ],
)
def test_refusals(spec, shape, options, message):
    with pytest.raises(FalllineError, match=message):
        models.build(spec, shape, 2, **options)


def test_all_zero_weights_are_refused_and_zero_biases_are_not():
    model = models.build("mlp:8", (4,), 2)
    for p in model.parameters():
        nn.init.zeros_(p)
    with pytest.raises(FalllineError, match="zero"):
        models.check_output(model, torch.zeros(3, 4), 2)


class Odd(nn.Module):
    """A model that gives whatever it is told to."""

    def __init__(self, give):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.norm = nn.BatchNorm1d(4)
        self.give = give

    def forward(self, x):
        self.norm(x)
        return self.give(x)


@pytest.mark.parametrize(
    ("give", "outputs", "message"),
    [
        (lambda x: x, 3, r"shape \(5, 3\) for 5 rows, but it gave \(5, 4\)"),
        (lambda x: x[0], 4, r"gave \(4,\)"),
        (lambda x: x[:, 0], 4, r"gave \(5,\)"),
        (lambda x: (x, x), 4, "one tensor, but it gave a tuple"),
        (lambda x: x.long(), 4, "floating"),
        (lambda x: x / 0, 4, "NaN or infinity"),
        (lambda x: x @ torch.ones(3, 3), 4, r"raised RuntimeError in line \d+"),
    ],
)
def test_wrong_outputs_are_refused(give, outputs, message):
    with pytest.raises(FalllineError, match=message):
        models.check_output(Odd(give), torch.ones(5, 4), outputs)


def test_one_output_may_lack_its_axis_and_the_model_is_left_as_it_was():
    model = Odd(lambda x: x[:, 0] * model.weight[0, 0] + torch.rand(()))
    model.norm.eval()
    before, state = model.norm.running_mean.clone(), torch.get_rng_state()
    models.check_output(model, torch.ones(5, 4), 1)
    assert model.training
    assert not model.norm.training
    assert model.norm.running_mean.equal(before)
    assert torch.get_rng_state().equal(state)


@pytest.mark.slow
def test_cnn_reaches_90_percent_on_fashion_mnist():
    try:
        found = data.load("fashion_mnist", folder=None)
    except FalllineError as error:
        pytest.skip(str(error))
    model = models.build("cnn", found.input_shape, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(6):
        for x, y in data.minibatches(found.train, 64, seed=0, epoch=epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    with torch.no_grad():
        assert (model(found.test.x).argmax(1) == found.test.y).float().mean() >= 0.90
