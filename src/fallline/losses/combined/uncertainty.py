"""Uncertainty weights: each task's noise is learned beside the network, and a noisy task counts less.

    regression       ℓ / (2 s²) + log s          squared errors: a Gaussian of deviation s          optimum s² = ℓ,  weight 1 / (2 ℓ)
    absolute         ℓ / b + log b               absolute errors: a Laplace distribution            optimum b = ℓ,   weight 1 / ℓ
    classification   ℓ / s² + log s              a softmax of temperature s²                        optimum s² = 2 ℓ, weight 1 / (2 ℓ)
    total = Σ of the tasks' forms; log s² (or log b) are the parameters, 0 at the start unless weights are given

When to use: tasks in different units (metres beside nats): the weights make the total indifferent to the unit of each.
When not: a task's loss goes to zero (it is overfitted, or easy): its weight then grows until a bound stops it. A loss that is a likelihood
with noise of its own, gaussian_nll or poisson_nll: it may be negative, and its scale is right already.
Source: Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics", CVPR 2018,
equations 5, 7 and 10. https://arxiv.org/abs/1705.07115
Departs from the source: the noise is held between `bounds`; at a bound, only a slope that leads inside is passed on, so that the parameter
neither runs away nor stays stuck. Absolute errors have their own form, as the Laplace likelihood has.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from fallline._core.errors import must, refuse
from fallline.losses._base import Loss
from fallline.losses.combined._weighting import Weighed, Weighting, never_negative


class Form(NamedTuple):
    """total = scale · ℓ / v + share · log v, with v the noise: least at v = best · ℓ."""

    scale: float
    share: float

    @property
    def best(self) -> float:
        """The noise at the minimum, divided by ℓ."""
        return self.scale / self.share


FORMS = {"regression": Form(0.5, 0.5), "absolute": Form(1.0, 1.0), "classification": Form(1.0, 0.5)}
BOUNDS = (1e-6, 1e12)
_ABSOLUTE = frozenset({"mae", "quantile"})
_OWN_NOISE = frozenset({"gaussian_nll", "poisson_nll"})


def form_of(task: str, loss: object) -> str:
    """Which form suits a loss: by its name and by the tasks of `fit` that it is for.

    >>> from fallline.losses import MSE
    >>> form_of("brightness", MSE())
    'regression'
    """
    if not isinstance(loss, Loss):
        refuse(
            f"the form of task {task!r} is known",
            f"a {type(loss).__name__} that is not fallline's",
            f"write forms={{{task!r}: 'regression'}} (or {', '.join(k for k in FORMS if k != 'regression')})",
            where="weighting 'uncertainty'",
        )
    if loss.name in _OWN_NOISE:
        refuse(
            f"the loss of task {task!r} leaves its noise to the weighting",
            f"{loss.name}, a likelihood with noise of its own",
            "use mse, or weighting='fixed', where its weight is 1",
            where="weighting 'uncertainty'",
        )
    if loss.name in _ABSOLUTE:
        return "absolute"
    return "regression" if "regression" in loss.tasks else "classification"


class Uncertainty(Weighting):
    """Each task counts by a noise of its own, a parameter: give it to the optimizer, in a group without weight decay."""

    def __init__(
        self, tasks: Sequence[str], forms: Mapping[str, str], weights: Mapping[str, float] | None, bounds: tuple[float, float]
    ) -> None:
        super().__init__(tasks)
        self.forms = {task: FORMS[forms[task]] for task in self.tasks}
        self.names = dict(forms)
        low, high = bounds
        law = "0 < low < high for the bounds of the noise"
        must(0 < low < high < math.inf, law, bounds, f"{BOUNDS} is usual", where="weighting 'uncertainty'")
        self.low, self.high = math.log(low), math.log(high)
        for task in self.tasks:
            start = 0.0 if weights is None else math.log(self.forms[task].scale / weights[task])
            if not self.low <= start <= self.high:
                refuse(f"the weight of task {task!r} lies within the bounds of its noise", f"noise {math.exp(start):g}", where="MultiTask")
            self.register_parameter(f"log_noise_{task}", nn.Parameter(torch.tensor(start)))
        self._began = {task: self.log_noise(task).detach().clone() for task in self.tasks}

    def log_noise(self, task: str) -> nn.Parameter:
        """The log of s² of a task (of b for absolute errors), as the optimizer sees it: it may stand a step outside the bounds."""
        return self.get_parameter(f"log_noise_{task}")

    @override
    def weight(self, task: str) -> Tensor:
        return self.forms[task].scale * (-self.log_noise(task).detach().clamp(self.low, self.high)).exp()

    @override
    def weigh(self, task: str, raw: Tensor, present: Tensor) -> Weighed:
        form = self.forms[task]
        log_v = self._bounded(self.log_noise(task).to(raw.device, raw.dtype), form.best * raw.detach())
        weight = form.scale * (-log_v).exp()
        return Weighed(weight.detach(), weight * raw, torch.where(present, form.share * log_v, 0.0))

    def _bounded(self, free: Tensor, best: Tensor) -> Tensor:
        """`free` within the bounds, with a slope unless it is outside and the best noise lies further out."""
        held = free.clamp(self.low, self.high)
        outward = ((free < self.low) & (best <= math.exp(self.low))) | ((free > self.high) & (best >= math.exp(self.high)))
        return torch.where(outward, held.detach(), free + (held - free).detach())

    @override
    def check(self, task: str, raw: Tensor) -> None:
        never_negative(task, raw, "uncertainty", "the noise would go to 0 for ever")

    @override
    def idle(self) -> str:
        now = {task: self.log_noise(task) for task in self.tasks}
        if not all(p.requires_grad and torch.equal(p.detach().cpu().to(self._began[task]), self._began[task]) for task, p in now.items()):
            return ""
        return "the weights of MultiTask have not moved; they are parameters: give the optimizer [*model.parameters(), *loss.parameters()]"

    @override
    def extra_repr(self) -> str:
        return ", ".join(f"{task}={float(self.weight(task)):.4g} ({self.names[task]})" for task in self.tasks)
