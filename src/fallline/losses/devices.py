"""One batch spread over ranks: the others' embeddings, with their gradients, and the mean over all ranks.

    L = Σ_r T_r / Σ_r n_r              T_r, n_r: `loss.sum_and_count(...)` on rank r

    reference = others(embeddings, labels)                        # for losses between examples
    loss = mean_over_ranks(*criterion.sum_and_count(embeddings, labels, reference=reference))
    loss.backward()

The value is L on every rank. Its gradients are made for what follows: DistributedDataParallel (and FSDP) divides the sum of the ranks'
gradients by their number R, so each rank sends back R times its share, and the parameters get ∂L/∂θ of the whole batch, exactly. Where
gradients are summed and not averaged, write `averaged=False`. A rank may hold fewer rows than the others, none, or only masked ones; it
still takes part in every call, as in every collective of torch. A rank that refuses what it is given says so to the others, which then
refuse too (`gather`, `others`) or get NaN (`mean_over_ranks`, which reads no number): none is left waiting. Parameters of the loss itself
(class vectors, uncertainty weights) need the same averaging: keep them in the module that DDP wraps. Without a process group all of it
works on the one batch there is.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from fallline._core.errors import must
from fallline.losses._agree import Group, agree, caught, device, say

_NARROW = (torch.float16, torch.bfloat16)
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or getattr(dist, "reduce_scatter_tensor", None)  # as before 2.13


def gather(rows: Tensor, *, group: Group = None) -> Tensor:
    """The rows (N_r, ...) of every rank, own ones among them, in the order of the ranks; N_r may differ, 0 is fine.

    A gradient that any rank sends back for a row reaches the rank that the row came from; they are summed there.
    Raises FalllineError, on every rank alike, where the ranks' rows differ in shape or type, or any rank refuses its own.

    >>> gather(torch.zeros(3, 2)).shape  # no process group: there is one rank
    torch.Size([3, 2])
    """
    wrong = caught(_ranked, "rows is", (rows,), "gather")
    if _world(group) == 1:
        say(wrong)
        return rows
    (sizes,) = agree((rows,), wrong, group, "gather")
    return _gathered(rows, sizes, group)


def others(*rows: Tensor, mask: Tensor | None = None, group: Group = None) -> tuple[Tensor, ...] | None:
    """The rows of all other ranks, as `reference=` of a loss between examples; None where there is no other rank.

    `others(embeddings, labels)` for losses of labels, `others(x, y)` for losses of pairs such as InfoNCE; each (N_r, ...), and N_r may
    differ. `mask` (N_r,): rows that count; the rest is not sent, as it is no column for the others either. Gradients travel back to the
    rank that owns the row.

    >>> others(torch.zeros(3, 2), torch.tensor([0, 1, 0])) is None
    True
    """
    wrong = caught(_fitting, rows, mask)
    if _world(group) == 1:
        say(wrong)
        return None
    if mask is not None and wrong is None:
        rows = tuple(each[mask] for each in rows)
    rank = dist.get_rank(group)
    found = []
    for each, sizes in zip(rows, agree(rows, wrong, group, "others"), strict=True):
        every = _gathered(each, sizes, group)
        before = sum(sizes[:rank])
        found.append(torch.cat([every[:before], every[before + sizes[rank] :]]))
    return tuple(found)


def mean_over_ranks(total: Tensor, count: Tensor, *, averaged: bool = True, group: Group = None) -> Tensor:
    """The mean over all ranks from each rank's `sum_and_count`: the same value everywhere, 0 where nothing counts at all.

    Call `backward` on it. `averaged`: the gradients of the parameters are averaged over ranks afterwards, as DistributedDataParallel does;
    False where they are summed. The count is a number here: no gradient goes through it. With micro-batches under `no_sync`, give each
    its own total and the count of all of them.

    >>> mean_over_ranks(torch.tensor(6.0), torch.tensor(4.0))
    tensor(1.5000)
    """
    wrong, world = caught(_numbers, total, count), _world(group)
    if wrong is None:
        both = torch.stack([total.detach().double(), count.detach().double()])
    else:
        both = torch.full((2,), torch.nan, dtype=torch.float64, device=device(group, total, count))
    if world > 1:
        dist.all_reduce(both, group=group)
    say(wrong)
    n = torch.where(both[1] == 0, 1, both[1])
    return _Shared.apply(total, (both[0] / n).to(total.dtype), ((world if averaged else 1) / n).to(total.dtype))  # pyright: ignore[reportReturnType]


# -- how it is done ------------------------------------------------------------------------------------------------------------------------


class _Shared(torch.autograd.Function):
    """A value that is everybody's, with the gradient of this rank's share."""

    @staticmethod
    @override
    def forward(ctx: Any, total: Tensor, value: Tensor, share: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(share)
        return value.clone()

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (share,) = ctx.saved_tensors
        return grad_outputs[0] * share, None, None


class _Gather(torch.autograd.Function):
    """Rows of all ranks; backward is `_Return`."""

    @staticmethod
    @override
    def forward(ctx: Any, rows: Tensor, sizes: list[int], group: Group) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.sizes, ctx.group = sizes, group
        return _gathered_plain(rows, sizes, group)

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return _Return.apply(grad_outputs[0], ctx.sizes, ctx.group), None, None


class _Return(torch.autograd.Function):
    """What all ranks together send back for the rows of this one; backward is `_Gather`."""

    @staticmethod
    @override
    def forward(ctx: Any, sent: Tensor, sizes: list[int], group: Group) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.sizes, ctx.group = sizes, group
        rank, most = dist.get_rank(group), max(sizes)
        if not most:
            return torch.zeros_like(sent)
        wide = sent.float() if sent.dtype in _NARROW else sent  # summed in 32 bits
        padded = wide.new_zeros(len(sizes), most, *sent.shape[1:])
        for slot, part in zip(padded, wide.split(sizes), strict=True):
            slot[: part.shape[0]] = part
        mine = torch.empty_like(padded[0])
        _reduce_scatter(mine, padded.flatten(0, 1), group=group)
        return mine[: sizes[rank]].to(sent.dtype)

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return _Gather.apply(grad_outputs[0], ctx.sizes, ctx.group), None, None


def _gathered(rows: Tensor, sizes: list[int], group: Group) -> Tensor:
    if not (rows.requires_grad and torch.is_grad_enabled()):
        return _gathered_plain(rows, sizes, group)
    return _Gather.apply(rows, sizes, group)  # pyright: ignore[reportReturnType]


def _gathered_plain(rows: Tensor, sizes: list[int], group: Group) -> Tensor:
    """All ranks' rows, by way of tensors of equal size, as the collective wants them."""
    most = max(sizes)
    if not most:
        return rows.clone()
    padded = rows.new_zeros(most, *rows.shape[1:])
    padded[: rows.shape[0]] = rows.detach()
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def _world(group: Group) -> int:
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    world = dist.get_world_size(group)
    must(
        world >= 1,
        "this rank belongs to the group",
        f"rank {dist.get_rank()}",
        "call it on the group's ranks only",
        where="fallline.losses",
    )
    return world


def _ranked(what: str, rows: tuple[Any, ...], where: str) -> None:
    for each in rows:
        ok = isinstance(each, Tensor) and each.ndim >= 1
        must(ok, f"{what} a tensor (N, ...)", getattr(each, "shape", type(each).__name__), where=where)


def _fitting(rows: tuple[Any, ...], mask: Tensor | None) -> None:
    _ranked("every argument is", rows, "others")
    sizes = {each.shape[0] for each in rows}
    must(len(sizes) == 1, "all that others is given has one number of rows", [tuple(each.shape) for each in rows], where="others")
    if mask is not None:
        n = rows[0].shape[0]
        ok = isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == (n,)
        came = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        must(ok, f"the mask is boolean and ({n},)", came, where="others")


def _numbers(total: Any, count: Any) -> None:
    for what, came in (("total", total), ("count", count)):
        ok = isinstance(came, Tensor) and came.ndim == 0
        shown = getattr(came, "shape", type(came).__name__)
        must(ok, f"{what} is one number", shown, "give what sum_and_count returned", where="mean_over_ranks")
