"""Dropout of each member by its own stream of random numbers, so that a member drops what it would drop alone.

    a ⊙ n / (1 − p)        n ~ Bernoulli(1 − p), drawn member by member from a generator of its own

Inside `vmap` the members cannot draw for themselves: the calls of dropout in a model are found by running it once, the noise of all
members is drawn before each step in the order of these calls, and every call takes the next piece. Dropout that is called as a function
is found as well as a layer.

Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15, 2014.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_WHOLE_MAPS = {F.dropout1d, F.dropout2d, F.dropout3d}
_UNKNOWN = {F.alpha_dropout, F.feature_alpha_dropout, F.rrelu}


class Noise:
    """The random streams of the members.

    Args:
        seeds: of each member's generator.
        device: where the noise is drawn.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def draw(self, shape: Sequence[int], p: float, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Noise (R, *shape): 0 with probability p, else 1 / (1 - p)."""
        out = torch.zeros((len(self.generators), *shape), dtype=dtype, device=device)
        if p < 1:
            for piece, generator in zip(out.unbind(0), self.generators, strict=True):
                piece.bernoulli_(1 - p, generator=generator)
            out.div_(1 - p)
        return out

    def take(self, chosen: Sequence[int]) -> None:
        """Keep only the members `chosen`."""
        self.generators = [self.generators[i] for i in chosen]


class Call(NamedTuple):
    """A call of dropout in a model: the shape of its noise for one member, and the share that is dropped."""

    shape: tuple[int, ...]
    p: float
    dtype: torch.dtype


class Unstackable(Exception):
    """Something that members cannot do together; carries the reason."""


class _Dropouts(TorchFunctionMode):
    """Hands every call of an active dropout to `answer`."""

    def __init__(self, answer: Callable[[Tensor, float, bool], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _UNKNOWN and _training(func, args, kwargs):
            raise Unstackable(f"{func.__name__} draws random numbers in a way of its own")
        if func is not F.dropout and func not in _WHOLE_MAPS:
            return func(*args, **kwargs)
        x, p = args[0], float(kwargs.get("p", args[1] if len(args) > 1 else 0.5))
        if p == 0 or not _training(func, args, kwargs):
            return x
        return self.answer(x, p, func in _WHOLE_MAPS)


def _training(func: Any, args: Any, kwargs: Any) -> bool:
    at = 4 if func is F.rrelu else 3 if len(args) > 3 and func is F.rrelu else 2
    return bool(kwargs.get("training", args[at] if len(args) > at else func is not F.rrelu))


def finding(calls: list[Call]) -> _Dropouts:
    """A mode in which a model of one member runs, without dropping anything; `calls` then holds its calls of dropout."""

    def answer(x: Tensor, p: float, maps: bool) -> Tensor:
        if maps and x.ndim not in (3, 4, 5):
            raise Unstackable(f"dropout of whole maps on an input of {x.ndim} axes")
        calls.append(Call((*x.shape[:2], *[1] * (x.ndim - 2)) if maps else tuple(x.shape), p, x.dtype))
        return x

    return _Dropouts(answer)


def using(noise: Sequence[Tensor]) -> _Dropouts:
    """A mode in which each call of dropout multiplies by the next piece of `noise`."""
    pieces = iter(noise)

    def answer(x: Tensor, p: float, maps: bool) -> Tensor:
        del p, maps
        piece = next(pieces, None)
        if piece is None:
            raise Unstackable("dropout is called more often in one step than in another")
        return x * piece

    return _Dropouts(answer)
