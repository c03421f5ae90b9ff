"""Forward and backward of all members of a plain stack of linear layers and activations: batched matrix products, without autograd.

    zₗ = aₗ₋₁ Wₗᵀ + bₗ        δₗ = (δₗ₊₁ Wₗ₊₁) ⊙ f′(zₗ)        member by member

Source: Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", Nature 323, 1986.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fallline.population.cost import cost
from fallline.population.noise import Noise
from fallline.population.stack import Stack
from fallline.training.dense import activation

if TYPE_CHECKING:
    from fallline.losses import Loss


class _Linear:
    """z = a Wᵀ + b, member by member."""

    def __init__(self, stack: Stack, prefix: str, biased: bool) -> None:
        self.stack, self.weight = stack, f"{prefix}weight"
        self.single = stack.values[self.weight].shape[1] == 1  # as in `training.dense`, to the bit
        self.bias = f"{prefix}bias" if biased else None

    def forward(self, a: Tensor) -> Tensor:
        self.kept = a
        if self.single:
            z = (a * self.stack.values[self.weight]).sum(2, keepdim=True)
            return z if self.bias is None else z.add_(self.stack.values[self.bias].unsqueeze(1))
        across = self.stack.values[self.weight].transpose(1, 2)
        if self.bias is None:
            return torch.bmm(a, across)
        return torch.baddbmm(self.stack.values[self.bias].unsqueeze(1), a, across)

    def backward(self, delta: Tensor, wanted: bool) -> Tensor:
        grads = self.stack.grads
        if self.single:
            torch.sum(delta * self.kept, 1, keepdim=True, out=grads[self.weight])
        else:
            torch.bmm(delta.transpose(1, 2), self.kept, out=grads[self.weight])
        if self.bias is not None:
            torch.sum(delta, 1, out=grads[self.bias])
        if not wanted:
            return delta
        weight = self.stack.values[self.weight]
        return delta * weight if self.single else torch.bmm(delta, weight)


class _Dropout:
    def __init__(self, noise: Noise, p: float) -> None:
        self.noise, self.p = noise, p

    def forward(self, a: Tensor) -> Tensor:
        self.kept = self.noise.draw(a.shape[1:], self.p, dtype=a.dtype, device=a.device)
        return a * self.kept

    def backward(self, delta: Tensor, wanted: bool) -> Tensor:
        return delta * self.kept if wanted else delta


class Dense:
    """The pass of a plain stack of layers; made by `make_pass`."""

    def __init__(self, stack: Stack, layers: list[nn.Module], noise: Noise) -> None:
        place = {id(m): f"{name}." if name else "" for name, m in stack.template.named_modules()}
        self.parts, self.judged = [], []
        for layer in layers:
            if isinstance(layer, nn.Linear):
                part = _Linear(stack, place[id(layer)], layer.bias is not None)
            elif isinstance(layer, nn.Dropout):
                self.parts += [_Dropout(noise, layer.p)] if layer.p > 0 else []
                continue
            else:
                part = activation(layer)
            if part is not None:
                self.parts.append(part)
                self.judged.append(part)
        first = next(i for i, part in enumerate(self.parts) if isinstance(part, _Linear))
        self.back = [(part, i > first) for i, part in enumerate(self.parts) if i >= first][::-1]
        self.stack = stack

    def step(self, x: Tensor, target: Tensor, loss: "Loss") -> tuple[Tensor, Tensor]:
        """See `Pass`."""
        with torch.no_grad():
            a = x.flatten(2)
            for part in self.parts:
                a = part.forward(a)
            value, delta = cost(loss, a, target)
            for part, wanted in self.back:
                delta = part.backward(delta, wanted)
        return value, a

    def outputs(self, x: Tensor) -> Tensor:
        """See `Pass`."""
        with torch.no_grad():
            a = x.flatten(1).expand(len(self.stack), len(x), -1)
            for part in self.judged:
                a = part.forward(a)
                part.kept = None  # pyright: ignore[reportAttributeAccessIssue]
        return a
