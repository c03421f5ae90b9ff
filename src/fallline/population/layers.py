"""Forward and backward of members in turn, bit for bit as each would run alone, without autograd's bookkeeping for the usual layers.

A convolution of many members at once (grouped, by `vmap`) rounds differently from that of one, and is no faster on a processor; see
`parts`. The members share everything else: rows, steps, validation. One member's activations are held at a time.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fallline.population.noise import Noise
from fallline.population.parts import CONVOLUTIONS, DROPS, MAPS, NEURONS, NORMS, WORDS, Affine, Convolve, Drop, Graph, Normalise, Part
from fallline.population.slices import ALIGNED, Slices
from fallline.population.stack import Stack

if TYPE_CHECKING:
    from fallline.losses import Loss


class Layers:
    """The pass of members in turn; made by `make_pass`.

    Args:
        stack: of the members.
        noise: their random streams.
        x: some rows, (N, ...), for their type and their number of axes.
        drops: whether dropout is called anywhere inside a module that is run by autograd.
        whole: run the whole model by autograd, whatever it is.
    """

    def __init__(self, stack: Stack, noise: Noise, x: Tensor, *, drops: bool, whole: bool = False) -> None:
        self.stack, self.slices, self.noise, self.drops = stack, Slices(stack), noise, drops
        self.parts = self._parts(x, whole)
        weighted = [i for i, part in enumerate(self.parts) if part.names]
        self.back = [(part, i > weighted[0]) for i, part in enumerate(self.parts) if i >= weighted[0]][::-1]

    def step(self, x: Tensor, target: Tensor, loss: "Loss") -> tuple[Tensor, Tensor]:
        """See `Pass`."""
        values: list[Tensor] = []
        raws: list[Tensor] = []
        self._begin(training=True)
        with torch.no_grad():
            for member, (rows, wished) in enumerate(zip(x.unbind(0), target.unbind(0), strict=True)):
                a = rows.clone() if rows.data_ptr() % ALIGNED else rows
                for part in self.parts:
                    a = part.forward(member, a, True)
                value, delta = _slope(loss, a, wished)
                values.append(value)
                raws.append(a)
                for part, wanted in self.back:
                    delta = part.backward(member, delta, wanted)
            for part in self.parts:
                for name, grads in part.found.items():
                    if grads:
                        torch.stack(grads, out=self.stack.grads[name])
                        grads.clear()
            raw = torch.stack(raws)
            return torch.stack(values), raw if raw.ndim > 2 else raw.unsqueeze(-1)

    def outputs(self, x: Tensor) -> Tensor:
        """See `Pass`."""
        self._begin(training=False)
        raws: list[Tensor] = []
        with torch.no_grad():
            for member in range(len(self.stack)):
                a = x
                for part in self.parts:
                    a = part.forward(member, a, False)
                raws.append(a)
        raw = torch.stack(raws)
        return raw if raw.ndim > 2 else raw.unsqueeze(-1)

    def _begin(self, training: bool) -> None:
        self.slices.refresh()
        for part in self.parts:
            for grads in part.found.values():  # left by a step that an error ended
                grads.clear()
            part.begin(training)

    def _parts(self, x: Tensor, whole: bool) -> list[Part]:
        """The parts of a model, in order; one part for all of it where layers share a weight."""
        found = leaves(self.stack.template)
        held = [id(p) for _, layer in found for p in [*layer.parameters(), *layer.buffers()]]
        if whole or len(set(held)) < len(held):
            found = [("", self.stack.template)]
        parts: list[Part] = []
        a = x[:2]
        self.stack.template.eval()
        with torch.no_grad():
            for prefix, layer in found:
                if type(layer) is nn.Identity or (type(layer) in DROPS and layer.p == 0):
                    continue
                inside = any(part.names for part in parts)
                part = self._part(prefix, layer, a)
                parts.append(part or Graph(self.slices, prefix, layer, self.noise, drops=self.drops, inside=inside))
                a = layer(a) if len(found) > 1 else a
        return parts

    def _part(self, prefix: str, layer: nn.Module, a: Tensor) -> Part | None:
        """How a layer is run on inputs like `a`; None for one that autograd has to run."""
        kind, stack, slices = type(layer), self.stack, self.slices
        names = [f"{prefix}{name}" for name, _ in layer.named_parameters()]
        learnt = all(name in stack.values and stack.values[name].dtype == a.dtype for name in names)
        if "forward" in vars(layer) or not learnt or not a.is_floating_point():
            return None
        if isinstance(layer, nn.Linear) and kind is nn.Linear and a.ndim == 2:
            return Affine(slices, prefix, layer)
        zeros = getattr(layer, "padding_mode", "") == "zeros" and layer.padding not in WORDS
        if kind in CONVOLUTIONS and zeros and a.ndim == 3 + CONVOLUTIONS.index(kind):
            return Convolve(slices, prefix, layer)
        if kind in NORMS and (a.ndim == 3 + NORMS.index(kind) or (kind is nn.BatchNorm1d and a.ndim == 2)):
            return Normalise(slices, prefix, layer)
        if kind is nn.Dropout or (kind in MAPS and a.ndim == 3 + MAPS.index(kind)):
            return Drop(self.noise, layer, kind in MAPS)
        if kind in (nn.MaxPool2d, nn.AvgPool2d) and (a.ndim != 4 or getattr(layer, "return_indices", False)):
            return None
        if isinstance(layer, nn.Flatten) and layer.start_dim < 1:
            return None
        return NEURONS[kind](layer) if kind in NEURONS else None


def _slope(loss: "Loss", raw: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """One member's loss and its derivative by the raw outputs, by autograd, as a run alone of such a model has them."""
    leaf = raw.detach().requires_grad_()
    with torch.enable_grad():
        value = loss.quick(leaf if raw.ndim == 2 and raw.shape[-1] > 1 else leaf.reshape(-1), target)
    (slope,) = torch.autograd.grad(value, leaf)
    return value.detach(), slope


def leaves(model: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """The layers of a (nested) `nn.Sequential` in order, with the beginning of their names; the model itself where it is anything else."""
    if type(model) is not nn.Sequential or "forward" in vars(model):
        return [(prefix, model)]
    return [leaf for name, child in model._modules.items() if child is not None for leaf in leaves(child, f"{prefix}{name}.")]
