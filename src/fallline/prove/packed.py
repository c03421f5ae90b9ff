"""Losses of several tensors: a dict, tuple or list of them travels as one table, a row an example, and is taken apart for each call."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fallline._core.errors import FalllineError


class Packed:
    """How the parts of an input or target lie in one table."""

    def __init__(self, parts: Any, what: str) -> None:
        leaves, self._spec = pytree.tree_flatten(parts)
        self._like = [leaf.detach().clone() for leaf in leaves]
        rows = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
        if len(rows) != 1 or 0 in rows:
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
            raise FalllineError(f"`every part of {what} has one row an example` must hold for check_loss, but got the shapes {shapes}.")

    @property
    def whole(self) -> bool:
        """Whether a part holds whole numbers."""
        return any(not like.is_floating_point() for like in self._like)

    def table(self) -> Tensor:
        """All parts side by side (N, numbers of an example), in the widest floating type among them, float64 where there is none."""
        floating = [leaf.dtype for leaf in self._like if leaf.is_floating_point()]
        dtype = functools.reduce(torch.promote_types, floating) if floating else torch.float64
        return torch.cat([leaf.reshape(len(leaf), -1).to(dtype) for leaf in self._like], dim=1)

    def __call__(self, table: Tensor) -> Any:
        """The parts again, views of the table where they are floating."""
        parts, start = [], 0
        for like in self._like:
            width = like[0].numel()
            part = table[:, start : start + width].view(len(table), *like.shape[1:])
            parts.append(part if like.is_floating_point() else part.detach().round().to(like.dtype))
            start += width
        return pytree.tree_unflatten(parts, self._spec)


def several(value: Any) -> bool:
    """Whether a value is a dict, tuple or list of tensors."""
    if not isinstance(value, (dict, tuple, list)) or not value:
        return False
    return all(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))


def unpacking(fn: Callable[..., Any], input: Packed | None, target: Packed | None) -> Callable[..., Any]:
    """`fn`, called with tables in place of parts."""
    return functools.partial(_call, fn, input, target)


def _call(fn: Callable[..., Any], input: Packed | None, target: Packed | None, x: Tensor, y: Tensor | None) -> Any:
    return fn(input(x) if input is not None else x, target(y) if target is not None and y is not None else y)
