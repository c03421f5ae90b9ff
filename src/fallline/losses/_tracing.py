"""Whether values may be read: not while torch compiles, vmaps or differentiates a function symbolically."""

import math

import torch
from torch import _C, Tensor


def readable(*tensors: Tensor | None) -> bool:
    """True where Python may look at the numbers: eager tensors that hold some, outside `torch.func` and `torch.compile`."""
    if torch.compiler.is_compiling() or _C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    return all(t is None or (type(t) in _PLAIN and not t.is_meta) for t in tensors)


def finite(value: Tensor) -> bool:
    """Whether every number of a readable tensor is finite (their sum is)."""
    return math.isfinite((value.detach().sum() if value.ndim else value).item())


_PLAIN = (Tensor, torch.nn.Parameter, torch.nn.Buffer)
