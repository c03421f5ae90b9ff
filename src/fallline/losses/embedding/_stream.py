"""All similarities of a batch by blocks of anchors: what each anchor's amount to, without ever holding the whole matrix.

    s = x yᵀ        out_i = law(s_i1 … s_iM)        W_ij = g_i ∂out_i / ∂s_ij        ∂x = W y        ∂y = Wᵀ x

The forward pass keeps one number or two an anchor; the backward pass makes each block of s again and goes straight to W. Where y is x
the matrix is symmetric: W + Wᵀ comes from one block, and one product gives the whole gradient. Higher derivatives, `torch.func` and
`torch.compile` take the plain form, which holds the matrix; values are equal.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fallline.losses._among import Pairs
from fallline.losses._tracing import readable
from fallline.losses.embedding._forms import blocks
from fallline.losses.embedding._laws import NONE, Law, LogSum
from fallline.mining.distances import unit

BLOCK = 1 << 20
"""Similarities held at once, about: 4 MB in float32, so that a block stays in the cache. What fits in one block is kept for the slope."""


def stream(law: Law, who: Pairs, x: Tensor, y: Tensor | None = None) -> Tensor:
    """`law` of each anchor's similarities: x (N, D) against y (M, D), or against itself.

    `who` says which columns stand against which anchors; it must be symmetric where y is None.
    """
    if not x.shape[0]:
        return x.sum(1)
    with torch.autocast(x.device.type, enabled=False):
        if _by_blocks(x, y):
            return _Streamed.apply(law, who, False, x, y)[0]
        return _plain(law, who, False, x, x if y is None else y)[0]


def stream_among(law: Law, who: Pairs, x: Tensor, others: Tensor, *, scale: Tensor | float, directions: bool) -> Tensor:
    """`law` of anchors against the columns of a loss by labels: `others` is `x` itself where there is no reference."""
    alone = others is x
    if directions:
        x, others = unit(x), others if alone else unit(others)
    return stream(law, who, x * scale**0.5) if alone else stream(law, who, x * scale, others)


def both_ways(who: Pairs, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Log-sum-exp over the negatives of every row of x yᵀ and of every column; `who` as for `stream`, as many columns as rows."""
    if not x.shape[0]:
        return x.sum(1), y.sum(1)
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = (_Streamed.apply if _by_blocks(x, y) else _plain)(LogSum(), who, True, x, y)
        return rows, columns


def _by_blocks(x: Tensor, y: Tensor | None) -> bool:
    return readable(x, y) and forward_ad._current_level < 0


def _plain(law: Law, who: Pairs, sides: bool, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    s, neg = x @ y.mT, who.other()
    if law.positives:
        return (law.terms(s, neg, who.same())[0],)
    s = torch.where(neg, s, NONE)
    rows = law.terms(s, None, None)[0]
    return (rows, law.terms(s.mT, None, None)[0]) if sides else (rows,)


def _block(law: Law, who: Pairs, x: Tensor, y: Tensor, start: int, stop: int, room: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The similarities of anchors start to stop, made in `room`, and the masks that the law reads with them."""
    s = torch.mm(x[start:stop], y.mT, out=room[: stop - start])
    if law.positives:
        return s, who.other(start, stop), who.same(start, stop)
    if who.alone is not None:
        return s.scatter_(1, who.alone[start:stop], NONE), None, None
    return torch.where(who.other(start, stop), s, NONE), None, None


class _Streamed(torch.autograd.Function):
    """One output an anchor; with `sides` one a column besides."""

    @staticmethod
    def forward(ctx: Any, law: Law, who: Pairs, sides: bool, x: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
        other = x if y is None else y
        known: list[Tensor] = []
        columns = x.new_full((other.shape[0],), NONE) if sides else None
        cuts = blocks(x.shape[0], other.shape[0], BLOCK)
        ctx.only = None
        room = x.new_empty(cuts[0][1], other.shape[0])
        for start, stop in cuts:
            block = _block(law, who, x, other, start, stop, room)
            total, more = law.terms(*block)
            for i, part in enumerate((total, *more)):  # into one tensor each: small ones kept from each block would split the memory
                if len(known) == i:
                    known.append(part.new_empty(x.shape[0]))
                known[i][start:stop] = part
            if columns is not None:
                columns = torch.logaddexp(columns, law.terms(block[0].mT, None, None)[0])
            if len(cuts) == 1:
                ctx.only = block
        ctx.law, ctx.who, ctx.own, ctx.sides = law, who, y is None, sides
        ctx.save_for_backward(x, *([] if y is None else [y]), *known[1:])
        ctx.columns = columns
        return (known[0],) if columns is None else (known[0], columns.clone())

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *saved = ctx.saved_tensors
        y = x if ctx.own else saved.pop(0)
        with torch.autocast(x.device.type, enabled=False):
            found = _differentiably(ctx, x, y, slopes) if torch.is_grad_enabled() else _directly(ctx, x, y, saved, slopes)
        return None, None, None, *found


def _directly(ctx: Any, x: Tensor, y: Tensor, saved: list[Tensor], slopes: tuple[Tensor, ...]) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of both sides, a block of anchors at a time."""
    law: Law = ctx.law
    of_x = torch.empty_like(x) if ctx.needs_input_grad[3] else None
    of_y = torch.zeros_like(y) if ctx.needs_input_grad[4] else None
    far = (slopes[0], *saved) if ctx.own else (slopes[1], ctx.columns) if ctx.sides else None
    cuts = blocks(x.shape[0], y.shape[0], BLOCK)
    room = x.new_empty(cuts[0][1] if ctx.only is None else 0, y.shape[0])
    for start, stop in cuts:
        s, neg, pos = _block(law, ctx.who, x, y, start, stop, room) if ctx.only is None else ctx.only
        w = law.slope(s, neg, pos, *(part[start:stop, None] for part in (slopes[0], *saved)))
        if far is not None:
            w += law.slope(s, neg, pos, *(part[None] for part in far))
        if of_x is not None:
            torch.mm(w, y, out=of_x[start:stop])
        if of_y is not None:
            of_y.addmm_(w.mT, x[start:stop])
    return of_x, of_y


def _differentiably(ctx: Any, x: Tensor, y: Tensor, slopes: tuple[Tensor, ...]) -> tuple[Tensor | None, Tensor | None]:
    """The same gradients with a graph of their own, for derivatives of derivatives."""
    x = x.view_as(x)
    y = x if ctx.own else y.view_as(y)
    wanted = [t for t, needed in zip((x, y), ctx.needs_input_grad[3:], strict=True) if needed]
    found = iter(torch.autograd.grad(_plain(ctx.law, ctx.who, ctx.sides, x, y), wanted, slopes, create_graph=True, materialize_grads=True))
    of_x, of_y = (next(found) if needed else None for needed in ctx.needs_input_grad[3:])
    return of_x, of_y
