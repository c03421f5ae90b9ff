"""What ranks tell each other before they exchange rows, so that a refusal on one of them is one on all, and none waits for ever."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fallline._core.errors import FalllineError, must, refuse

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
_AXES = 12
_LENGTH = 4 + _AXES
Group = Any


def agree(rows: tuple[Tensor, ...], wrong: FalllineError | None, group: Group, where: str) -> list[list[int]]:
    """How many rows of each tensor each rank has; refuses, on all ranks at once, what would leave some of them waiting for ever.

    `wrong`: what this rank has against its own rows. The first tensor's message tells the others so, and how many tensors there are.
    """
    on = device(group, *rows)
    wrong = wrong or caught(_sendable, rows, on, where)
    found: list[list[int]] = []
    for i in range(max(len(rows), 1)):
        told = torch.tensor([0] * _LENGTH if wrong else _message(rows, i), device=on)
        heard = [torch.empty_like(told) for _ in range(dist.get_world_size(group))]
        dist.all_gather(heard, told, group=group)
        say(wrong)
        table: list[list[int]] = torch.stack(heard).tolist()
        refusing = [rank for rank, line in enumerate(table) if not line[0]]
        if refusing:
            came = "an error on rank " + ", ".join(map(str, refusing))
            refuse("what each rank gives is in order", came, "read that rank's own message", where=where)
        for start, stop, law, shown in (
            (0, 1, "every rank gives as many tensors", lambda of: str(*of)),
            (2, 3, "rows have one type on all ranks", lambda of: str(_DTYPES[of[0]])),
            (3, 4, "rows carry gradients on all ranks or on none", lambda of: "yes" if of[0] else "no"),
            (4, _LENGTH, "rows have one shape on all ranks", lambda of: str(("N", *of[1 : of[0]])).replace("'", "")),
        ):
            column = [line[start:stop] for line in table]
            if any(line != column[0] for line in column):
                refuse(law, ", ".join(f"{shown(line)} on rank {rank}" for rank, line in enumerate(column)), where=where)
        found.append([line[1] for line in table])
    return found


def _message(rows: tuple[Tensor, ...], i: int) -> list[int]:
    each = rows[i]
    grows = each.requires_grad and torch.is_grad_enabled()
    message = [len(rows), each.shape[0], _DTYPES.index(each.dtype), int(grows), each.ndim, *each.shape[1:]]
    return message + [0] * (_LENGTH - len(message))


def device(group: Group, *given: Any) -> torch.device:
    """Where a message travels: with the tensors, or on the group's own kind of device where they are not."""
    there = [each.device for each in given if isinstance(each, Tensor)]
    if dist.is_initialized() and dist.get_backend(group) == "nccl":
        return next((each for each in there if each.type == "cuda"), torch.device("cuda", torch.cuda.current_device()))
    return there[0] if there else torch.device("cpu")


def caught(check: Callable[..., None], *given: Any) -> FalllineError | None:
    """What `check` refuses, to be raised after the others know of it."""
    try:
        check(*given)
    except FalllineError as error:
        return error
    return None


def say(wrong: FalllineError | None) -> None:
    if wrong is not None:
        raise wrong


def _sendable(rows: tuple[Tensor, ...], on: torch.device, where: str) -> None:
    for each in rows:
        must(each.dtype in _DTYPES, "the rows are real numbers", each.dtype, where=where)
        must(each.device == on, f"the rows are on {on}", each.device, f"write .to({str(on)!r})", where=where)
        must(each.ndim <= _AXES, f"rows have at most {_AXES} axes", each.ndim, "write rows.flatten(1)", where=where)
