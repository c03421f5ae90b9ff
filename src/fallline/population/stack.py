"""The weights of many models of one shape, each name one tensor with the members along its first axis.

    values["0.weight"]  (R, out, in)        grads["0.weight"]  (R, out, in)        buffers["1.running_mean"]  (R, features)

A member's weights are views, so that an optimizer of its own can step them, and its model can be taken out at any time.
"""

import copy
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from fallline._core.errors import FalllineError
from fallline.population.attributes import differing
from fallline.population.noise import Unstackable, first_line


class Stack:
    """R models of one shape.

    Args:
        models: of the same layers; nothing of them is changed or kept.
        device: where the stack lies.

    Raises:
        FalllineError: models whose parameters or buffers differ in name, shape or dtype.
        Unstackable: a model that cannot be copied, or one that holds something else than the others besides its weights.

    >>> stack = Stack([nn.Linear(3, 2), nn.Linear(3, 2)])
    >>> stack.values["weight"].shape, len(stack)
    (torch.Size([2, 2, 3]), 2)
    """

    def __init__(self, models: Sequence[nn.Module], device: torch.device | str = "cpu") -> None:
        first = _shapes(models[0])
        for place, model in enumerate(models):
            here = _shapes(model)
            if here != first:
                name = next(n for n in {**first, **here} if first.get(n) != here.get(n))
                raise FalllineError(
                    f"members of a population have models of one shape, but '{name}' is {here.get(name, 'absent')} in member {place} "
                    f"and {first.get(name, 'absent')} in member 0."
                )
        for model in models:
            name = differing(models[0], model)
            if name is not None:
                raise Unstackable(f"its members hold different '{name}'")
        try:
            self.template = copy.deepcopy(models[0]).to(device)
        except Exception as error:  # a copy asks whatever the module holds
            raise Unstackable(f"the model cannot be copied ({first_line(error)})") from error
        for p in self.template.parameters():
            p.grad = None
        named = [dict(model.named_parameters()) for model in models]
        held = [dict(model.named_buffers()) for model in models]
        self.values = {n: _stacked([each[n] for each in named], device) for n, p in named[0].items() if p.requires_grad}
        self.fixed = {n: _stacked([each[n] for each in named], device) for n, p in named[0].items() if not p.requires_grad}
        self.buffers = {n: _stacked([each[n] for each in held], device) for n in held[0]}
        self.grads: dict[str, Tensor] = {n: torch.zeros_like(v) for n, v in self.values.items()}
        self.widest = 0  # numbers for one row in the largest activation, once a pass has looked
        self.free = not any(_watched(p) for model in {id(m): m for m in models}.values() for p in model.parameters())

    def __len__(self) -> int:
        return len(next(iter({**self.values, **self.fixed, **self.buffers}.values())))

    @property
    def everything(self) -> dict[str, Tensor]:
        """Values, fixed weights and buffers, by name."""
        return {**self.values, **self.fixed, **self.buffers}

    def part(self, members: int, learnt: Collection[str]) -> "Stack":
        """A copy of the first `members`, to be tried; of their weights only `learnt` get gradients."""
        out = copy.copy(self)
        out.values = {n: v[:members].clone() for n, v in self.values.items() if n in learnt}
        out.fixed = {n: v[:members].clone() for n, v in {**self.values, **self.fixed}.items() if n not in out.values}
        out.buffers = {n: v[:members].clone() for n, v in self.buffers.items()}
        out.grads = {n: torch.zeros_like(v) for n, v in out.values.items()}
        out.template = copy.deepcopy(self.template)
        return out

    def copy(self, chosen: Tensor | None = None) -> dict[str, Tensor]:
        """A copy of weights and buffers of the members `chosen` (indices), or of all."""
        return {n: t.clone() if chosen is None else t[chosen] for n, t in self.everything.items()}

    def take(self, chosen: Tensor) -> None:
        """Keep only the members `chosen` (indices, in their order); addresses change."""
        for held in (self.values, self.fixed, self.buffers, self.grads):
            for name in held:
                held[name] = held[name][chosen].contiguous()

    def swap(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Put stacked `state`, as `copy` gives it, in the place of what is there, which is returned."""
        before: dict[str, Tensor] = {}
        for held in (self.values, self.fixed, self.buffers):
            for name in held.keys() & state.keys():
                before[name], held[name] = held[name], state[name]
        return before

    def module(self, member: int, state: dict[str, Tensor] | None = None) -> nn.Module:
        """The model of one member, as a module of its own in training mode; from stacked `state` where that is given."""
        model = copy.deepcopy(self.template)
        held = self.everything if state is None else state
        with torch.no_grad():
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                tensor.copy_(held[name][member])
        return model.train()


def _watched(p: Tensor) -> bool:
    return bool(p._backward_hooks) or bool(getattr(p, "_post_accumulate_grad_hooks", None))


def _shapes(model: nn.Module) -> dict[str, tuple[object, ...]]:
    named = {n: (tuple(p.shape), p.dtype, p.requires_grad) for n, p in model.named_parameters()}
    return {**named, **{n: (tuple(b.shape), b.dtype) for n, b in model.named_buffers()}}


def _stacked(tensors: Sequence[Tensor], device: torch.device | str) -> Tensor:
    return torch.stack([t.detach() for t in tensors]).to(device).contiguous()
