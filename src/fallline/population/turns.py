"""A plain stack of members in turn, each by the very pass of the run alone, so that not one bit differs, whatever the widths are.

`Dense` does the same many times faster, but sums of rows that do not end at a whole vector may round in another way; see `training.dense`.
"""

import copy
import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fallline.population.noise import Call, Noise
from fallline.population.slices import ALIGNED, Slices
from fallline.population.stack import Stack
from fallline.training.dense import DenseStack, plain_layers

if TYPE_CHECKING:
    from fallline.losses import Loss


class _Drop:
    """a times noise of the member whose turn it is."""

    def __init__(self, noise: Noise, p: float) -> None:
        self.noise, self.p, self.member = noise, p, 0

    def forward(self, a: Tensor) -> Tensor:
        self.kept = self.noise.of(self.member, Call.of(a, self.p, maps=False), a.device)
        return a * self.kept

    def backward(self, delta: Tensor, wanted: bool) -> Tensor:
        return delta * self.kept if wanted else delta


class Turns:
    """The pass of a plain stack, member by member; made by `make_pass`.

    Args:
        stack: of the members.
        noise: their random streams.
        x: some rows, (N, ...).
    """

    def __init__(self, stack: Stack, noise: Noise, x: Tensor) -> None:
        self.stack, self.slices = stack, Slices(stack)
        self.model = copy.deepcopy(stack.template).train()
        self.weights = list(self.model.named_parameters())
        layers = plain_layers(self.model, x)
        assert layers is not None
        self.drops = [_Drop(noise, layer.p) for layer in layers if isinstance(layer, nn.Dropout) and layer.p > 0]
        self.layers = [layer for layer in layers if not (type(layer) is nn.Identity or (isinstance(layer, nn.Dropout) and layer.p == 0))]

    def _lend(self, member: int) -> None:
        for name, p in self.weights:
            p.data = self.slices[name][member]

    def _dense(self, member: int) -> DenseStack:
        """The run alone's pass over the weights that are lent, with the member's own noise."""
        dense = DenseStack(self.layers)
        drops = iter(self.drops)
        for place, (part, layer) in enumerate(zip(list(dense.parts), self.layers, strict=True)):
            if isinstance(layer, nn.Dropout):
                drop = next(drops)
                drop.member = member
                dense.parts[place] = drop  # pyright: ignore[reportArgumentType, reportCallIssue]
                dense.back = [(drop if each is part else each, wanted) for each, wanted in dense.back]  # pyright: ignore[reportAttributeAccessIssue]
        return dense

    def step(self, x: Tensor, target: Tensor, loss: "Loss") -> tuple[Tensor, Tensor]:
        """See `Pass`."""
        self.slices.refresh()
        values, raws = [], []
        for member, (rows, wished) in enumerate(zip(x.unbind(0), target.unbind(0), strict=True)):
            self._lend(member)
            even = rows.clone() if rows.data_ptr() % ALIGNED else rows
            raw, value = self._dense(member).step(even, functools.partial(_slope, loss, wished))
            for name, p in self.weights:
                assert p.grad is not None
                self.stack.grads[name][member] = p.grad
                p.grad = None
            values.append(value)
            raws.append(raw)
        return torch.stack(values), torch.stack(raws)

    def outputs(self, x: Tensor) -> Tensor:
        """See `Pass`."""
        self.slices.refresh()
        self.model.eval()
        raws = []
        with torch.no_grad():
            for member in range(len(self.stack)):
                self._lend(member)
                raws.append(self.model(x))
        self.model.train()
        return torch.stack(raws)


def _slope(loss: "Loss", target: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    if raw.shape[-1] > 1:
        return loss.quick_slope(raw, target)
    value, slope = loss.quick_slope(raw.reshape(-1), target)
    return value, slope.reshape(raw.shape)
