"""A layer of one member in its two directions, by the very kernels that autograd would call for it, so that not one bit differs.

    Affine      z = a Wᵀ + b                                  Wᵀδ, δᵀa, Σδ by the products that autograd's formulas make
    Convolve    z = W ∗ a + b                                 `convolution_backward`
    Normalise   z = γ (a − μ) / √(σ² + ε) + β over the batch  `native_batch_norm_backward`; running mean and variance a member's own
    Pool, Squash, Drop, Fold: what has no weights
    Graph       any other module, by autograd itself

Bits matter: where a true gradient is 0 (a bias before BatchNorm) an adaptive rule makes full steps of what rounding leaves.

Sources: Ioffe & Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift", ICML 2015;
torch's derivatives.yaml and FunctionsManual.cpp for which kernels stand behind which operation.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fallline.population.noise import Call, Noise, drawing
from fallline.population.slices import Slices

aten = torch.ops.aten
_LARGE = 1 << 12  # numbers of a gradient


class Part:
    """One layer; `forward` of a member keeps what its `backward` needs until that was called.

    Attributes:
        names: of the weights it has gradients for, in the order in which `backward` notes them.
        found: by name the gradients of the members, as far as they have come.
    """

    names: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.found: dict[str, list[Tensor]] = {name: [] for name in self.names}

    def begin(self, training: bool) -> None:
        """Called before the members' turns."""
        del training

    def forward(self, member: int, a: Tensor, training: bool) -> Tensor:
        """The layer's outputs (N, ...) of a member."""
        raise NotImplementedError

    def backward(self, member: int, delta: Tensor, wanted: bool) -> Tensor:
        """From the derivative by the outputs the one by the inputs, where that is wanted; notes the weights' own."""
        raise NotImplementedError

    def note(self, slices: Slices, member: int, *grads: Tensor | None) -> None:
        """Keep the gradients of a member: large ones are copied while they are in the cache, small ones together at the end."""
        for name, grad in zip(self.names, grads, strict=True):
            assert grad is not None
            if grad.numel() > _LARGE:
                slices.gradient(name)[member].copy_(grad)
            else:
                self.found[name].append(grad)


class Affine(Part):
    """`nn.Linear` on rows of numbers.

    Args:
        slices: the members' weights.
        prefix: of the layer's names in the stack.
        layer: the layer.
    """

    def __init__(self, slices: Slices, prefix: str, layer: nn.Linear) -> None:
        self.names = (f"{prefix}weight", f"{prefix}bias")[: 1 + (layer.bias is not None)]
        self.slices, self.biased = slices, layer.bias is not None
        super().__init__()

    @override
    def forward(self, member: int, a: Tensor, training: bool) -> Tensor:
        self.a, self.weight = a, self.slices[self.names[0]][member]
        return torch.addmm(self.slices[self.names[1]][member], a, self.weight.t()) if self.biased else torch.mm(a, self.weight.t())

    @override
    def backward(self, member: int, delta: Tensor, wanted: bool) -> Tensor:
        across = torch.mm(delta.t(), self.a)
        self.note(self.slices, member, *((across, delta.sum(0)) if self.biased else (across,)))
        return torch.mm(delta, self.weight) if wanted else delta


class Convolve(Part):
    """`nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d` with zeros around."""

    def __init__(self, slices: Slices, prefix: str, layer: Any) -> None:
        self.names = (f"{prefix}weight", f"{prefix}bias")[: 1 + (layer.bias is not None)]
        self.slices, self.biased = slices, layer.bias is not None
        self.sizes = [layer.out_channels] if self.biased else None
        self.how = ([*layer.stride], [*layer.padding], [*layer.dilation], False, [0] * len(layer.stride), layer.groups)
        super().__init__()

    @override
    def forward(self, member: int, a: Tensor, training: bool) -> Tensor:
        self.a, self.weight = a, self.slices[self.names[0]][member]
        return torch.convolution(a, self.weight, self.slices[self.names[1]][member] if self.biased else None, *self.how)

    @override
    def backward(self, member: int, delta: Tensor, wanted: bool) -> Tensor:
        back, *grads = aten.convolution_backward.default(delta, self.a, self.weight, self.sizes, *self.how, [wanted, True, self.biased])
        self.note(self.slices, member, *grads[: len(self.names)])
        return back


class Normalise(Part):
    """`nn.BatchNorm1d`, `nn.BatchNorm2d` or `nn.BatchNorm3d`."""

    def __init__(self, slices: Slices, prefix: str, layer: Any) -> None:
        self.names = (f"{prefix}weight", f"{prefix}bias") if layer.affine else ()
        self.slices, self.affine, self.eps, self.momentum = slices, layer.affine, layer.eps, layer.momentum
        self.running = (f"{prefix}running_mean", f"{prefix}running_var") if layer.running_mean is not None else ()
        self.counted = f"{prefix}num_batches_tracked" if layer.num_batches_tracked is not None else ""
        self.shares: list[float] = []
        super().__init__()

    @override
    def begin(self, training: bool) -> None:
        if training and self.counted:
            counts = self.slices.stack.buffers[self.counted]
            counts += 1
            if self.momentum is None:
                self.shares = [1.0 / float(count) for count in counts.tolist()]

    @override
    def forward(self, member: int, a: Tensor, training: bool) -> Tensor:
        self.a = a
        self.weight, bias = (self.slices[name][member] for name in self.names) if self.affine else (None, None)
        self.held = [self.slices.buffer(name)[member] for name in self.running] or [None, None]
        batch = training or not self.running
        if batch:
            F._verify_batch_size([*a.shape])  # pyright: ignore[reportAttributeAccessIssue]
        share = self.shares[member] if self.momentum is None and self.shares else self.momentum or 0.0
        out, self.mean, self.scale = torch.native_batch_norm(a, self.weight, bias, self.held[0], self.held[1], batch, share, self.eps)
        return out

    @override
    def backward(self, member: int, delta: Tensor, wanted: bool) -> Tensor:
        back, *grads = aten.native_batch_norm_backward.default(
            delta, self.a, self.weight, *self.held, self.mean, self.scale, True, self.eps, [wanted, self.affine, self.affine]
        )
        if self.affine:
            self.note(self.slices, member, *grads)
        return back


class Plain(Part):
    """A layer without weights: its value, and its slope from the inputs or the outputs.

    Args:
        value: outputs from inputs.
        slope: from the derivative by the outputs, and the inputs (or the outputs), the derivative by the inputs.
        by_input: whether `slope` reads the inputs.
    """

    def __init__(self, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor, Tensor], Tensor], *, by_input: bool = True) -> None:
        self.value, self.slope, self.by_input = value, slope, by_input
        super().__init__()

    @override
    def forward(self, member: int, a: Tensor, training: bool) -> Tensor:
        out = self.value(a)
        self.kept = a if self.by_input else out
        return out

    @override
    def backward(self, member: int, delta: Tensor, wanted: bool) -> Tensor:
        return self.slope(delta, self.kept) if wanted else delta


class Highest(Part):
    """`nn.MaxPool2d`, with the channels last while it looks: the same numbers and places, in a third of the time."""

    def __init__(self, layer: nn.MaxPool2d) -> None:
        stride = layer.stride if layer.stride is not None else layer.kernel_size
        self.how = ([*_pair(layer.kernel_size)], [*_pair(stride)], [*_pair(layer.padding)], [*_pair(layer.dilation)], layer.ceil_mode)
        super().__init__()

    @override
    def forward(self, member: int, a: Tensor, training: bool) -> Tensor:
        self.a = a
        out, where = aten.max_pool2d_with_indices.default(a.contiguous(memory_format=torch.channels_last), *self.how)
        self.where = where.contiguous()
        return out.contiguous()

    @override
    def backward(self, member: int, delta: Tensor, wanted: bool) -> Tensor:
        return aten.max_pool2d_with_indices_backward.default(delta, self.a, *self.how, self.where) if wanted else delta


class Drop(Part):
    """`nn.Dropout`, and `nn.Dropout1d`, `nn.Dropout2d`, `nn.Dropout3d` of whole maps."""

    def __init__(self, noise: Noise, layer: Any, maps: bool) -> None:
        self.noise, self.p, self.maps = noise, layer.p, maps
        super().__init__()

    @override
    def forward(self, member: int, a: Tensor, training: bool) -> Tensor:
        if not training:
            return a
        self.kept = self.noise.of(member, Call.of(a, self.p, self.maps), a.device)
        return a * self.kept

    @override
    def backward(self, member: int, delta: Tensor, wanted: bool) -> Tensor:
        return delta * self.kept if wanted else delta


class Graph(Part):
    """Any module, by autograd: the member's weights are lent to one copy of it for the member's turn.

    Args:
        slices: the members' weights and buffers.
        prefix: of the module's names in the stack.
        module: what is run; copied.
        noise: the members' random streams, for the dropout inside of it.
        drops: whether there is any.
        inside: whether the derivative by the inputs is needed.
    """

    def __init__(self, slices: Slices, prefix: str, module: nn.Module, noise: Noise, *, drops: bool, inside: bool) -> None:
        self.slices, self.noise, self.drops, self.inside = slices, noise, drops, inside
        self.module = copy.deepcopy(module)
        self.weights = [(f"{prefix}{n}", p) for n, p in self.module.named_parameters()]
        self.buffers = [(f"{prefix}{n}", *_owner(self.module, n)) for n, _ in self.module.named_buffers()]
        self.names = tuple(n for n, _ in self.weights if n in slices.stack.values)
        for name, p in self.weights:
            p.requires_grad_(name in slices.stack.values)
        super().__init__()

    @override
    def begin(self, training: bool) -> None:
        self.module.train(training)

    @override
    def forward(self, member: int, a: Tensor, training: bool) -> Tensor:
        for name, p in self.weights:
            p.data = self.slices[name][member]
        for name, owner, last in self.buffers:
            owner._buffers[last] = self.slices.buffer(name)[member]
        if not training:
            return self.module(a)
        self.a = a.detach().requires_grad_() if self.inside and a.is_floating_point() else a
        with torch.enable_grad(), drawing(self.noise, member) if self.drops else nullcontext():
            self.out = self.module(self.a)
        for name, owner, last in self.buffers:  # one that was not changed in place
            held, now = self.slices.buffer(name)[member], owner._buffers[last]
            if now is not None and now is not held:
                held.copy_(now.detach())
        return self.out.detach()

    @override
    def backward(self, member: int, delta: Tensor, wanted: bool) -> Tensor:
        leaves = [p for name, p in self.weights if name in self.found]
        wanted = wanted and self.a.requires_grad
        grads = torch.autograd.grad(self.out, [*leaves, *([self.a] if wanted else [])], delta) if leaves or wanted else ()
        self.note(self.slices, member, *grads[: len(leaves)])
        del self.out, self.a
        return grads[len(leaves)] if wanted else delta


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, last = name.rpartition(".")
    return module.get_submodule(path), last


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _relu(layer: Any) -> Part:
    del layer
    return Plain(torch.relu, lambda delta, out: aten.threshold_backward.default(delta, out, 0), by_input=False)


def _tanh(layer: Any) -> Part:
    del layer
    return Plain(torch.tanh, aten.tanh_backward.default, by_input=False)


def _sigmoid(layer: Any) -> Part:
    del layer
    return Plain(torch.sigmoid, aten.sigmoid_backward.default, by_input=False)


def _leaky(layer: nn.LeakyReLU) -> Part:
    steep = layer.negative_slope
    return Plain(lambda a: F.leaky_relu(a, steep), lambda delta, a: aten.leaky_relu_backward.default(delta, a, steep, False))


def _elu(layer: nn.ELU) -> Part:
    return Plain(lambda a: F.elu(a, layer.alpha), lambda delta, a: aten.elu_backward.default(delta, layer.alpha, 1, 1, False, a))


def _gelu(layer: nn.GELU) -> Part:
    kind = layer.approximate
    return Plain(lambda a: F.gelu(a, approximate=kind), lambda delta, a: aten.gelu_backward.default(delta, a, approximate=kind))


def _silu(layer: Any) -> Part:
    del layer
    return Plain(F.silu, aten.silu_backward.default)


def _average(layer: nn.AvgPool2d) -> Part:
    stride = layer.stride if layer.stride is not None else layer.kernel_size
    how = ([*_pair(layer.kernel_size)], [*_pair(stride)], [*_pair(layer.padding)])
    rest = (layer.ceil_mode, layer.count_include_pad, layer.divisor_override)
    return Plain(
        lambda a: aten.avg_pool2d.default(a, *how, *rest), lambda delta, a: aten.avg_pool2d_backward.default(delta, a, *how, *rest)
    )


def _fold(layer: nn.Flatten) -> Part:
    return Plain(lambda a: a.flatten(layer.start_dim, layer.end_dim), lambda delta, a: delta.reshape(a.shape))


NEURONS: dict[type[nn.Module], Callable[[Any], Part]] = {
    nn.ReLU: _relu,
    nn.Tanh: _tanh,
    nn.Sigmoid: _sigmoid,
    nn.LeakyReLU: _leaky,
    nn.ELU: _elu,
    nn.GELU: _gelu,
    nn.SiLU: _silu,
    nn.AvgPool2d: _average,
    nn.MaxPool2d: Highest,
    nn.Flatten: _fold,
}
"""Layers without weights, and how they are run."""
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MAPS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
DROPS = (nn.Dropout, *MAPS)
WORDS = ("same", "valid")
