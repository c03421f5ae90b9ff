"""The arithmetic of a linear layer and its cross-entropy, a block of tokens at a time; no call holds more than one block of logits.

    z = W x + b            z ← κ tanh(z / κ) with a softcap κ           lse = log Σ_c exp z_c           s = Σ_c t_c
    ℓ = s · lse − Σ_c t_c z_c + λ lse²                                  ∂ℓ/∂z = (s + 2 λ lse) softmax(z) − t

`scan` is the quick form: it writes into buffers of its own. `values`, `slopes` and `tangents` are the same formulas in pure operations, for
whatever differentiates, maps or compiles them. `t` is the target after label smoothing, a distribution or one class.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fallline.losses._tracing import batched, readable


class How(NamedTuple):
    """The options that the arithmetic reads.

    Attributes:
        smoothing: mass of each target spread over all classes.
        z_loss: λ, the price of lse².
        softcap: κ, or 0 for none.
        rows: tokens a block.
    """

    smoothing: float
    z_loss: float
    softcap: float
    rows: int


class Layer(NamedTuple):
    """What stands before the softmax: tokens x (N, D), weight (C, D), bias (C,) or None."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None


class Slopes(NamedTuple):
    """Gradients by tokens, weight, bias and soft target; None where nobody asked."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    target: Tensor | None


Need = tuple[bool, bool, bool, bool]
_BLOCK = 128 << 20
_SLICE = 16 << 20


def rows_of(tokens: int, classes: int, bytes_each: int, wanted: int) -> int:
    """Tokens a block: `wanted`, or up to 512 of them in 128 MiB of logits, spread evenly.

    Measured at 1024 x 50,000: with one thread a block of 128 tokens costs a tenth more than one of 256, where the gradient of the weight,
    read and written once a block, stops to matter; more gains nothing. Two threads share a block, hence 512.
    """
    rows = wanted or max(16, min(512, _BLOCK // max(classes * bytes_each, 1)))
    blocks = -(-tokens // rows)
    return -(-tokens // blocks) if blocks and not wanted else rows


def blocks(tokens: int, rows: int) -> Iterator[slice]:
    """The slices that cover `tokens`."""
    return (slice(start, min(start + rows, tokens)) for start in range(0, tokens, rows))


# -- the quick form --------------------------------------------------------------------------------------------------------------------


def scan(layer: Layer, target: Tensor, scale: Tensor | None, how: How, need: Need) -> tuple[Tensor, Slopes]:
    """Values (N,) of each token and the gradients of Σ scale · ℓ that `need` names; three products of matrices, or one for values alone."""
    x, weight, bias = layer
    (n, _), classes = x.shape, weight.shape[0]
    values = x.new_empty(n)
    grads = Slopes(
        torch.empty_like(x) if need[0] else None,
        (torch.empty_like if n else torch.zeros_like)(weight) if need[1] else None,
        x.new_zeros(classes) if need[2] else None,
        None,
    )
    buffer = x.new_empty(min(how.rows, n), classes)
    step = max(1, _SLICE // max(classes * x.element_size(), 1)) if x.device.type == "cpu" else how.rows
    for rows in blocks(n, how.rows):
        part = x[rows]
        z = buffer[: part.shape[0]]
        if bias is None:
            torch.mm(part, weight.t(), out=z)
        else:
            torch.addmm(bias, part, weight.t(), out=z)
        value, goal, weigh = values[rows], target[rows], None if scale is None else scale[rows]
        for few in blocks(part.shape[0], step):  # so that temporaries stay small
            _soften(z[few], value[few], goal[few], None if weigh is None else weigh[few], how)
        if grads.x is not None:
            torch.mm(z, weight, out=grads.x[rows])
        if grads.weight is not None:
            torch.addmm(grads.weight, z.t(), part, beta=1 if rows.start else 0, out=grads.weight)
        if grads.bias is not None:
            grads.bias.add_(z.sum(0))
    return values, grads


def _soften(z: Tensor, value: Tensor, target: Tensor, scale: Tensor | None, how: How) -> None:
    """Write the values of these rows; turn their logits, in place, into scale · ∂ℓ/∂z where a scale is given."""
    bent = None
    if how.softcap:
        z.div_(how.softcap).tanh_()
        bent = None if scale is None else z.clone()
        z.mul_(how.softcap)
    top = z.amax(-1, keepdim=True)
    z.sub_(top)
    mass, crossed, soft = 1.0, None, None
    out, mean = _evenly(z) if how.smoothing else (None, None)
    if target.is_floating_point():
        soft = smoothed(target, out, how.smoothing)
        mass = soft.sum(-1)
        crossed = torch.where(soft == 0, 0.0, soft * z).sum(-1)
    else:
        crossed = z.gather(-1, target[:, None]).squeeze(-1)
        if mean is not None:
            crossed = (1 - how.smoothing) * crossed + how.smoothing * mean
    total = z.exp_().sum(-1)
    log_total = total.log()
    lse = top.squeeze(-1) + log_total
    torch.sub(mass * log_total, crossed, out=value)
    if how.z_loss:
        value.add_(how.z_loss * lse.square())
    if scale is None:
        return
    pull = mass + 2 * how.z_loss * lse if how.z_loss else mass
    z.mul_((scale * pull / total)[:, None])
    if soft is not None:
        z.sub_(soft.mul_(scale[:, None]))
    else:
        if how.smoothing:
            z.sub_(scale[:, None] * how.smoothing / _left(z, out))
            if out is not None:
                z.masked_fill_(out, 0)
        z.scatter_add_(-1, target[:, None], (scale * (how.smoothing - 1))[:, None])
    if bent is not None:
        z.mul_(bent.square_().neg_().add_(1))


# -- the same in pure operations -------------------------------------------------------------------------------------------------------


def smoothed(target: Tensor, out: Tensor | None, smoothing: float) -> Tensor:
    """(1 − ε) t + ε / C over the C classes that are not ruled `out`, always a tensor of its own."""
    if not smoothing:
        return target.clone()
    even = smoothing / _left(target, out)
    return target * (1 - smoothing) + (even if out is None else torch.where(out, 0.0, even))


def values(layer: Layer, target: Tensor, how: How) -> Tensor:
    """Values (N,) of each token."""
    parts = [_value(*_logits(layer, rows, how), target[rows], how) for rows in blocks(layer.x.shape[0], how.rows)]
    return torch.cat(parts) if parts else layer.x.new_zeros(0)


def slopes(layer: Layer, target: Tensor, scale: Tensor, how: How, need: Need) -> Slopes:
    """Gradients of Σ scale · ℓ; differentiable once more, by whoever wants it, at the price of keeping the blocks."""
    x, weight, bias = layer
    by_x, by_weight, by_bias, by_target = [], torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias), []
    for rows in blocks(x.shape[0], how.rows):
        z, bend = _logits(layer, rows, how)
        u = scale[rows][:, None]
        pull = u * _pull(z, target[rows], how) * bend
        if need[0]:
            by_x.append(pull @ weight)
        if need[1]:
            by_weight = by_weight + pull.t() @ x[rows]
        if need[2] and by_bias is not None:
            by_bias = by_bias + pull.sum(0)
        if need[3]:
            by_target.append((how.smoothing - 1) * u * _worth(z, target[rows]))
    return Slopes(
        (torch.cat(by_x) if by_x else torch.zeros_like(x)) if need[0] else None,
        by_weight if need[1] else None,
        by_bias if need[2] else None,
        (torch.cat(by_target) if by_target else torch.zeros_like(target)) if need[3] else None,
    )


def tangents(layer: Layer, target: Tensor, along: Slopes, how: How) -> Tensor:
    """How the values (N,) change along tangents of tokens, weight, bias and soft target."""
    x, weight, _ = layer
    parts = []
    for rows in blocks(x.shape[0], how.rows):
        z, bend = _logits(layer, rows, how)
        moved = torch.zeros_like(z)
        if along.x is not None:
            moved = moved + along.x[rows] @ weight.t()
        if along.weight is not None:
            moved = moved + x[rows] @ along.weight.t()
        if along.bias is not None:
            moved = moved + along.bias
        change = (_pull(z, target[rows], how) * bend * moved).sum(-1)
        if along.target is not None:
            change = change - (1 - how.smoothing) * (_worth(z, target[rows]) * along.target[rows]).sum(-1)
        parts.append(change)
    return torch.cat(parts) if parts else x.new_zeros(0)


def _logits(layer: Layer, rows: slice, how: How) -> tuple[Tensor, Tensor | float]:
    """Logits of a block, and the slope of the softcap there."""
    z = F.linear(layer.x[rows], layer.weight, layer.bias)
    if not how.softcap:
        return z, 1.0
    bent = torch.tanh(z / how.softcap)
    return how.softcap * bent, 1 - bent.square()


def _value(z: Tensor, bend: Tensor | float, target: Tensor, how: How) -> Tensor:
    del bend
    if target.is_floating_point():
        out = _evenly(z)[0] if how.smoothing else None
        t = smoothed(target, out, how.smoothing)
        value = -(t * _worth(z, t)).sum(-1)
    else:
        log_p = F.log_softmax(z, -1)
        value = (how.smoothing - 1) * log_p.gather(-1, target[:, None]).squeeze(-1)
        if how.smoothing:
            value = value - how.smoothing * _evenly(log_p)[1]
    return value + how.z_loss * torch.logsumexp(z, -1).square() if how.z_loss else value


def _pull(z: Tensor, target: Tensor, how: How) -> Tensor:
    """∂ℓ/∂z, before the softcap."""
    p = F.softmax(z, -1)
    out = _evenly(z)[0] if how.smoothing else None
    if target.is_floating_point():
        t = smoothed(target, out, how.smoothing)
        mass = t.sum(-1, keepdim=True)
    else:
        place = torch.arange(z.shape[-1], device=z.device)
        t = smoothed((place == target[:, None]).to(z.dtype), out, how.smoothing)
        mass = 1.0
    if how.z_loss:
        mass = mass + 2 * how.z_loss * torch.logsumexp(z, -1, keepdim=True)
    return mass * p - t


def _worth(z: Tensor, target: Tensor) -> Tensor:
    """Log p, with 0 for a class that is ruled out (−∞) where the target gives it nothing."""
    log_p = F.log_softmax(z, -1)
    return torch.where((target == 0) & (log_p == -torch.inf), 0.0, log_p)


def _evenly(z: Tensor) -> tuple[Tensor | None, Tensor]:
    """Which classes are ruled out (−∞), None where none is, and the mean of `z` over the others."""
    mean = z.mean(-1)
    if z.device.type == "cpu" and readable(z) and not batched(z) and bool((mean.detach() > -torch.inf).all()):
        return None, mean
    out = z == -torch.inf
    return out, (torch.where(out, 0.0, z) / _left(z, out)).sum(-1)


def _left(z: Tensor, out: Tensor | None) -> Tensor | int:
    """How many classes are possible, (N, 1) or one number."""
    return z.shape[-1] if out is None else (z.shape[-1] - out.sum(-1, keepdim=True)).to(z.dtype)
