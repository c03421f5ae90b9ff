"""One batch spread over ranks: the others' embeddings, with their gradients, and the mean over all ranks.

    L = Σ_r T_r / Σ_r n_r              T_r, n_r: `loss.sum_and_count(...)` on rank r

    reference = others(embeddings, labels)                        # for losses between examples
    loss = mean_over_ranks(*criterion.sum_and_count(embeddings, labels, reference=reference))
    loss.backward()

The value is L on every rank. Its gradients are made for what follows: DistributedDataParallel (and FSDP) divides the sum of the ranks'
gradients by their number R, so each rank sends back R times its share, and the parameters get ∂L/∂θ of the whole batch, exactly. Where
gradients are summed and not averaged, write `averaged=False`. A rank may hold fewer rows than the others, none, or only masked ones; it
still takes part in every call, as in every collective of torch. Parameters of the loss itself (class vectors, uncertainty weights) need the
same averaging: keep them in the module that DDP wraps. Without a process group all of it works on the one batch there is.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from fallline._core.errors import must, refuse

_NARROW = (torch.float16, torch.bfloat16)
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or getattr(dist, "reduce_scatter_tensor", None)  # as before 2.13
_DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)
Group = Any


def gather(rows: Tensor, *, group: Group = None) -> Tensor:
    """The rows (N_r, ...) of every rank, own ones among them, in the order of the ranks; N_r may differ, 0 is fine.

    A gradient that any rank sends back for a row reaches the rank that the row came from; they are summed there.
    Raises FalllineError, on every rank alike, where the ranks' rows differ in shape or type.

    >>> gather(torch.zeros(3, 2)).shape  # no process group: there is one rank
    torch.Size([3, 2])
    """
    must(
        isinstance(rows, Tensor) and rows.ndim >= 1,
        "rows is a tensor (N, ...)",
        getattr(rows, "shape", type(rows).__name__),
        where="gather",
    )
    if _world(group) == 1:
        return rows
    return _gathered(rows, _agree(rows, group, "gather"), group)


def others(*rows: Tensor, mask: Tensor | None = None, group: Group = None) -> tuple[Tensor, ...] | None:
    """The rows of all other ranks, as `reference=` of a loss between examples; None where there is no other rank.

    `others(embeddings, labels)` for losses of labels, `others(x, y)` for losses of pairs such as InfoNCE; each (N_r, ...), and N_r may
    differ. `mask` (N_r,): rows that count; the rest is not sent, as it is no column for the others either. Gradients travel back to the
    rank that owns the row.

    >>> others(torch.zeros(3, 2), torch.tensor([0, 1, 0])) is None
    True
    """
    for each in rows:
        must(isinstance(each, Tensor) and each.ndim >= 1, "every argument is a tensor (N, ...)", type(each).__name__, where="others")
    sizes = {each.shape[0] for each in rows}
    must(len(sizes) == 1, "all that others is given has one number of rows", [tuple(each.shape) for each in rows], where="others")
    if _world(group) == 1:
        return None
    if mask is not None:
        n = rows[0].shape[0]
        law = f"the mask is boolean and ({n},)"
        must(mask.dtype == torch.bool and mask.shape == (n,), law, f"{mask.dtype} {tuple(mask.shape)}", where="others")
        rows = tuple(each[mask] for each in rows)
    rank = dist.get_rank(group)
    found = []
    for each in rows:
        sizes = _agree(each, group, "others")
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
    for what, came in (("total", total), ("count", count)):
        ok = isinstance(came, Tensor) and came.ndim == 0
        must(
            ok,
            f"{what} is one number",
            getattr(came, "shape", type(came).__name__),
            "give what sum_and_count returned",
            where="mean_over_ranks",
        )
    world = _world(group)
    both = torch.stack([total.detach().double(), count.detach().double()])
    if world > 1:
        dist.all_reduce(both, group=group)
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


def _agree(rows: Tensor, group: Group, where: str) -> list[int]:
    """How many rows each rank has; refuses, on all ranks at once, what would leave some of them waiting for ever."""
    grows = rows.requires_grad and torch.is_grad_enabled()
    must(rows.dtype in _DTYPES, "the rows are real numbers", rows.dtype, where=where)
    told = torch.tensor([rows.shape[0], rows.shape[1:].numel(), _DTYPES.index(rows.dtype), int(grows)], device=rows.device)
    heard = [torch.empty_like(told) for _ in range(dist.get_world_size(group))]
    dist.all_gather(heard, told, group=group)
    table = torch.stack(heard).tolist()
    for place, law, shown in (
        (1, "rows have one width on all ranks", str),
        (2, "rows have one type on all ranks", lambda i: str(_DTYPES[i])),
        (3, "rows carry gradients on all ranks or on none", lambda flag: "yes" if flag else "no"),
    ):
        column = [line[place] for line in table]
        if len(set(column)) > 1:
            refuse(law, ", ".join(f"{shown(value)} on rank {rank}" for rank, value in enumerate(column)), where=where)
    return [line[0] for line in table]
