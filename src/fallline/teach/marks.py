"""Which factor made the gradient vanish or explode.

    ‖δ at the first weighted layer‖ / ‖δ at the output‖ = product over the layers between of gain = ‖delta_out‖ / ‖delta_in‖

A chain below `VANISHED` or above `EXPLODED` is marked: every factor whose own gain is below `SHRANK` (above `GREW`) and whose kind
did the larger part of it. A factor that stops the delta altogether, or makes it infinite, is marked on its own.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fallline.teach.digits import number
from fallline.teach.steps import Mark, Step

VANISHED, EXPLODED = 1e-3, 1e3
SHRANK, GREW = 0.5, 2.0
BETWEEN = "code between the modules"
THRESHOLDS = (
    f"vanishing: the delta reaches the first weights at less than {VANISHED:g} of its size at the output; "
    f"exploding: at more than {EXPLODED:g} times; a single factor is marked below {SHRANK:g} (above {GREW:g}) when its kind did most of it"
)


@dataclass(frozen=True)
class Verdict:
    """The chain as a whole: ratio of the delta's norm at the first weighted layer to that at the output, and what it means."""

    problem: str
    ratio: float
    say: str


def size(delta: Tensor) -> float:
    """Frobenius norm that neither overflows nor underflows on the way."""
    top = float(delta.abs().max()) if delta.numel() else 0.0
    if top == 0 or not math.isfinite(top):
        return top
    return float(torch.linalg.vector_norm(delta / top)) * top


def gain(delta_in: Tensor, delta_out: Tensor) -> float:
    """How much a layer shrank or grew the delta; NaN where none arrived."""
    before, after = size(delta_in), size(delta_out)
    return after / before if before > 0 else math.nan


def _who(step: Step) -> str:
    if step.family == "activation":
        return step.symbol
    return "the weights" if step.family == "linear" else step.kind


def _why(step: Step) -> str:
    """What made the factor small or large: its own values."""
    if step.local is None or step.family not in {"activation", "linear"}:
        return ""
    if step.family == "activation":
        most = float(step.local.abs().max())
        flat = " (saturated)" if step.symbol in {"σ′", "tanh′"} and most < 0.05 else ""
        return f"; the largest {step.symbol} here is {number(most)}{flat}"
    norm = float(torch.linalg.matrix_norm(step.local.flatten(1), ord=2)) if step.local.dim() > 1 else math.nan
    return f"; the largest singular value of the weights is {number(norm)}" if step.kind == "Linear" else ""


def judge(steps: list[Step], top: Tensor, whole: bool = True) -> Verdict:
    """Set the marks; steps in forward order, `top` the derivative of the loss by the prediction.

    `whole`: whether the steps are the whole chain; where they are not, what they do not explain is laid at the code between them.
    """
    first = next((i for i, s in enumerate(steps) if s.gradients), 0)
    chain = steps[first + 1 :]
    start, end = size(top), size(steps[first].delta_in) if steps else 0.0
    if start == 0:
        return Verdict("none", math.nan, "The derivative of the loss is 0: there is nothing to propagate (the loss is at a flat point).")
    for step in reversed(steps):
        if not bool(torch.isfinite(step.delta_in).all()):
            break
        if not bool(torch.isfinite(step.delta_out).all()):
            step.mark = Mark("not finite", _who(step), math.inf, 1.0, f"here the delta stops being finite: {_who(step)}")
            return Verdict("not finite", math.inf, f"The delta stops being finite at {step.layer} ({step.kind}): {_who(step)}.")
    if not math.isfinite(start):
        return Verdict("not finite", math.nan, "The derivative of the loss is not finite: look at the loss and the prediction first.")
    dead = next((s for s in reversed(chain) if s.gain == 0), None)
    if dead is not None:
        dead.mark = Mark("vanishing", _who(dead), 0.0, 1.0, f"{_who(dead)} is 0 wherever a delta arrives: nothing passes")
        say = f"The gradient is exactly 0 in every layer before {dead.layer} ({dead.kind}): {_who(dead)} is 0 wherever a delta arrives."
        return Verdict("vanishing", 0.0, say)
    ratio = end / start
    problem = "vanishing" if ratio < VANISHED else "exploding" if ratio > EXPLODED else "none"
    if problem == "none" or ratio == 0:
        return Verdict(
            "none",
            ratio,
            f"The delta reaches the first weights at {number(ratio)} times its size at the output: neither vanishing nor exploding.",
        )
    sign = -1.0 if problem == "vanishing" else 1.0
    pushes: dict[str, float] = {}
    for step in chain:
        if step.gain > 0 and math.isfinite(step.gain):
            pushes[_who(step)] = pushes.get(_who(step), 0.0) + sign * math.log(step.gain)
    if not whole:
        pushes[BETWEEN] = sign * math.log(ratio) - sum(pushes.values())
    total = sum(p for p in pushes.values() if p > 0)
    chief = max(pushes, key=lambda k: pushes[k])
    marked = [s for s in chain if _who(s) == chief and (s.gain < SHRANK if sign < 0 else s.gain > GREW)]
    if not marked:
        marked = [s for s in chain if _who(s) == chief and sign * math.log(s.gain or 1.0) > 0]
    verb = "shrank" if sign < 0 else "grew"
    for step in marked:
        share = sign * math.log(step.gain) / total
        times = f"to {number(step.gain)} of its size" if sign < 0 else f"{number(step.gain)} times"
        told = f"{chief} {verb} the delta {times}: {share:.0%} of the {'loss' if sign < 0 else 'growth'} of size"
        step.mark = Mark(problem, chief, step.gain, share, told + _why(step))
    of = "of" if sign < 0 else "times"
    plural = "s" if len(marked) != 1 else ""
    over = f", over {len(marked)} layer{plural}" if marked else ""
    name = {"the weights": "The weights", BETWEEN: "Code between the modules"}.get(chief, chief)
    say = (
        f"{problem.capitalize()} gradient: from the output to the first weights the delta {verb} to {number(ratio)} {of} its size. "
        f"{name} did {pushes[chief] / total:.0%} of it{over}."
    )
    return Verdict(problem, ratio, say)
