"""The backward rule of each layer that the trace opens: how a delta passes through it, and its weights' gradients.

    Linear    z = a Wᵀ + b        δ_a = δ_z W        ∂L/∂W = δ_zᵀ a        ∂L/∂b = Σ δ_z

Each rule is written here from the mathematics; the trace compares it with autograd. What has no rule here is traced as a whole.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fallline.teach.elementwise import TABLE


@dataclass
class Backward:
    """What a rule returns: the outgoing delta, the local derivative, and (parameter, formula, gradient) triples."""

    delta_out: Tensor
    family: str
    symbol: str
    formula: str
    local: Tensor | None = None
    weights: list[tuple[str, str, Tensor]] = field(default_factory=list)
    note: str = ""
    bias: Tensor | None = None


Rule = Callable[[Any, Tensor, Tensor, Tensor], Backward | None]


def _own(module: Any, name: str) -> Tensor | None:
    """The parameter itself; None where the module has none of that name or computes it (weight_norm)."""
    value = module._parameters.get(name)
    return None if value is None else value.detach()


def linear(module: Any, a: Tensor, z: Tensor, delta: Tensor) -> Backward | None:
    """A Linear layer on the last axis."""
    weight = _own(module, "weight")
    if weight is None:
        return None
    flat, inside = delta.reshape(-1, delta.shape[-1]), a.reshape(-1, a.shape[-1])
    weights = [("weight", "δᵀ a", flat.T @ inside)]
    if _own(module, "bias") is not None:
        weights.append(("bias", "Σ δ", flat.sum(0)))
    return Backward(delta @ weight, "linear", "W", "dL/da = δ W", weight, weights, bias=_own(module, "bias"))


def conv2d(module: Any, a: Tensor, z: Tensor, delta: Tensor) -> Backward | None:
    """A Conv2d as a Linear layer on the patches that its kernel sees."""
    weight = _own(module, "weight")
    if not isinstance(module, nn.Conv2d) or weight is None or module.padding_mode != "zeros":
        return None
    pads = list(module._reversed_padding_repeated_twice)
    padded = functional.pad(a, pads)
    n, _, height, width = padded.shape
    groups, k = module.groups, module.kernel_size
    shape = {"kernel_size": k, "dilation": module.dilation, "stride": module.stride}
    patches = functional.unfold(padded, **shape).reshape(n, groups, -1, delta.shape[2] * delta.shape[3])
    out = delta.reshape(n, groups, delta.shape[1] // groups, -1)
    kernel = weight.reshape(groups, weight.shape[0] // groups, -1)
    back = torch.einsum("gok,ngop->ngkp", kernel, out).reshape(n, -1, out.shape[-1])
    whole = functional.fold(back, (height, width), **shape)
    left, right, top, bottom = pads
    delta_out = whole[:, :, top : height - bottom, left : width - right]
    weights = [("weight", "Σ over positions of δ · patch", torch.einsum("ngop,ngkp->gok", out, patches).reshape(weight.shape))]
    if _own(module, "bias") is not None:
        weights.append(("bias", "Σ over positions of δ", delta.sum((0, 2, 3))))
    return Backward(delta_out, "linear", "K", "dL/da = δ spread back through the kernel", weight, weights)


def batch_norm(module: Any, a: Tensor, z: Tensor, delta: Tensor) -> Backward | None:
    """BatchNorm in eval mode: a fixed scale and shift of each channel by its running mean and variance."""
    mean, variance = module._buffers.get("running_mean"), module._buffers.get("running_var")
    if mean is None or variance is None:
        return None
    shape = (1, -1, *([1] * (a.dim() - 2)))
    axes = tuple(i for i in range(a.dim()) if i != 1)
    root = torch.rsqrt(variance + float(module.eps)).reshape(shape)
    normal = (a - mean.reshape(shape)) * root
    weight, bias = _own(module, "weight"), _own(module, "bias")
    local = (root if weight is None else root * weight.reshape(shape)).expand_as(a)
    weights: list[tuple[str, str, Tensor]] = []
    if weight is not None:
        weights.append(("weight", "Σ δ · (a − mean)/√(var + ε)", (delta * normal).sum(axes)))
    if bias is not None:
        weights.append(("bias", "Σ δ", delta.sum(axes)))
    note = (
        "eval mode: normalised by its running mean and variance, so that each example stands alone and the local derivative is γ/√(var + ε)"
    )
    return Backward(delta * local, "norm", "γ/√(var + ε)", "dL/da = δ · γ/√(var + ε)", local, weights, note)


def elementwise(module: Any, z: Tensor, a: Tensor, delta: Tensor) -> Backward | None:
    """An activation that works element by element."""
    symbol, formula, derivative = TABLE[type(module)]
    local = derivative(module, z, a)
    return Backward(delta * local, "activation", f"{symbol}′", f"{symbol}′(z) = {formula}", local)


def prelu(module: Any, z: Tensor, a: Tensor, delta: Tensor) -> Backward | None:
    """PReLU: a leaky ReLU whose slope is learned."""
    slope = _own(module, "weight")
    if slope is None:
        return None
    shaped = slope.reshape((1, -1, *([1] * (z.dim() - 2)))) if z.dim() > 1 else slope
    local = torch.where(z > 0, torch.ones_like(z), shaped.expand_as(z))
    part = torch.where(z > 0, torch.zeros_like(z), z) * delta
    axes = tuple(i for i in range(z.dim()) if i != 1)
    gradient = part.sum().reshape(1) if slope.numel() == 1 else part.sum(axes)
    weights = [("weight", "Σ δ · z where z ≤ 0", gradient)]
    return Backward(delta * local, "activation", "PReLU′", "PReLU′(z) = 1 where z > 0, else the slope", local, weights)


def _axis(module: Any, z: Tensor) -> int:
    if isinstance(module, nn.Softmax2d):
        return -3
    dim = module.dim
    return int(dim) if isinstance(dim, int) else (0 if z.dim() in {0, 1, 3} else 1)


def softmax(module: Any, z: Tensor, a: Tensor, delta: Tensor) -> Backward | None:
    """Softmax, Softmin, Softmax2d: every output depends on every input of its row."""
    axis, sign = _axis(module, z), -1.0 if isinstance(module, nn.Softmin) else 1.0
    out = sign * a * (delta - (delta * a).sum(axis, keepdim=True))
    jacobian = sign * (torch.diag_embed(a) - a[..., :, None] * a[..., None, :]) if a.dim() == 2 and axis in {1, -1} else None
    minus = "−" if sign < 0 else ""
    return Backward(out, "activation", "softmax′", f"dL/dzᵢ = {minus}aᵢ (δᵢ − Σⱼ δⱼ aⱼ)", jacobian)


def log_softmax(module: Any, z: Tensor, a: Tensor, delta: Tensor) -> Backward | None:
    """LogSoftmax."""
    axis = _axis(module, z)
    out = delta - a.exp() * delta.sum(axis, keepdim=True)
    return Backward(out, "activation", "log_softmax′", "dL/dzᵢ = δᵢ − softmax(z)ᵢ Σⱼ δⱼ")


def glu(module: Any, z: Tensor, a: Tensor, delta: Tensor) -> Backward | None:
    """GLU: the first half of the inputs, gated by the sigmoid of the second."""
    axis = int(module.dim)
    first, second = z.chunk(2, axis)
    gate = torch.sigmoid(second)
    out = torch.cat([delta * gate, delta * first * gate * (1 - gate)], axis)
    return Backward(out, "activation", "GLU′", "a = u σ(v): dL/du = δ σ(v), dL/dv = δ u σ(v)(1 − σ(v))")


def same(module: Any, a: Tensor, z: Tensor, delta: Tensor) -> Backward | None:
    """A layer that only passes on or reshapes."""
    if z.numel() != a.numel():
        return None
    note = ""
    if "Dropout" in type(module).__name__:
        note = "eval mode: dropout passes everything on unchanged"
    return Backward(delta.reshape(a.shape), "shape", "1", "dL/da = δ, in the shape of the input", None, [], note)


def max_pool(module: Any, a: Tensor, z: Tensor, delta: Tensor) -> Backward | None:
    """Max pooling: the delta goes to the winner of each window alone."""
    kind: type = type(module)
    if kind is nn.AdaptiveMaxPool2d:
        winners = functional.adaptive_max_pool2d(a, module.output_size, return_indices=True)[1]
    else:
        pool = functional.max_pool1d if isinstance(module, nn.MaxPool1d) else functional.max_pool2d
        winners = pool(a, module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode, True)[1]
    axes = 1 if isinstance(module, nn.MaxPool1d) else 2
    flat = torch.zeros_like(a).flatten(-axes)
    flat = flat.scatter_add(-1, winners.flatten(-axes), delta.flatten(-axes))
    return Backward(flat.reshape(a.shape), "shape", "1 at the winner", "dL/da = δ at the winner of each window, else 0")


def _averages(size: int, cells: int) -> Tensor:
    """The (cells, size) matrix of adaptive average pooling along one axis."""
    matrix = torch.zeros(cells, size, dtype=torch.float64)
    for cell in range(cells):
        start, stop = cell * size // cells, -(-(cell + 1) * size // cells)
        matrix[cell, start:stop] = 1 / (stop - start)
    return matrix


def average_pool(module: Any, a: Tensor, z: Tensor, delta: Tensor) -> Backward | None:
    """Average pooling: the delta is shared equally by the window."""
    if isinstance(module, nn.AdaptiveAvgPool2d):
        rows, columns = _averages(a.shape[-2], z.shape[-2]), _averages(a.shape[-1], z.shape[-1])
        return Backward(rows.T @ delta @ columns, "shape", "1/window", "dL/da = δ / size of the window")
    k = module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,) * 2
    if module.ceil_mode or module.divisor_override or (module.padding not in {0, (0, 0)} and not module.count_include_pad):
        return None
    n, channels = a.shape[:2]
    spread = (delta / (k[0] * k[1])).reshape(n * channels, 1, -1).expand(-1, k[0] * k[1], -1)
    out = functional.fold(spread, a.shape[-2:], k, padding=module.padding, stride=module.stride)
    return Backward(out.reshape(a.shape), "shape", "1/window", "dL/da = δ / size of the window")


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.Conv2d: conv2d,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.BatchNorm3d: batch_norm,
    nn.PReLU: prelu,
    nn.Softmax: softmax,
    nn.Softmin: softmax,
    nn.Softmax2d: softmax,
    nn.LogSoftmax: log_softmax,
    nn.GLU: glu,
    nn.MaxPool1d: max_pool,
    nn.MaxPool2d: max_pool,
    nn.AdaptiveMaxPool2d: max_pool,
    nn.AvgPool2d: average_pool,
    nn.AdaptiveAvgPool2d: average_pool,
    **dict.fromkeys((nn.Flatten, nn.Unflatten, nn.Identity), same),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout), same),
    **dict.fromkeys(TABLE, elementwise),
}
