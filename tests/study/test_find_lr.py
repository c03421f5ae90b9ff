"""The finder on real rows: sensible rates, and not a bit of anything changed by looking."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import fallline as fl
from fallline._core.errors import FalllineError
from fallline.data import load
from fallline.training import Settings, train


@pytest.fixture(scope="module")
def digits():
    return load("digits")


USUAL = {  # within these a network of one hidden layer trains well on standardised inputs, by the literature and by full trainings
    "sgd": (0.02, 2.0),
    "momentum": (0.002, 0.3),
    "adagrad": (0.005, 0.4),
    "adadelta": (0.3, 20.0),
    "rmsprop": (0.0005, 0.03),
    "adam": (0.0005, 0.05),
}


@pytest.mark.parametrize("name", USUAL)
def test_rates_are_sensible_on_digits(digits, name):
    found = fl.find_lr("mlp:64", digits, "auto", name)
    low, high = USUAL[name]
    assert found.found
    assert low <= found.suggested <= high
    assert found.useful[0] <= found.suggested <= found.useful[1]
    assert found.edge is None or found.edge > found.suggested
    assert 0.4 <= found.confidence <= 1
    assert len(found.lrs) == len(found.losses)


def test_the_suggested_rate_trains_nearly_as_well_as_the_best_of_a_grid(digits):
    from fallline.record import Writer
    from fallline.study.models import fresh
    from fallline.training.threads import fitting_threads

    def loss_at(lr):
        model = fresh("mlp:64", digits.input_shape, 10, seed=5)
        with fitting_threads(model, 32):
            out = train(model, digits, Settings(optimizer="adam", lr=lr, epochs=4, seed=5), writer=Writer(None), progress=False, test=False)
        return out.metrics["validation"]["loss"]

    grid = min(loss_at(lr) for lr in (0.0003, 0.001, 0.003, 0.01, 0.03))
    found = fl.find_lr("mlp:64", digits, "auto", "adam", epochs=4)
    assert loss_at(found.suggested) < 1.5 * grid


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_the_rate_of_a_run_of_six_steps_is_safe_for_six_steps(seed):
    """Trials of ten steps on few orders of the rows chose 0.46 for seed 0: after six steps the loss stood at 957,189."""
    rng = np.random.default_rng(seed)
    pictures, classes = rng.integers(0, 256, (80, 3, 16, 16)), rng.integers(0, 4, 80)
    classes[:8] = [0, 1, 2, 3] * 2
    run = fl.fit("cnn", (pictures, classes), optimizer="sgd", epochs=3, seed=seed, keep="last", quiet=True)
    assert run.status == "finished"
    assert run.metrics["train"]["loss"] < 2


def states():
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def same_states(a, b):
    return a[0] == b[0] and all(np.array_equal(x, y) for x, y in zip(a[1], b[1], strict=True)) and torch.equal(a[2], b[2])


def test_nothing_changes_with_a_module(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 10))
    model.train()
    before = copy.deepcopy(model.state_dict())
    shape = digits.fingerprint
    generators = states()
    threads = torch.get_num_threads()
    first = fl.find_lr(model, digits, "auto", "adam")
    assert same_states(states(), generators)
    assert torch.get_num_threads() == threads
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    digits.__dict__.pop("fingerprint", None)
    assert digits.fingerprint == shape
    torch.manual_seed(123)  # the answer does not hang on the user's generators either
    assert fl.find_lr(model, digits, "auto", "adam") == first


def plain_problem():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(300, 4, generator=generator)
    y = (x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])) + 0.1 * torch.randn(300, 1, generator=generator)
    data = torch.utils.data.TensorDataset(x, y)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.ReLU(), nn.Linear(8, 1)), data


@pytest.mark.parametrize("make", ["torch", "fallline", "torch, after steps"])
def test_nothing_changes_with_plain_torch(make):
    model, data = plain_problem()
    order = torch.Generator().manual_seed(9)
    loader = torch.utils.data.DataLoader(data, batch_size=20, shuffle=True, generator=order)
    optimizers = {"fallline": lambda: fl.optim.Adam(model.named_parameters(), lr=0.001)}
    optimizer = optimizers.get(make, lambda: torch.optim.Adam(model.parameters(), lr=0.001))()
    if make == "torch, after steps":
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
    weights, inner = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    generators, drawn = states(), order.get_state()
    found = fl.find_lr(model, loader, nn.functional.mse_loss, optimizer)
    assert same_states(states(), generators)
    assert torch.equal(order.get_state(), drawn)
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), model.state_dict().values(), strict=True))
    assert str(optimizer.state_dict()) == str(inner)
    for old, p in zip(grads, model.parameters(), strict=True):
        assert (old is None and p.grad is None) or torch.equal(old, p.grad)
    assert found.found or make == "torch, after steps"
    if found.found:
        assert 1e-4 < found.suggested < 1


def test_groups_keep_their_ratio():
    """A group at a hundredth of the other's rate stays there while the rate is ramped."""
    model, data = plain_problem()
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([g["lr"] for g in self.param_groups])
            return super().step(closure)

    parts = [{"params": model[0].parameters(), "lr": 0.001}, {"params": model[3].parameters(), "lr": 0.1}]
    fl.find_lr(model, list(torch.utils.data.DataLoader(data, 20)), nn.functional.mse_loss, Watched(parts))
    ratios = [b / a for a, b in seen]
    assert len(seen) > 100
    assert ratios == pytest.approx([100.0] * len(seen))


def test_labels_that_cannot_be_learned_by_a_frozen_model(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    dead = nn.Parameter(torch.zeros(1))

    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.dead = model.requires_grad_(False), dead

        def forward(self, x):
            return self.inner(x) + 0 * self.dead

    found = fl.find_lr(Frozen(), digits, "auto", "sgd")
    assert not found.found
    assert found.suggested == fl.optim.OPTIMIZERS["sgd"].default_lr
    assert "no learning rate made the loss fall" in found.text()


def test_wrong_use_is_told(digits):
    with pytest.raises(FalllineError, match="data is given"):
        fl.find_lr("mlp:8")
    with pytest.raises(FalllineError, match="did you mean"):
        fl.find_lr("mlp:8", digits, "auto", "adma")
    with pytest.raises(FalllineError, match="torch module"):
        fl.find_lr("mlp:8", [], nn.functional.mse_loss, torch.optim.SGD)
    with pytest.raises(FalllineError, match="at least one batch"):
        fl.find_lr(nn.Linear(1, 1), [], nn.functional.mse_loss, torch.optim.SGD)
    model, other = nn.Linear(1, 1), nn.Linear(1, 1)
    batches = [(torch.ones(2, 1), torch.ones(2, 1))]
    with pytest.raises(FalllineError, match="parameters of this model only"):
        fl.find_lr(model, batches, nn.functional.mse_loss, torch.optim.SGD(other.parameters(), lr=0.1))
