"""Two functions with derivatives of their own: the values of each token, and their weighted sum with its gradients found on the way.

`Rows` saves what came in and recomputes: it serves `reduction="none"`, `torch.func`, `torch.compile` and forward mode. `Total` knows in
its forward what each token will weigh, so that one pass over the logits serves value and gradients: three products of matrices, not four.
Its first backward hands those gradients over, so that nothing is held twice; another, over a retained graph, recomputes them.
Under `create_graph` both take the pure form, which autograd differentiates again.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from typing_extensions import override

from fallline.losses._tracing import batched, readable
from fallline.losses.large import _blocks
from fallline.losses.large._blocks import How, Layer, Need, Slopes

_NOTHING: Need = (False, False, False, False)


def eager(*tensors: Tensor | None) -> bool:
    """Whether buffers may be written: plain tensors, no transform, no tangent, no batch of gradients (`is_grads_batched`)."""
    return readable(*tensors) and forward_ad._current_level < 0 and not batched(*tensors)


def rows(layer: Layer, target: Tensor, how: How) -> Tensor:
    """Values (N,) of each token."""
    function = Traced if torch.compiler.is_compiling() else Rows
    return function.apply(*layer, target, how)  # pyright: ignore[reportReturnType]


def total(layer: Layer, target: Tensor, scale: Tensor, keep: Tensor | None, how: How) -> Tensor:
    """Σ scale · ℓ over the tokens; those that `keep` leaves out add 0."""
    if eager(*layer, target, scale) and not target.requires_grad:
        return Total.apply(*layer, target, scale, keep, how, torch.is_grad_enabled())  # pyright: ignore[reportReturnType]
    return _weighted(rows(layer, target, how), scale, keep)


def _weighted(values: Tensor, scale: Tensor, keep: Tensor | None) -> Tensor:
    return ((values if keep is None else torch.where(keep, values, 0)) * scale).sum()


class Rows(torch.autograd.Function):
    """Values of each token."""

    generate_vmap_rule = True

    @staticmethod
    @override
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, how: How) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        layer = Layer(x, weight, bias)
        if eager(*layer, target):
            return _blocks.scan(layer, target, None, how, _NOTHING)[0]
        return _blocks.values(layer, target, how)

    @staticmethod
    @override
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        del output
        *tensors, ctx.how = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        *layer, target = ctx.saved_tensors
        need: Need = tuple(ctx.needs_input_grad[:4])
        return *_slopes(Layer(*layer), target, grad_outputs[0], ctx.how, need), None

    @staticmethod
    @override
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        *layer, target = ctx.saved_tensors
        return _blocks.tangents(Layer(*layer), target, Slopes(*grad_inputs[:4]), ctx.how)


class Traced(torch.autograd.Function):
    """`Rows` for torch.compile, which follows no function that has a `jvp` of its own."""

    @staticmethod
    @override
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, how: How) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _blocks.values(Layer(x, weight, bias), target, how)

    @staticmethod
    @override
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        del output
        *tensors, ctx.how = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        *layer, target = ctx.saved_tensors
        need: Need = tuple(ctx.needs_input_grad[:4])
        return *_blocks.slopes(Layer(*layer), target, grad_outputs[0], ctx.how, need), None


class Total(torch.autograd.Function):
    """Σ scale · ℓ, for eager tensors."""

    @staticmethod
    @override
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        scale: Tensor,
        keep: Tensor | None,
        how: How,
        differentiable: bool,
    ) -> Tensor:
        need: Need = (*ctx.needs_input_grad[:3], False) if differentiable else _NOTHING
        values, grads = _blocks.scan(Layer(x, weight, bias), target, scale if any(need) else None, how, need)
        ctx.save_for_backward(x, weight, bias, target, scale, keep)
        ctx.how, ctx.need, ctx.found, ctx.values = how, need, grads[:3] if any(need) else None, None
        if differentiable and ctx.needs_input_grad[4]:
            ctx.values = values if keep is None else torch.where(keep, values, 0)
        return _weighted(values, scale, keep)

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (g,) = grad_outputs
        rest = (None,) * 4
        x, weight, bias, target, scale, keep = ctx.saved_tensors
        layer = Layer(x, weight, bias)
        if torch.is_grad_enabled():
            by_scale = None
            if ctx.needs_input_grad[4]:
                values = rows(layer, target, ctx.how)
                by_scale = g * (values if keep is None else torch.where(keep, values, 0))
            return *_blocks.slopes(layer, target, g * scale, ctx.how, ctx.need)[:3], None, by_scale, *rest[:3]
        by_scale = None if ctx.values is None else g * ctx.values
        if not eager(g):
            found = _blocks.scan(layer, target, scale, ctx.how, ctx.need)[1][:3] if ctx.found is None else ctx.found
            return *(None if slope is None else g * slope for slope in found), None, by_scale, *rest[:3]
        found, ctx.found = ctx.found, None
        if found is None:
            found = _blocks.scan(layer, target, g * scale, ctx.how, ctx.need)[1][:3] if any(ctx.need) else rest[:3]
        elif g.device.type != "cpu" or g != 1:
            for slope in found:
                if slope is not None:
                    slope.mul_(g)
        return *found, None, by_scale, *rest[:3]


def _slopes(layer: Layer, target: Tensor, scale: Tensor, how: How, need: Need) -> Slopes:
    if torch.is_grad_enabled() or need[3] or not eager(*layer, target, scale):
        return _blocks.slopes(layer, target, scale, how, need)
    return _blocks.scan(layer, target, scale, how, need)[1]
