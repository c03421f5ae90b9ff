"""Dropout of each member by its own stream of random numbers, so that a member drops what it would drop alone.

    a ⊙ n / (1 − p)        n ~ Bernoulli(1 − p), drawn member by member from a generator of its own

Inside `vmap` the members cannot draw for themselves: the calls of dropout in a model are found by running it once, the noise of all
members is drawn before each step in the order of these calls, and every call takes the next piece. Dropout that is called as a function
is found as well as a layer. On CUDA a run alone draws inside torch's fused kernel; there a member has a stream of its own, but not the
numbers of a run alone.

Source: Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15, 2014.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SINGLE = {F.dropout, torch.dropout, torch.dropout_}
_WHOLE_MAPS = {F.dropout1d, F.dropout2d, F.dropout3d, torch.feature_dropout, torch.feature_dropout_}
_IN_PLACE = {torch.dropout_, torch.feature_dropout_}
_UNKNOWN = {F.alpha_dropout, F.feature_alpha_dropout, F.rrelu}
_ATTENTION = {F.scaled_dot_product_attention: ("dropout_p", 4), F.multi_head_attention_forward: ("dropout_p", 10)}


class Unstackable(Exception):
    """Something that members cannot do together; carries the reason."""


def first_line(error: Exception) -> str:
    """The beginning of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


class Call(NamedTuple):
    """A call of dropout in a model: shape and strides of its noise for one member, the share that is dropped, the type."""

    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    p: float
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor, p: float, maps: bool) -> "Call":
        """The call on x (N, ...) of one member; noise stands in memory as x does, since it is drawn in that order."""
        if maps:
            return cls((*x.shape[:2], *[1] * (x.ndim - 2)), None, p, x.dtype)
        return cls(tuple(x.shape), None if x.is_contiguous() else torch.empty_like(x).stride(), p, x.dtype)


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
        return self.all(Call(tuple(shape), None, p, dtype), device)

    def all(self, call: Call, device: torch.device) -> Tensor:
        """The noise of a call for all members, (R, *shape)."""
        shape = (len(self.generators), *call.shape)
        if call.p >= 1:
            return torch.zeros(shape, dtype=call.dtype, device=device)
        if call.strides is None:
            out = torch.empty(shape, dtype=call.dtype, device=device)
        else:
            size = 1 + sum((n - 1) * step for n, step in zip(call.shape, call.strides, strict=True))
            out = torch.empty_strided(shape, (size, *call.strides), dtype=call.dtype, device=device)
        for piece, generator in zip(out.unbind(0), self.generators, strict=True):
            piece.bernoulli_(1 - call.p, generator=generator)
        return out.div_(1 - call.p)

    def of(self, member: int, call: Call, device: torch.device) -> Tensor:
        """The noise of a call for one member, (*shape)."""
        if call.strides is None:
            out = torch.empty(call.shape, dtype=call.dtype, device=device)
        else:
            out = torch.empty_strided(call.shape, call.strides, dtype=call.dtype, device=device)
        if call.p >= 1:
            return out.zero_()
        return out.bernoulli_(1 - call.p, generator=self.generators[member]).div_(1 - call.p)

    def take(self, chosen: Sequence[int]) -> None:
        """Keep only the members `chosen`."""
        self.generators = [self.generators[i] for i in chosen]

    def copy(self, members: int) -> "Noise":
        """The streams of the first `members`, where they are now; drawing from them leaves these as they are."""
        out = Noise([])
        out.generators = [generator.clone_state() for generator in self.generators[:members]]
        return out


class Dropouts(TorchFunctionMode):
    """Hands every call of an active dropout to `answer`.

    Args:
        answer: gives the noise to multiply with, or None for none, from the input, the share that is dropped, and whether whole maps are.
    """

    def __init__(self, answer: Callable[[Tensor, float, bool], Tensor | None]) -> None:
        super().__init__()
        self.answer = answer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _ATTENTION:
            _refuse_inner(func, args, kwargs)
        if func in _UNKNOWN and _training(func, args, kwargs):
            raise Unstackable(f"{func.__name__} draws random numbers in a way of its own")
        maps = func in _WHOLE_MAPS
        if not maps and func not in _SINGLE:
            return func(*args, **kwargs)
        x = kwargs["input"] if "input" in kwargs else args[0]
        p = float(kwargs.get("p", args[1] if len(args) > 1 else 0.5))
        if p == 0 or not _training(func, args, kwargs):
            return x
        if maps and x.ndim not in (3, 4, 5):
            raise Unstackable(f"dropout of whole maps on an input of {x.ndim} axes")
        noise = self.answer(x, p, maps)
        if noise is None:
            return x
        in_place = func in _IN_PLACE or bool(kwargs.get("inplace", len(args) > 3 and args[3]))
        return x.mul_(noise) if in_place else x * noise


def _refuse_inner(func: Any, args: Any, kwargs: Any) -> None:
    key, place = _ATTENTION[func]
    dropped = kwargs.get(key, args[place] if len(args) > place else 0.0)
    if dropped > 0 and (func is F.scaled_dot_product_attention or kwargs.get("training", True)):
        raise Unstackable("attention drops out inside of torch's own function; give it dropout 0, or call F.dropout on its outputs")


def _training(func: Any, args: Any, kwargs: Any) -> bool:
    key, place, usual = "training", 2, func is not F.rrelu
    if func is F.rrelu:
        place = 3
    if func in _IN_PLACE or func in (torch.dropout, torch.feature_dropout):
        key = "train"
    elif func in (F.alpha_dropout, F.feature_alpha_dropout):
        usual = False
    return bool(kwargs.get(key, args[place] if len(args) > place else usual))


class Using(Dropouts):
    """A mode in which each call of dropout multiplies by the next piece of `noise`."""

    def __init__(self, noise: Sequence[Tensor]) -> None:
        super().__init__(self._next)
        self.noise, self.used = noise, 0

    def left(self) -> bool:
        """Whether fewer calls came than there are pieces."""
        return self.used < len(self.noise)

    def _next(self, x: Tensor, p: float, maps: bool) -> Tensor:
        del x, p, maps
        if not self.left():
            raise Unstackable("dropout is called more often in one step than in another")
        self.used += 1
        return self.noise[self.used - 1]


def drawing(noise: Noise, member: int) -> Dropouts:
    """A mode in which each call of dropout draws from the stream of one member, as it would alone."""
    return Dropouts(lambda x, p, maps: noise.of(member, Call.of(x, p, maps), x.device))
