"""The loss under proof: how it is called, at what precision, and on which rows.

Every call gets fresh copies, so nothing that the user gave is ever touched; what the function raises comes back as `Refused`.
"""

import copy
import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fallline.prove import guard

ROWS = 12
_OWN_SEEDS = 7_340_911
"""Far from the seeds that people use: points drawn with the seed of the data would lie along the data."""


class Refused(Exception):
    """The loss raised an error of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__(brief(error))
        self.error = error


class NotChecked(Exception):
    """A check cannot be made here; the text says why."""


def brief(error: Exception) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}{'...' if len(text) > 200 else ''}"


class Subject:
    """A loss with the input and target to prove it on.

    Attributes:
        own_x, own_y: what the user gave, copied.
        x, y: up to 12 of its rows at the working precision.
        wide: whether the loss takes float64, the working precision then.
        coarse: whether its digits are those of 32 bits or fewer, so that only coarse differences prove anything.
        reduction: "scalar", or "none" for one value an example (or an element).
        targetless: whether the loss is called with None for a target; `y` is then a stand-in of zeros.
        noisy: why two equal calls differ, or "".
        derives: whether the loss takes a gradient itself (a gradient penalty), so that its input must always require one.
        graph: whether a gradient comes back.
    """

    def __init__(
        self, fn: Callable[..., Any], input: Tensor, target: Tensor, *, seed: int = 0, random: bool = False, targetless: bool = False
    ) -> None:
        self.fn = fn
        self.targetless = targetless
        self.seed = seed
        self.random = random
        self.generator = torch.Generator().manual_seed(_OWN_SEEDS + seed)
        self.own_x = input.detach().clone()
        self.own_y = target.detach().clone()
        self._cast: dict[torch.dtype, Callable[..., Any]] = {}
        self.noisy = ""
        self.graph = True
        self.derives = False
        self.differentiable = True
        self.reduction = "scalar"
        self.wide = False
        self.coarse = True
        self.batched = input.ndim > 0 and target.ndim > 0 and input.shape[0] == target.shape[0] and input.shape[0] > 0
        self.x, self.y = self.own_x, self.own_y

    # -- calls -------------------------------------------------------------------------------------------------------------------------

    def raw(self, x: Tensor, y: Tensor, *, grad: bool = True) -> tuple[Any, Tensor, Tensor, Tensor]:
        """What the loss returns, and the leaf, the input and the target that it was called with."""
        grad = grad or self.derives
        leaf = x.detach().clone().requires_grad_(grad)
        given, label = leaf.clone(), y.detach().clone()
        fn = self.at(x.dtype)
        before = guard.settings()
        result = None
        if self.random:
            guard.seed_all(self.seed)
        try:
            with torch.set_grad_enabled(grad):
                result = fn(given, None if self.targetless else label)
        except Exception as error:
            if grad or "does not require grad" not in str(error):
                raise Refused(error) from error
            self.derives = True
        finally:
            guard.restore_settings(before)
        return (result, leaf, given, label) if grad or not self.derives else self.raw(x, y)

    def label(self) -> Tensor | None:
        """A copy of the target as given."""
        return None if self.targetless else self.own_y.clone()

    def each(self, x: Tensor, y: Tensor, *, grad: bool = False) -> tuple[Tensor, Tensor]:
        """The result as it comes, and the leaf."""
        result, leaf, _, _ = self.raw(x, y, grad=grad)
        if not isinstance(result, Tensor) or result.is_complex():
            raise Refused(TypeError(f"returned {type(result).__name__}"))
        return result, leaf

    def total(self, x: Tensor, y: Tensor) -> Tensor:
        """The value as one number in float64, without a graph; the mean where there is one value an example."""
        result, _ = self.each(x, y)
        return result.detach().double().mean()

    def number(self, x: Tensor, y: Tensor) -> float:
        """The value as a float."""
        return float(self.total(x, y))

    def slope(self, x: Tensor, y: Tensor, *, create_graph: bool = False) -> tuple[Tensor, Tensor | None, Tensor]:
        """The value, its gradient by the input (None where there is none), and the leaf."""
        result, leaf = self.each(x, y, grad=True)
        value = result.mean() if result.ndim else result
        if not value.requires_grad:
            return value, None, leaf
        if not value.is_floating_point():
            return value, None, leaf
        try:
            (gradient,) = torch.autograd.grad(value, leaf, create_graph=create_graph, allow_unused=True)
        except Exception as error:
            raise Refused(error) from error
        return value, gradient, leaf

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """The gradient by the input, zeros where there is none."""
        _, gradient, leaf = self.slope(x, y)
        return torch.zeros_like(leaf) if gradient is None else gradient.detach()

    def at(self, dtype: torch.dtype) -> Callable[..., Any]:
        """The loss with its own tensors at `dtype`: a copy, so that the user's module is never touched."""
        if dtype not in self._cast:
            self._cast[dtype] = cast(self.fn, dtype, dtype != self.own_x.dtype)
        return self._cast[dtype]

    # -- rows --------------------------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Choose the rows and the precision to work at."""
        x, y = self.own_x, self.own_y
        if self.batched and len(x) > ROWS:
            rows = torch.randperm(len(x), generator=self.generator)[:ROWS].sort().values.to(x.device)
            try:
                if torch.isfinite(self.total(x[rows], y[rows])):
                    x, y = x[rows], y[rows]
            except Refused:
                pass
        self.x, self.y = x, y
        self.wide = x.dtype == torch.float64
        if not self.wide:
            try:
                result, _ = self.each(*at_dtype(x, y, torch.float64))
                self.wide = bool(torch.isfinite(result).all())
            except Refused:
                self.wide = False
        if self.wide:
            self.x, self.y = at_dtype(x, y, torch.float64)
        self.coarse = not self.wide or self._rounds()

    def _rounds(self) -> bool:
        """Whether a change in the tenth digit of the input leaves the value as it is, though one in the fourth does not."""
        direction = self.like(self.x)
        values = [self.number(self.x + step * direction, self.y) for step in (0.0, 1e-11, 2e-11, 3e-11, 4e-11, 1e-4)]
        return values[0] != values[5] and sum(value == values[0] for value in values[1:5]) >= 3

    @property
    def n(self) -> int:
        """How many examples `x` holds."""
        return self.x.shape[0] if self.batched else 1

    def like(self, x: Tensor) -> Tensor:
        """Standard normal numbers in the shape of `x`."""
        return torch.randn(x.shape, generator=self.generator, dtype=torch.float64).to(x.device, x.dtype)

    def even(self, x: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) in the shape of `x`."""
        return torch.rand(x.shape, generator=self.generator, dtype=torch.float64).to(x.device, x.dtype)

    def shuffle(self, n: int) -> Tensor:
        """An order of n that is not the identity, where n > 1."""
        order = torch.randperm(n, generator=self.generator)
        if n > 1 and bool((order == torch.arange(n)).all()):
            order = order.roll(1)
        return order.to(self.x.device)


def at_dtype(x: Tensor, y: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Input and target at `dtype`; whole-number targets as they are."""
    return x.to(dtype), y.to(dtype) if y.is_floating_point() else y


def cast(thing: Any, dtype: torch.dtype, change: bool) -> Any:
    """A copy of a function or module whose own tensors are at `dtype` (if `change`); what cannot be copied is given back as it is."""
    if isinstance(thing, nn.Module):
        try:
            twin = copy.deepcopy(thing)
        except Exception:
            return thing
        return twin.to(dtype) if change else twin
    if isinstance(thing, Tensor):
        twin = thing.detach().clone()
        return twin.to(dtype) if change and twin.is_floating_point() else twin
    if isinstance(thing, functools.partial):
        keywords = {key: cast(value, dtype, change) for key, value in thing.keywords.items()}
        return functools.partial(cast(thing.func, dtype, change), *(cast(arg, dtype, change) for arg in thing.args), **keywords)
    if isinstance(thing, types.FunctionType) and (thing.__closure__ or thing.__defaults__) and change:
        return _recast_function(thing, dtype)
    return thing


def _recast_function(fn: types.FunctionType, dtype: torch.dtype) -> types.FunctionType:
    try:
        kept = tuple(cell.cell_contents for cell in fn.__closure__ or ())
    except ValueError:
        return fn
    cells = tuple(
        types.CellType(cast(thing, dtype, True)) if isinstance(thing, (Tensor, nn.Module, functools.partial, types.FunctionType)) else cell
        for thing, cell in zip(kept, fn.__closure__ or (), strict=True)
    )
    defaults = tuple(cast(value, dtype, True) if isinstance(value, Tensor) else value for value in fn.__defaults__ or ())
    twin = types.FunctionType(fn.__code__, fn.__globals__, fn.__name__, defaults or None, cells or None)
    twin.__kwdefaults__ = fn.__kwdefaults__
    return twin
