"""The pass without autograd gives autograd's gradients, and is taken only where it may be."""

import pytest
import torch
from torch import nn

from fallline.losses import MSE, CrossEntropy
from fallline.training.dense import dense_stack

STACKS = {
    "linear": lambda: nn.Sequential(nn.Linear(6, 3)),
    "mlp": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)),
    "others": lambda: nn.Sequential(
        nn.Identity(), nn.Linear(6, 8, bias=False), nn.LeakyReLU(0.1), nn.Sequential(nn.Linear(8, 4), nn.Sigmoid()), nn.Linear(4, 3)
    ),
    "starts with an activation": lambda: nn.Sequential(nn.Tanh(), nn.Linear(6, 3), nn.ReLU()),
    "flat": lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 3)),
}


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-13), (torch.float32, 2e-6)])
@pytest.mark.parametrize("rows", [1, 7, 32])
def test_gradients_equal_autograd(name, dtype, limit, rows):
    torch.manual_seed(0)
    model = STACKS[name]().to(dtype)
    x = torch.randn(rows, *((2, 3) if name == "flat" else (6,)), dtype=dtype)
    y = torch.randint(0, 3, (rows,))
    stack = dense_stack(model, x)
    assert stack is not None
    raw, value = stack.step(x, lambda raw: CrossEntropy().quick_slope(raw, y))
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    expected = model(x)
    loss = nn.functional.cross_entropy(expected, y)
    loss.backward()
    assert (raw - expected).abs().max() < limit * 10
    assert (value - loss).abs() < limit * 10
    for ours_, p in zip(ours, model.parameters(), strict=True):
        assert ours_.shape == p.shape
        assert (ours_ - p.grad).abs().max() < limit


def test_dropout_draws_what_torch_draws():
    model = nn.Sequential(nn.Linear(6, 50), nn.ReLU(), nn.Dropout(0.4), nn.Linear(50, 1)).double()
    x, y = torch.randn(9, 6, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    stack = dense_stack(model, x)
    torch.manual_seed(3)
    stack.step(x, lambda raw: MSE().quick_slope(raw, y[:, None]))
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    torch.manual_seed(3)
    ((model(x).reshape(-1) - y) ** 2).mean().backward()
    for ours_, p in zip(ours, model.parameters(), strict=True):
        assert torch.allclose(ours_, p.grad, atol=1e-14)


def test_dropout_in_evaluation_mode_draws_nothing():
    """A user may freeze one layer's mode; the pass drew all the same."""
    model = nn.Sequential(nn.Linear(6, 50), nn.Dropout(0.4), nn.Linear(50, 1))
    model[1].eval()
    x = torch.randn(9, 6)
    stack = dense_stack(model, x)
    assert stack is not None
    raw, _ = stack.step(x, lambda raw: (raw.sum(), torch.ones_like(raw)))
    assert torch.allclose(raw, model(x), atol=1e-6)


def _tied():
    a = nn.Linear(6, 6)
    b = nn.Linear(6, 6)
    b.weight = a.weight
    return nn.Sequential(a, nn.ReLU(), b)


def _tied_biases():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].bias = model[0].bias
    return model


def _hooked():
    model = STACKS["mlp"]()
    model[0].register_forward_hook(lambda *_: None)
    return model


def _patched():
    model = STACKS["mlp"]()
    plain = model[0].forward
    model[0].forward = lambda x: 2 * plain(x)
    return model


def _frozen():
    model = STACKS["mlp"]()
    model[0].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(6, 3),
        lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)),
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)),
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Flatten(), nn.Linear(8, 3)),
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))),
        lambda: nn.Sequential(nn.ReLU()),
        _tied,
        _tied_biases,
        _hooked,
        _patched,
        _frozen,
    ],
)
def test_anything_else_is_left_to_autograd(make):
    assert dense_stack(make(), torch.zeros(2, 6)) is None


def test_rows_that_are_not_flat_need_a_flatten():
    assert dense_stack(STACKS["linear"](), torch.zeros(2, 4, 6)) is None
    assert dense_stack(STACKS["linear"]().double(), torch.zeros(2, 6)) is None
