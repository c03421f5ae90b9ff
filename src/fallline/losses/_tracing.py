"""Whether values may be read: not while torch compiles, vmaps or differentiates a function symbolically."""

import math
from typing import Any

import torch
from torch import _C, Tensor


def readable(*tensors: Tensor | None) -> bool:
    """True where Python may look at the numbers: eager tensors that hold some, outside `torch.func` and `torch.compile`."""
    if torch.compiler.is_compiling() or _C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    for t in tensors:  # noqa: SIM110 - every small loss asks, and a generator costs as much as the rest
        if t is not None and (type(t) not in _PLAIN or t.is_meta):
            return False
    return True


def batched(*tensors: Tensor | None) -> bool:
    """Whether one of them is a batch of gradients, as `is_grads_batched` and `jacobian(vectorize=True)` send one: no kernel may read it."""
    return any(t is not None and _C._dispatch_keys(t).has(_BATCHED) for t in tensors)  # pyright: ignore[reportAttributeAccessIssue]


def finite(value: Tensor) -> bool:
    """Whether every number of a readable tensor is finite (their sum is)."""
    return math.isfinite((value.detach().sum() if value.ndim else value).item())


_BATCHED: Any = _C._parse_dispatch_key("Batched")
_PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
