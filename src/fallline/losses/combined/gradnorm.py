"""GradNorm: weights that let every task pull on the shared layer as hard as its progress asks for.

    gᵢ = ‖∂ℓᵢ/∂W‖           Gᵢ = wᵢ gᵢ           W: the last parameters that all tasks share
    rᵢ = (ℓᵢ / ℓᵢ(0)) / mean(ℓⱼ / ℓⱼ(0))         how far behind the others a task is
    ∂/∂wᵢ Σⱼ |Gⱼ − mean(G) rⱼ^α| = gᵢ sign(Gᵢ − mean(G) rᵢ^α)         the targets held fixed
    w ← Adam step on that, then scaled so that Σ w stays the number of tasks

When to use: tasks that learn at different rates, and one of them drowns the others. α = 0 asks for equal gradients; with a larger α tasks
that lag pull harder (the paper: 0.12 for tasks alike, 1.5 for tasks unlike).
When not: losses that may be negative; a first batch that says little of ℓ(0): then give `initial`, such as log C for cross-entropy.
Source: Chen, Badrinarayanan, Lee and Rabinovich, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask
Networks", ICML 2018, algorithm 1. https://arxiv.org/abs/1711.02257
Departs from the source: no weight falls below 0.001, so that none turns negative; a step with a gradient that is not finite leaves the
weights as they are; a task without an example in the batch keeps its weight.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from fallline._core.errors import FalllineError, refuse
from fallline._core.number import Number
from fallline.losses.combined._parts import Parts
from fallline.losses.combined._weighting import Shared, Weighed, Weighting, never_negative

ALPHA = Number("alpha", 0, usual="1.5", doc="how much harder tasks that lag pull")
WEIGHT_LR = Number("weight_lr", 0, open_low=True, usual="0.025", doc="step of the weights")
INITIAL = Number("initial", 0, open_low=True, usual="log C for cross-entropy over C classes", doc="the loss before training")
LEAST = 1e-3
_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8
_STATE = ("weight", "initial", "mean", "square", "steps")


class GradNorm(NamedTuple):
    """What GradNorm finds in one batch, each (T,) and without a graph.

    Attributes:
        gradient: of Σ|G − target| by the weights.
        norms: G, the norm of each task's weighted gradient.
        targets: what the norms should be.
        rates: r, above 1 for tasks that lag.
    """

    gradient: Tensor
    norms: Tensor
    targets: Tensor
    rates: Tensor


def gradnorm(
    losses: Tensor | Sequence[Tensor],
    weights: Tensor,
    shared: Shared,
    initial: Tensor,
    alpha: float = 1.5,
    *,
    present: Tensor | None = None,
    gather: Callable[[Tensor], Tensor] | None = None,
) -> GradNorm:
    """The gradient of the weights by GradNorm, from the losses of one batch; the graph of the losses stays usable.

    Args:
        losses: T losses, 0-d and unweighted, or one tensor (T,).
        weights: (T,).
        shared: the parameters that all tasks share, or the features they give: a module, a tensor or several.
        initial: (T,) the losses before training, > 0.
        alpha: how much harder tasks that lag pull, >= 0.
        present: (T,) bool, which tasks have examples in this batch; all unless given.
        gather: sums a tensor over ranks, in data parallel training.

    Raises:
        FalllineError: no parameter that learns, a task that does not depend on them, or a graph that is used up already.

    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> gradnorm([3 * w.sum(), w.sum()], torch.ones(2), w, torch.tensor([9.0, 3.0]), alpha=1.0).norms
    tensor([4.2426, 1.4142])
    """
    ALPHA.check(alpha, where="gradnorm")
    losses, parameters = list(losses), _parameters(shared)
    if present is None:
        present = torch.ones(len(losses), dtype=torch.bool, device=weights.device)
    weights = weights.detach()
    slopes = torch.stack([_slope(loss, parameters, f"loss {i}", weights) for i, loss in enumerate(losses)])
    raw = torch.stack([loss.detach().to(weights) for loss in losses])
    return _terms(*_gathered(slopes, raw, present, gather), weights, initial, alpha)


class Balanced(Weighting):
    """Weights that move by GradNorm, in `MultiTask.balance` or `MultiTask.backward`."""

    def __init__(
        self, tasks: Sequence[str], weights: Mapping[str, float], *, alpha: float, weight_lr: float, initial: Mapping[str, float]
    ) -> None:
        super().__init__(tasks)
        self.alpha, self.weight_lr = ALPHA.check(alpha, where="MultiTask"), WEIGHT_LR.check(weight_lr, where="MultiTask")
        scale = len(self.tasks) / sum(weights.values())
        for task in self.tasks:
            start = {"weight": weights[task] * scale, "initial": initial[task], "mean": 0.0, "square": 0.0, "steps": 0.0}
            for what in _STATE:
                self.register_buffer(f"{what}_{task}", torch.tensor(start[what]))
        self._began = {task: float(self.weight(task)) for task in self.tasks}

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow a module to another device or a wider type; in 16 bits the steps of the weights would round away."""
        before = {name: buffer for name, buffer in self.named_buffers() if buffer.dtype.itemsize >= 4}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            now = self.get_buffer(name)
            if now.dtype.itemsize < 4:
                self.register_buffer(name, buffer.to(now.device))
        return self

    @override
    def weight(self, task: str) -> Tensor:
        return self.get_buffer(f"weight_{task}").clone()

    @override
    def weigh(self, task: str, raw: Tensor, present: Tensor) -> Weighed:
        weight = self.weight(task).to(raw.device, raw.dtype)
        return Weighed(weight, weight * raw, raw.new_zeros(()))

    @override
    def check(self, task: str, raw: Tensor) -> None:
        never_negative(task, raw, "gradnorm", "it is compared with its value at the start")

    @override
    @torch.no_grad()
    def balance(self, parts: Parts, shared: Shared | None) -> None:
        if shared is None:
            advice = "write shared=model.shared, or the parameters of the last layer that all heads share"
            refuse("the shared parameters are given", None, advice, where="weighting 'gradnorm'")
        if not parts.total.requires_grad:
            refuse("the parts have a graph", "parts computed without one", "leave torch.no_grad()", where="weighting 'gradnorm'")
        state = {what: torch.stack([self.get_buffer(f"{what}_{task}") for task in self.tasks]) for what in _STATE}
        weight, initial = state["weight"], state["initial"]
        parameters = _parameters(shared)
        nothing = torch.cat([torch.zeros_like(p).flatten().to(weight) for p in parameters])
        slopes = torch.stack(
            [nothing if task in parts.without else _slope(parts.raw[task], parameters, f"task {task!r}", weight) for task in self.tasks]
        )
        raw = torch.stack([parts.raw[task].detach().to(weight.device, weight.dtype) for task in self.tasks])
        present = torch.stack([parts.present[task].to(weight.device) for task in self.tasks])
        slopes, raw, present = _gathered(slopes, raw, present, _over_ranks())
        initial = torch.where(initial.isnan() & present & raw.isfinite() & (raw > 0), raw, initial)
        found = _terms(slopes, raw, present, weight, torch.where(initial.isnan(), 1, initial), self.alpha)
        moved = present & found.gradient.isfinite().all()
        after = {"initial": initial, **self._adam(state, found.gradient)}
        after["weight"] = _rescaled(weight, after["weight"], moved)
        for what, values in after.items():
            keep = torch.where(moved, values, state[what]) if what != "initial" else values
            for task, value in zip(self.tasks, keep.to(weight.dtype), strict=True):
                self.get_buffer(f"{what}_{task}").copy_(value)

    def _adam(self, state: dict[str, Tensor], g: Tensor) -> dict[str, Tensor]:
        steps = state["steps"] + 1
        mean = _BETA1 * state["mean"] + (1 - _BETA1) * g
        square = _BETA2 * state["square"] + (1 - _BETA2) * g * g
        step = (mean / (1 - _BETA1**steps)) / ((square / (1 - _BETA2**steps)).sqrt() + _EPS)
        return {"weight": state["weight"] - self.weight_lr * step, "mean": mean, "square": square, "steps": steps}

    @override
    def idle(self) -> str:
        if any(float(self.get_buffer(f"steps_{task}")) for task in self.tasks):
            return ""
        return "the weights of MultiTask have not moved: write loss.backward(parts, shared=...) in place of parts.total.backward()"

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={self.alpha:g}, weight_lr={self.weight_lr:g}"


def _terms(slopes: Tensor, raw: Tensor, present: Tensor, weights: Tensor, initial: Tensor, alpha: float) -> GradNorm:
    """Closed form of the gradient from flat slopes (T, P), losses, presence, weights and initial losses (T,)."""
    g = slopes.square().sum(1).sqrt()
    there = present.to(weights.dtype)
    count = there.sum().clamp(min=1)
    ratio = raw / initial * there
    mean_ratio = ratio.sum() / count
    rates = torch.where(present & (mean_ratio > 0), ratio / torch.where(mean_ratio > 0, mean_ratio, 1), 1.0)
    norms = weights * g * there
    targets = norms.sum() / count * rates**alpha * there
    return GradNorm(torch.sign(norms - targets) * g * there, norms, targets, rates)


def _rescaled(before: Tensor, after: Tensor, moved: Tensor) -> Tensor:
    """The moved weights, above `LEAST`, with the sum that they had."""
    after = torch.where(moved, after.clamp(min=LEAST), 0)
    return after * (torch.where(moved, before, 0).sum() / torch.where(moved.any(), after.sum(), 1))


def _parameters(shared: Shared) -> list[Tensor]:
    found = shared.parameters() if isinstance(shared, nn.Module) else shared
    given = [found] if isinstance(found, Tensor) else list(found)
    learn = [p for p in given if isinstance(p, Tensor) and p.requires_grad]
    if not learn:
        advice = "write shared=model.shared, or the parameters of the last layer that all heads share (a generator is used up once)"
        refuse("a shared parameter that learns is given", f"{len(given)} without a gradient" if given else "none", advice, where="gradnorm")
    return learn


def _slope(loss: Tensor, parameters: list[Tensor], what: str, like: Tensor) -> Tensor:
    """The gradient of one loss by all shared parameters, flat, of the type and on the device of `like`."""
    try:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) if loss.requires_grad else [None]
    except RuntimeError as error:
        if "second time" not in str(error):
            raise
        raise FalllineError("gradnorm needs the graph of the losses: call balance before parts.total.backward(), once a batch.") from error
    if all(slope is None for slope in found):
        advice = "give the parameters of a layer that stands before every head"
        refuse(f"{what} depends on the shared parameters", "one that does not", advice, where="gradnorm")
    return torch.cat([(torch.zeros_like(p) if s is None else s).flatten().to(like) for p, s in zip(parameters, found, strict=True)])


def _gathered(slopes: Tensor, raw: Tensor, present: Tensor, gather: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients and losses averaged over ranks, as data parallel training averages them; a task counts if it is there on any rank."""
    if gather is None:
        return slopes, raw, present
    there = present.to(raw.dtype)
    whole = gather(torch.cat([slopes, torch.stack([raw * there, there, torch.ones_like(there)], dim=1)], dim=1))
    count = whole[:, -2]
    return whole[:, :-3] / whole[:, -1:], whole[:, -3] / count.clamp(min=1), count > 0


def _over_ranks() -> Callable[[Tensor], Tensor] | None:
    """A sum over the ranks of the default group, or None where this process is alone."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None

    def gather(x: Tensor) -> Tensor:
        dist.all_reduce(x)
        return x

    return gather
