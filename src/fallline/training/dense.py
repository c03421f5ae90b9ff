"""The forward and backward pass of a plain stack of layers, without autograd's bookkeeping.

    zₗ = Wₗ aₗ₋₁ + bₗ        δₗ = (Wₗ₊₁ᵀ δₗ₊₁) ⊙ f′(zₗ)        ∂L/∂Wₗ = δₗ aₗ₋₁ᵀ        ∂L/∂bₗ = Σ δₗ

For small networks the bookkeeping costs as much as a layer, and torch's own matrix product for float32 on the CPU (MKL) takes up to twice
as long as oneDNN's on some processors. Only `nn.Sequential` of Flatten, Linear, ReLU, LeakyReLU, Tanh, Sigmoid, Dropout and Identity is
taken, on the CPU, without hooks; the loss is left to autograd. Anything else runs as it always did. Gradients equal autograd's to rounding.

Source: Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", Nature 323, 1986.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

_PLAIN = (nn.Linear, nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.Dropout, nn.Identity)
_LARGE = 1 << 20  # multiplications from which oneDNN's faster product makes up for its dearer call
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class DenseStack:
    """One training step's forward and backward through a plain stack; made by `dense_stack`."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.layers = layers
        self.onednn = _has_onednn()

    def _product(self, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
        """A · Bᵀ + bias."""
        if self.onednn and a.dtype == torch.float32 and a.shape[0] * a.shape[1] * b.shape[0] >= _LARGE:
            return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
        return torch.mm(a, b.t()) if bias is None else torch.addmm(bias, a, b.t())

    def step(self, x: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Set every parameter's gradient for one mini-batch.

        Args:
            x: rows, (N, ...).
            loss: from the raw outputs (N, outputs) the value whose gradient is wanted.

        Returns:
            The raw outputs and the value, detached.
        """
        with torch.no_grad():
            a = x.flatten(1)
            tape: list[tuple[nn.Module, Tensor]] = []
            for layer in self.layers:
                if isinstance(layer, nn.Linear):
                    tape.append((layer, a))
                    a = self._product(a, layer.weight, layer.bias)
                elif isinstance(layer, nn.Identity):
                    pass
                elif isinstance(layer, nn.Dropout):
                    if layer.p > 0 and layer.training:
                        noise = torch.empty_like(a).bernoulli_(1 - layer.p).div_(1 - layer.p) if layer.p < 1 else torch.zeros_like(a)
                        tape.append((layer, noise))
                        a = a * noise
                else:
                    before, a = a, layer(a)
                    tape.append((layer, before if isinstance(layer, nn.LeakyReLU) else a))
        raw = a.detach().requires_grad_()
        with torch.enable_grad():
            value = loss(raw)
        (delta,) = torch.autograd.grad(value, raw)
        self._back(tape, delta)
        return a, value.detach()

    @torch.no_grad()
    def _back(self, tape: list[tuple[nn.Module, Tensor]], delta: Tensor) -> None:
        first = next(i for i, (layer, _) in enumerate(tape) if isinstance(layer, nn.Linear))
        for i in range(len(tape) - 1, first - 1, -1):
            layer, kept = tape[i]
            if isinstance(layer, nn.Linear):
                layer.weight.grad = self._product(delta.t(), kept.t())
                if layer.bias is not None:
                    layer.bias.grad = delta.sum(0)
                if i > first:
                    delta = self._product(delta, layer.weight.t())
            elif isinstance(layer, nn.ReLU):
                delta = torch.ops.aten.threshold_backward(delta, kept, 0)
            elif isinstance(layer, nn.LeakyReLU):
                delta = torch.ops.aten.leaky_relu_backward(delta, kept, layer.negative_slope, False)
            elif isinstance(layer, nn.Tanh):
                delta = torch.ops.aten.tanh_backward(delta, kept)
            elif isinstance(layer, nn.Sigmoid):
                delta = torch.ops.aten.sigmoid_backward(delta, kept)
            else:
                delta = delta * kept


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
    return "forward" in vars(module) or any(getattr(module, name) for name in _HOOKS)


def _watched(p: Tensor) -> bool:
    return bool(p._backward_hooks) or bool(getattr(p, "_post_accumulate_grad_hooks", None))


def dense_stack(model: nn.Module, x: Tensor) -> DenseStack | None:
    """A fast pass through `model`, or None where it is not a plain stack.

    Args:
        model: what is trained.
        x: some rows of the training data.
    """
    if torch.nn.modules.module._has_any_global_hook() or torch.is_autocast_enabled("cpu"):
        return None
    if type(model) is not nn.Sequential or _hooked(model) or x.device.type != "cpu" or x.dtype not in {torch.float32, torch.float64}:
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
    return DenseStack([layer for layer in layers if type(layer) is not nn.Flatten])
