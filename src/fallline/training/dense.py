"""The forward and backward pass of a plain stack of layers, without autograd's bookkeeping.

    zₗ = Wₗ aₗ₋₁ + bₗ        δₗ = (Wₗ₊₁ᵀ δₗ₊₁) ⊙ f′(zₗ)        ∂L/∂Wₗ = δₗ aₗ₋₁ᵀ        ∂L/∂bₗ = Σ δₗ

For small networks the bookkeeping costs as much as a layer. Only `nn.Sequential` of Flatten, Linear, ReLU, LeakyReLU, Tanh, Sigmoid,
Dropout and Identity is taken, on the CPU, without hooks. Anything else runs as it always did. Gradients equal autograd's to rounding, and
those of a member of a population (`population.dense`) to the bit: both call the same products.

Source: Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", Nature 323, 1986.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

_PLAIN = (nn.Linear, nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Dropout, nn.Identity)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Where a module keeps what runs beside its own forward and backward."""


class _Linear:
    """z = W a + b."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight, self.bias = layer.weight, layer.bias
        self.across = layer.weight.detach().t()
        self.single = layer.out_features == 1  # a product of one column is made in another order beside others than alone: by hand then

    def forward(self, a: Tensor) -> Tensor:
        self.kept = a
        if self.single:
            z = (a * self.weight).sum(1, keepdim=True)
            return z if self.bias is None else z.add_(self.bias)
        return torch.mm(a, self.across) if self.bias is None else torch.addmm(self.bias, a, self.across)

    def backward(self, delta: Tensor, wanted: bool) -> Tensor:
        self.weight.grad = (delta * self.kept).sum(0, keepdim=True) if self.single else torch.mm(delta.t(), self.kept)
        if self.bias is not None:
            self.bias.grad = delta.sum(0)
        if not wanted:
            return delta
        return delta * self.weight if self.single else torch.mm(delta, self.weight)


class _Activation:
    """a = f(z), with f′ from the output, or from the input where f is not invertible there."""

    def __init__(self, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor, Tensor], Tensor], *, from_input: bool = False) -> None:
        self.value, self.slope, self.from_input = value, slope, from_input

    def forward(self, a: Tensor) -> Tensor:
        out = self.value(a)
        self.kept = a if self.from_input else out
        return out

    def backward(self, delta: Tensor, wanted: bool) -> Tensor:
        return self.slope(delta, self.kept) if wanted else delta


class _Dropout:
    """a times noise, drawn as torch draws it."""

    def __init__(self, share: float) -> None:
        self.share = share

    def forward(self, a: Tensor) -> Tensor:
        left = 1 - self.share
        self.kept = torch.empty_like(a).bernoulli_(left).div_(left) if left > 0 else torch.zeros_like(a)
        return a * self.kept

    def backward(self, delta: Tensor, wanted: bool) -> Tensor:
        return delta * self.kept if wanted else delta


def _part(layer: nn.Module) -> "_Linear | _Activation | _Dropout | None":
    if isinstance(layer, nn.Linear):
        return _Linear(layer)
    if isinstance(layer, nn.Dropout) and layer.p > 0 and layer.training:
        return _Dropout(layer.p)
    return activation(layer)


def activation(layer: nn.Module) -> _Activation | None:
    """The two directions of an activation, element by element; None for a layer that does nothing."""
    aten = torch.ops.aten
    if isinstance(layer, nn.ReLU):
        return _Activation(torch.relu, lambda delta, out: aten.threshold_backward(delta, out, 0))
    if isinstance(layer, nn.Tanh):
        return _Activation(torch.tanh, aten.tanh_backward)
    if isinstance(layer, nn.Sigmoid):
        return _Activation(torch.sigmoid, aten.sigmoid_backward)
    if isinstance(layer, nn.LeakyReLU):
        slope = layer.negative_slope
        return _Activation(
            lambda a: nn.functional.leaky_relu(a, slope), lambda delta, a: aten.leaky_relu_backward(delta, a, slope, False), from_input=True
        )
    return None


class DenseStack:
    """One training step's forward and backward through a plain stack; made by `dense_stack` for a few dozen steps."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.parts = [part for layer in layers if (part := _part(layer)) is not None]
        first = next(i for i, part in enumerate(self.parts) if isinstance(part, _Linear))
        self.back = [(part, i > first) for i, part in enumerate(self.parts) if i >= first][::-1]

    def step(self, x: Tensor, slope: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Set every parameter's gradient for one mini-batch.

        Args:
            x: rows, (N, ...).
            slope: from the raw outputs (N, outputs) the loss and its derivative by them; `Loss.quick_slope`.

        Returns:
            The raw outputs and the loss, without a graph.
        """
        with torch.no_grad():
            a = x.flatten(1)
            for part in self.parts:
                a = part.forward(a)
            value, delta = slope(a)
            for part, wanted in self.back:
                delta = part.backward(delta, wanted)
        return a, value


def _leaves(model: nn.Module) -> list[nn.Module] | None:
    """The layers of a (nested) `nn.Sequential` in order; None where there is anything else."""
    if type(model) is not nn.Sequential:
        return [model]
    out: list[nn.Module] = []
    for child in model:
        inner = _leaves(child)
        if inner is None or _hooked(child):
            return None
        out += inner
    return out


def _hooked(module: nn.Module) -> bool:
    """Whether something runs beside the module's own forward, or in its place."""
    return "forward" in vars(module) or any(getattr(module, name) for name in HOOKS)


def _watched(p: Tensor) -> bool:
    return bool(p._backward_hooks) or bool(getattr(p, "_post_accumulate_grad_hooks", None))


def plain_layers(model: nn.Module, x: Tensor) -> list[nn.Module] | None:
    """The layers behind the flattening of a plain stack, in order; None where the model is anything else.

    Args:
        model: what is trained.
        x: some rows of the training data.
    """
    if torch.nn.modules.module._has_any_global_hook() or torch.is_autocast_enabled(x.device.type):
        return None
    if type(model) is not nn.Sequential or _hooked(model) or x.dtype not in {torch.float32, torch.float64}:
        return None
    layers = _leaves(model)
    if layers is None or not layers:
        return None
    if x.dim() != 2 and type(layers[0]) is not nn.Flatten:
        return None
    for place, layer in enumerate(layers):
        flattens = type(layer) is nn.Flatten and place == 0 and layer.start_dim == 1 and layer.end_dim == -1
        if not (flattens or type(layer) in _PLAIN) or getattr(layer, "inplace", False) or _hooked(layer):
            return None
        if any(not p.requires_grad or p.dtype != x.dtype or type(p) is not nn.Parameter or _watched(p) for p in layer.parameters()):
            return None
    held = [p for layer in layers for p in layer.parameters()]
    if not held or len({id(p) for p in held}) < len(held):  # no layer at all, or one that shares a parameter with another
        return None
    return [layer for layer in layers if type(layer) is not nn.Flatten]


def dense_stack(model: nn.Module, x: Tensor) -> DenseStack | None:
    """A fast pass through `model`, or None where it is not a plain stack on the CPU.

    Args:
        model: what is trained.
        x: some rows of the training data.
    """
    layers = plain_layers(model, x) if x.device.type == "cpu" else None
    return None if layers is None else DenseStack(layers)
