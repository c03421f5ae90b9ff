"""The reference engine: the text of the rule run on whole tensors. Any device, any dtype."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fallline.optim.rule import Group, Rule, prelude


def update(
    rule: Rule,
    flags: Mapping[str, bool],
    before: Mapping[str, bool],
    p: Tensor,
    g: Tensor,
    state: Mapping[str, Tensor],
    numbers: tuple[float, ...],
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step of one parameter, as new tensors; nothing is modified.

    Args:
        rule: the rule.
        flags: its switches.
        before: switches of the prelude.
        p: parameter of any shape.
        g: its gradient, same shape.
        state: the rule's tensors of state, same shape.
        numbers: the prelude's three numbers, then the rule's.

    Returns:
        The new parameter and the new state.
    """
    wide = torch.float32 if p.dtype in {torch.float16, torch.bfloat16} else p.dtype  # 16-bit arithmetic would lose most updates
    absent = torch.zeros((), dtype=wide, device=p.device)
    p, g = prelude(p.to(wide), g.to(wide), *numbers[:3], **before)
    out: tuple[Any, ...] = rule.text(p, g, *(state.get(s.name, absent).to(wide) for s in rule.state), *numbers[3:], **flags)
    named = dict(zip((s.name for s in rule.state), out[1:], strict=True))
    return out[0], {s.name: named[s.name] for s in rule.active(flags)}


class Reference:
    """A bucket of parameters stepped one by one; the interface of `engines.numba_.Plan`."""

    def __init__(
        self,
        rule: Rule,
        flags: Mapping[str, bool],
        before: Mapping[str, bool],
        members: list[tuple[Tensor, dict[str, Any], int]],
        numbers: Callable[[int, int], tuple[float, ...]],
    ) -> None:
        self.rule, self.flags, self.before, self.members, self.numbers = rule, flags, before, members, numbers
        self.names = [s.name for s in rule.active(flags)]
        self.grads: list[Tensor] = []
        for _, state, _ in members:
            state["step"] = torch.tensor(float(state["step"]), dtype=torch.float64)

    def gather(self) -> bool:
        """Read this step's gradients; False if one is missing or sparse."""
        grads = [p.grad for p, _, _ in self.members]
        self.grads = [g for g in grads if g is not None and g.layout is torch.strided]
        return len(self.grads) == len(grads)

    def run(self) -> None:
        """Step every parameter of the bucket."""
        for (p, state, group), g in zip(self.members, self.grads, strict=True):
            state["step"] += 1.0
            numbers = self.numbers(group, int(state["step"]))
            new, kept = update(self.rule, self.flags, self.before, p, g, state, numbers)
            p.copy_(new)
            for name, value in kept.items():
                state[name].copy_(value)
        self.grads = []

    def derive(self, groups: list[Group]) -> None:
        """Fill in the state that follows from the step count alone."""
        for _, state, group in self.members:
            for name, value in self.rule.derived.items():
                state[name] = torch.tensor(value(groups[group], int(state["step"])), dtype=torch.float64)
