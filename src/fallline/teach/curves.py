"""The picture of a concept as plain numbers, to be drawn by matplotlib (a file) or as SVG (a page).

activation: value and slope          loss: value and slope against the output, for a fixed target          schedule: rate against step
optimizer: its path down an oblong bowl          penalty: price and slope of one weight
"""

import inspect
from collections.abc import Callable
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from fallline._core.errors import FalllineError
from fallline.teach.concepts import names
from fallline.teach.lines import POINTS, Curves, Line, line, pair
from fallline.teach.loss_curves import loss_curves


def _activation(name: str) -> Curves:
    from fallline.activations import ACTIVATIONS

    found = ACTIVATIONS[name]
    x = torch.linspace(-5, 5, POINTS, dtype=torch.float64)
    zero = torch.zeros_like(x)
    if name == "softmax":
        lines = pair(" of entry 1 of softmax(x, 0)", lambda v: found.value(torch.stack([v, torch.zeros_like(v)], -1))[:, 0], -5, 5)
    elif name == "maxout":
        lines = pair(" of maxout(x, −x/2)", lambda v: found.value(torch.stack([v, -v / 2], -1))[:, 0], -5, 5)
    elif name == "crelu":
        value, slope = found.value(x[:, None]), found.derivative(x[:, None])
        lines = [line("first value", x, value[:, 0], "value"), line("second value", x, value[:, 1], "second")]
        lines += [line("first slope", x, slope[:, 0], "slope"), line("second slope", x, slope[:, 1], "second slope")]
    else:
        lines = [line("value", x, found.value(x) + zero, "value"), line("slope", x, found.derivative(x) + zero, "slope")]
    return Curves(f"{name}: value and slope", "x", "", lines)


def _schedule(name: str) -> Curves:
    from fallline.optim import schedules

    if name == "plateau":
        losses = [1 / (1 + e) if e < 12 else 1 / 12 for e in range(60)]
        follow = schedules.Plateau(factor=0.5, patience=5)
        x, y = [float(e) for e in range(60)], [float(follow.update(v)) for v in losses]
        return Curves(
            "plateau: patience 5, the loss goes flat at epoch 12", "epoch", "times the learning rate", [Line("rate", x, y, "value")]
        )
    made = schedules.build(name, total_steps=1000, steps_per_epoch=100)
    x = [float(t) for t in range(0, 1001, 2)]
    y = [float(made(int(t))) for t in x]  # type: ignore[operator]
    return Curves(f"{name}: the rate over 1000 steps", "step", "times the learning rate", [Line("rate", x, y, "value")])


def _bowl(at: Tensor) -> Tensor:
    return 0.5 * (at[0] ** 2 + 10 * at[1] ** 2)


def _descend(name: str, lr: float | None, steps: int) -> Tensor:
    """The path of an optimizer from a fixed start. One of matrices gets a row; one without a rule a closure, of the kind that it takes.

    Raises:
        FalllineError: it needs more than parameters (a model, a sparse gradient), or the rate is too large for it.
    """
    from fallline.teach.known import found

    made = found()[name]
    settings = {**made.fixed, **({} if lr is None else {"lr": lr}), **({"engine": "torch"} if made.over_a_rule else {})}
    refused: Exception | None = None
    for shape in ((2,), (1, 2)):
        for closes in (None,) if made.over_a_rule else (_with_slope, _value, _residuals):
            at = torch.nn.Parameter(torch.tensor([-4.0, 1.6], dtype=torch.float64).reshape(shape))
            try:
                return _path(made.make([("at", at)], **settings), at, steps, closes)
            except (FalllineError, TypeError, AttributeError, RuntimeError) as error:
                refused = error
    raise FalllineError(f"{name} cannot step two numbers by themselves, so it has no path to draw: {refused}") from refused


def _with_slope(stepper: Any, at: Tensor) -> Tensor:
    stepper.zero_grad()
    loss = _bowl(at.reshape(-1))
    loss.backward()
    return loss


def _value(stepper: Any, at: Tensor) -> Tensor:
    del stepper
    return _bowl(at.reshape(-1))


def _residuals(stepper: Any, at: Tensor) -> Tensor:
    """The bowl is half the sum of their squares."""
    del stepper
    return at.reshape(-1) * torch.tensor([1.0, 10**0.5], dtype=at.dtype)


def _path(stepper: Any, at: Tensor, steps: int, closes: Callable[[Any, Tensor], Tensor] | None) -> Tensor:
    """Where the steps lead; with a closure, until one leaves the point where it is."""

    def closure() -> Tensor:
        with torch.enable_grad():
            return (closes or _with_slope)(stepper, at)

    path = [at.detach().clone().reshape(-1)]
    for _ in range(steps):
        if closes is None:
            closure()
            stepper.step()
        else:
            stepper.step(closure)
        path.append(at.detach().clone().reshape(-1))
        if closes is not None and torch.equal(path[-1], path[-2]):
            break
    if torch.equal(path[-1], path[0]):
        raise FalllineError("it does not move")
    return torch.stack(path)


def _optimizer(name: str) -> Curves:
    from fallline.optim import OPTIMIZERS
    from fallline.teach.known import found

    made = found()[name]
    rated = "lr" in inspect.signature(made.make).parameters and made.rated
    low, high = OPTIMIZERS[name].lr_range if name in OPTIMIZERS else (1e-4, 1.0)
    tries: list[float | None] = [low * (20 * high / low) ** (i / 18) for i in range(19)] if rated else [None]
    paths: dict[float | None, Tensor] = {}
    refused = FalllineError(f"{name} has no path to draw.")
    for lr in tries:
        try:
            paths[lr] = _descend(name, lr, 60)
        except FalllineError as error:  # a rate that is too large may be refused on the way
            refused = error
    if not paths:
        raise refused

    def left(lr: float | None) -> float:
        total = float(sum(_bowl(p) for p in paths[lr]))
        return total if isfinite(total) else float("inf")

    best = min(paths, key=left)
    turn = torch.linspace(0, 2 * torch.pi, 121, dtype=torch.float64)
    rings = []
    for level in (0.25, 1.0, 3.0, 7.0, 13.0, 20.8):
        radius = (2 * level) ** 0.5
        rings.append(line("", radius * torch.cos(turn), radius / 10**0.5 * torch.sin(turn), "faint"))
    path = paths[best]
    steps = f"{len(path) - 1} step{'s' if len(path) > 2 else ''}"
    rate = f", best rate of {len(tries)}: {best:.2g}" if best is not None else ""
    title = f"{name}: {steps} down a bowl, ten times steeper across{rate}"
    return Curves(title, "θ₁", "θ₂", [*rings, line("path", path[:, 0], path[:, 1], "path")], square=True)


def _penalty(name: str) -> Curves:
    from fallline import penalties

    made = getattr(penalties, name)
    lines = pair("", lambda x: torch.stack([made([("w", v.reshape(1, 1))]) for v in x]), -2, 2)
    return Curves(f"{name}: the price of one weight", "weight", "", lines)


def curves(name: str, **options: Any) -> Curves:
    """The picture of a name, as `resolve` gave it; `options` of a loss.

    Raises:
        FalllineError: the concept is no function of one number, or is drawn without options.
    """
    makers = {"activation": _activation, "loss": loss_curves, "schedule": _schedule, "optimizer": _optimizer, "penalty": _penalty}
    family = names()[name]
    if family == "wrapper":
        raise FalllineError(f"{name} goes around an optimizer, so it has no path of its own to draw; draw an optimizer's.")
    if family in {"mining", "weighting"}:
        raise FalllineError(f"{name} goes with a loss, so it has no curve of its own to draw; draw the loss's (triplet, multi_task).")
    if family not in makers:
        raise FalllineError(f"{name} is a {family}, a number measured over many examples, so it has no curve to draw.")
    if options and family != "loss":
        raise FalllineError(f"{name} is drawn with its usual options; leave {', '.join(options)} out.")
    with torch.random.fork_rng(), torch.inference_mode(False):
        return makers[family](name, **options)
