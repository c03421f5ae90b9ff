"""A small network with two heads and its batches, in float64."""

import torch

from fallline import losses, models

TASKS = {"class": "cross_entropy", "brightness": "mse"}
WEIGHTINGS = ("fixed", "uncertainty", "gradnorm")
D = torch.float64


def batch(n=8, seed=0, dtype=D):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=g, dtype=D).to(dtype)
    return x, {"class": torch.randint(0, 3, (n,), generator=g), "brightness": torch.randn(n, generator=g, dtype=D).to(dtype)}


def network(seed=0, heads=None):
    return models.MultiHead("mlp:6", heads or {"class": 3, "brightness": 1}, input_shape=(4,), seed=seed).double()


def loss_of(weighting="fixed", tasks=None, **options):
    return losses.MultiTask(tasks or TASKS, weighting=weighting, **options).double()


def walk(model, loss, steps, rate=0.1, first=0, scale=1.0):
    """Plain descent by the house's own step; the weights after each."""
    seen = []
    for step in range(first, first + steps):
        x, targets = batch(seed=step)
        targets["brightness"] = targets["brightness"] * scale
        model.zero_grad()
        loss.zero_grad()
        parts = loss.parts(model(x), targets)
        loss.backward(parts, shared=model.shared)
        with torch.no_grad():
            for p in [*model.parameters(), *loss.parameters()]:
                p -= rate * p.grad
        seen.append(torch.tensor(list(loss.weights.values()), dtype=D))
    return torch.stack(seen)


def num(value):
    """A number from a 0-d tensor with or without a graph."""
    return value.detach().item()
