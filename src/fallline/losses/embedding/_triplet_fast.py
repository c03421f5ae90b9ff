"""All triplets on the CPU, forward and first derivative, by the compiled rows of `_triplet_kernel`.

Distances are made a block of anchors at a time; kept for the way back is one matrix (N, M): the slope of each anchor's sum by the squared
distance (or the cosine), so that the gradient is two matrix products. A second derivative goes the way of `_triplet_sums`.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from typing_extensions import override

from fallline.losses._among import Pairs
from fallline.losses._tracing import readable
from fallline.losses.embedding._forms import blocks
from fallline.losses.embedding._triplet_sums import Sums
from fallline.mining.distances import DISTANCES, centre, resolved

_BLOCK = 1 << 19
_SHARED = 1 << 16
SMALL = 1 << 12
"""Pairs in a batch that is not worth the compiler's first seconds."""
_KINDS = {"all": 0, "all_semi_hard": 1, "semi_hard": 2}


def serves(x: Tensor, others: Tensor, mining: str) -> bool:
    """Whether the compiled rows may be used: an eager CPU tensor of some size, without forward-mode tangents."""
    return (
        mining in _KINDS
        and x.shape[0] * others.shape[0] >= SMALL
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and readable(x, others)
        and forward_ad._current_level < 0  # pyright: ignore[reportPrivateUsage]
    )


class Problem:
    """What does not change with the embeddings: classes, which examples count, the options."""

    def __init__(self, pairs: Pairs, **options: Any) -> None:
        self.labels, self.columns = (_integers(t) for t in (pairs.labels, pairs.columns))
        keep, keep_columns = pairs.keep, pairs.keep_columns
        self.keep = np.ones(len(self.labels), np.bool_) if keep is None else keep.numpy()
        self.keep_columns = np.ones(len(self.columns), np.bool_) if keep_columns is None else keep_columns.numpy()
        self.margin, self.kind = float(options["margin"]), _KINDS[options["mining"]]
        self.squared, self.distance = bool(options["squared"]), str(options["distance"])


def fast_sums(x: Tensor, others: Tensor, problem: Problem, plain: Callable[[Tensor, Tensor], Sums]) -> Sums:
    """The sums of each anchor of `x` (N, D) against the columns `others` (M, D); `plain` is the same in torch operations."""
    total, many, active = _Rows.apply(x, others, problem, plain)
    return Sums(total, many, active)


class _Rows(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor, others: Tensor, problem: Problem, plain: Callable[[Tensor, Tensor], Sums]) -> tuple[Tensor, ...]:
        slope = x.new_empty((x.shape[0], others.shape[0]))
        sums = _run(x.detach(), others.detach(), problem, slope)
        ctx.save_for_backward(x, others)
        ctx.slope, ctx.plain, ctx.distance = slope, plain, problem.distance
        ctx.mark_non_differentiable(*sums[1:])
        return sums

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        x, others = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            way = _differentiably if torch.is_grad_enabled() else _directly
            return *way(ctx, x, others, grad_outputs[0]), None, None


def _differentiably(ctx: Any, x: Tensor, others: Tensor, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The gradients with a graph of their own, for derivatives of derivatives."""
    x, others = x.view_as(x), others.view_as(others)
    total = ctx.plain(x, others).total
    needed = ctx.needs_input_grad[:2]
    wanted = [t for t, need in zip((x, others), needed, strict=True) if need]
    found = iter(torch.autograd.grad(total, wanted, grad.to(total.dtype), create_graph=True))
    by_x, by_others = (next(found) if need else None for need in needed)
    return by_x, by_others


def _directly(ctx: Any, x: Tensor, others: Tensor, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The gradients by the slopes that were kept."""
    grad, slope = grad.to(x.dtype)[:, None], ctx.slope
    by_x = by_others = None
    if ctx.distance == "cosine":
        if ctx.needs_input_grad[0]:
            by_x = -grad * (slope @ others)
        if ctx.needs_input_grad[1]:
            by_others = -(slope.T @ (grad * x))
        return by_x, by_others
    centre = x.sum(0) / max(x.shape[0], 1)
    a, b = x - centre, others - centre
    if ctx.needs_input_grad[0]:
        by_x = grad * (slope.sum(1)[:, None] * a - slope @ b)
    if ctx.needs_input_grad[1]:
        both = slope.T @ torch.cat([grad, grad * a], 1)
        by_others = both[:, :1] * b - both[:, 1:]
    return by_x, by_others


def _run(x: Tensor, others: Tensor, problem: Problem, slope: Tensor) -> tuple[Tensor, ...]:
    from fallline.losses.embedding._triplet_kernel import rows

    n, m = slope.shape
    total, many, active = torch.empty(n, dtype=torch.float64), *(torch.empty(n, dtype=torch.int64) for _ in range(2))
    results = [t.numpy() for t in (total, many, active, slope)]
    threads = torch.get_num_threads() if n * m >= _SHARED else 1
    measure = _measure(x, others, problem.distance)
    with _pool(threads) as over:
        for start, stop in blocks(n, m, _BLOCK):
            d, fill = measure(start, stop)
            share = -(-(stop - start) // threads)

            def part(first: int, start: int = start, d: Tensor = d, fill: Callable[[slice], None] = fill, share: int = share) -> None:
                here = slice(first, min(first + share, d.shape[0]))
                fill(here)
                array = d.numpy()[here]
                words = array.view(np.uint32) if d.dtype == torch.float32 else np.empty((len(array), 0), np.uint32)
                rows(
                    array,
                    words,
                    start + first,
                    problem.labels,
                    problem.columns,
                    problem.keep,
                    problem.keep_columns,
                    problem.margin,
                    problem.kind,
                    problem.squared,
                    *(r[start + first : start + here.stop] for r in results),
                )

            list(over(part, range(0, stop - start, share)))
            _by_point(slope[start:stop], d, problem.distance)
    return total, many, active


def _measure(x: Tensor, others: Tensor, distance: str) -> Callable[[int, int], tuple[Tensor, Callable[[slice], None]]]:
    """What makes the distances of a block of anchors: a matrix, and what fills some of its rows (perhaps nothing more to do)."""
    if distance == "cosine" or x.dtype == torch.float64:

        def whole(start: int, stop: int) -> tuple[Tensor, Callable[[slice], None]]:
            # for the cosine both are of length 1 already
            d = 1 - x[start:stop] @ others.T if distance == "cosine" else DISTANCES[distance](x[start:stop], others)
            return d.contiguous(), lambda rows: None

        return whole

    from fallline.losses.embedding._triplet_kernel import from_products

    middle = centre(others).double()
    u, v = x.double() - middle, others.double() - middle
    lengths, other_lengths = ((t * t).sum(-1).numpy() for t in (u, v))
    least, take_root = resolved(x.shape[-1]), distance == "euclidean"

    def products(start: int, stop: int) -> tuple[Tensor, Callable[[slice], None]]:
        d = torch.empty((stop - start, len(other_lengths)), dtype=torch.float32)
        found, array, mine = (u[start:stop] @ v.T).numpy(), d.numpy(), lengths[start:stop]
        return d, lambda rows: from_products(found[rows], mine[rows], other_lengths, least, take_root, array[rows])

    return products


def _by_point(slope: Tensor, d: Tensor, distance: str) -> None:
    """Turn the slope by a distance into the factor of x − y (or of −y for the cosine)."""
    if distance == "squared":
        slope.mul_(2)
    elif distance == "euclidean":
        slope.div_(torch.where(d == 0, torch.inf, d))


class _pool:
    """`map` over threads, or a plain one where one thread is enough."""

    def __init__(self, threads: int) -> None:
        self.threads, self.pool = threads, None

    def __enter__(self) -> Callable[..., Any]:
        if self.threads == 1:
            return map
        self.pool = ThreadPoolExecutor(self.threads)
        return self.pool.map

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown()


def _integers(labels: Tensor) -> np.ndarray:
    return labels.detach().long().contiguous().numpy()
