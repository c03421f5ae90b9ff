"""A loss is values and weights for each example; reduction, masks and weights are written once, here.

    mean = sum_i w_i v_i / sum_i w_i          sum = sum_i w_i v_i          none = w_i v_i

A loss file gives `values` (what each example costs) and, where it has them, `weights` (class weights) and `kept` (an ignored label); a loss
between the examples of a batch gives `terms`, the two at once. The rest holds for every loss:

- an example that the mask leaves out, that carries weight 0 or an ignored label, is replaced by a harmless one *before* the formula, so
  that NaN under a mask reaches neither the value nor the gradient;
- nothing left over gives 0 with a zero gradient;
- 16-bit inputs are computed in float32, and the result is float32;
- `sum_and_count` gives the pair whose ratio is the mean, so micro-batches and ranks add up to the whole batch.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, dataclass_transform

import torch
from torch import Tensor, nn
from typing_extensions import override

from fallline._core.errors import must, refuse
from fallline.losses import _checks as checks
from fallline.losses._calls import Shown, by_place, misplaced, no_option
from fallline.losses._fields import Option, choice, flag, number, pair, vector, whole
from fallline.losses._tracing import readable

Reduction = Literal["mean", "sum", "none"]
_QUANTITIES = frozenset({"real", "above_minus_one", "count", "nonnegative"})
_NARROW = (torch.float16, torch.bfloat16)
WIDE = (torch.float32, torch.float64)
_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_STRIDED = torch.strided
_LANES = 16  # float32 numbers in the widest vector of a CPU
_MEAN = frozenset({"weights", "kept", "terms", "_terms", "_reduce", "_mean", "_count"})
_COST = _MEAN | {"values"}
_FASTER = {
    "short": _COST | {"shape", "blank", "check_values"},
    "quick": _COST,
    "quick_slope": _COST | {"quick", "forward"},
    "quick_each": _COST | {"quick", "forward"},
    "quick_slopes": _COST | {"quick", "quick_each", "forward"},
    "all_count": frozenset({"kept", "weights"}),
}
"""Each shorter way, and what it stands for: a class that changes any of these after the way was written goes the long way."""
REDUCE = {"none": 0, "mean": 1, "sum": 2}
"""What aten's own losses call the reductions."""


def wide(x: Tensor) -> Tensor:
    """`x`, in float32 where it came in 16 bits."""
    return x.float() if x.dtype in _NARROW else x


def alike(input: Tensor, target: Tensor) -> bool:
    """Whether two tensors can go to one of torch's own losses as they are: wide, of one type, shape and device, and not empty."""
    return (
        isinstance(input, Tensor)
        and isinstance(target, Tensor)
        and input.dtype in WIDE
        and target.dtype == input.dtype
        and target.shape == input.shape
        and target.device == input.device
        and input.layout is _STRIDED
        and target.layout is _STRIDED
        and input.numel() > 0
    )


@dataclass_transform(kw_only_default=True, field_specifiers=(number, choice, flag, whole, pair, vector))
class Loss(nn.Module):
    """What every loss offers; see the module's docstring for what holds of all of them.

    Options are keyword arguments, the same for the class, for `functional` and for `build`.
    """

    name: ClassVar[str]
    tasks: ClassVar[frozenset[str]]
    target_kind: ClassVar[str]
    output: ClassVar[str]
    options: ClassVar[Mapping[str, Option]] = {}
    also: ClassVar[tuple[str, ...]] = ()
    """Other names that `build` understands."""
    separate: ClassVar[bool] = True
    """Whether what an example costs depends on it alone; False for losses between the examples of a batch."""
    needs: ClassVar[str] = "a target of another kind"
    """What the loss needs where no task of `fit` gives it."""
    given: ClassVar[tuple[str, ...]] = ()
    """Further keyword arguments of `forward`, beside `sample_weight` and `mask`."""
    third: ClassVar[str] = ""
    """The name of a third argument of `forward` by place, where the loss takes one."""
    lasting: ClassVar[tuple[str, ...]] = ()
    """Options that cannot be changed once the loss is made, as its parameters follow from them."""
    _looks: int = 8
    _by_values: ClassVar[bool] = True
    _made: bool = False
    _all_count: bool | None = None

    reduction: Reduction = choice("mean", "sum", "none", doc="mean, sum, or none: one value an example")
    normalize: Literal["weight", "count"] = choice(
        "weight", "count", doc="the mean divides by the sum of the weights, or by how many examples count"
    )
    validate: bool = flag(
        True, doc="look at values too: label ranges, signs (reads tensors, so it waits for a GPU); shapes are always checked"
    )

    __signature__ = Shown()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        named = next((kind for kind in cls.__mro__ if "name" in vars(kind)), None)
        if named is None or "_nameless" in vars(named):  # a loss of one's own may leave its name to its class
            cls.name, cls._nameless = _snake(cls.__name__), True
        cls.options = {**cls.options, **_declared(cls)}
        for way, formula in _FASTER.items():  # a shorter way is for the formula that it was written for
            if _changed_since(cls, way, formula):
                setattr(cls, way, getattr(Loss, way))
        if _changed_since(cls, "quick", frozenset({"forward"})):
            cls.quick = Loss._as_called
        cls._by_values = all(getattr(cls, part) is getattr(Loss, part) for part in _MEAN)

    def __init__(self, *places: Any, **options: Any) -> None:
        super().__init__()
        if places:
            by_place(type(self), places)
        for key in options:
            if key not in self.options:
                no_option(type(self).__name__, key, self.options, output=getattr(self, "output", ""))
        for key, option in self.options.items():
            if option.vector:
                self.register_buffer(key, option.check(options.get(key), where=type(self).__name__))
            elif key in options:
                setattr(self, key, options[key])
        self.adapt()
        self.setup()
        self._made = True

    @override
    def __setattr__(self, name: str, value: Any) -> None:
        """Options may be changed later: they are checked as when the loss was made."""
        option = self.options.get(name)
        if option is None:
            return super().__setattr__(name, value)
        value = option.check(value, where=type(self).__name__)
        if not self._made:
            return super().__setattr__(name, value)
        must(name not in self.lasting, f"{name} is given when the loss is made", repr(value), "make a new one", where=type(self).__name__)
        if option.vector and name in self._parameters and not isinstance(value, nn.Parameter):
            delattr(self, name)
            self.register_buffer(name, value)
        super().__setattr__(name, value)
        self._all_count = None
        for key in ("output", "fill", "target_kind"):
            vars(self).pop(key, None)
        self.adapt()

    def become(self, **attributes: Any) -> None:
        """Give this one instance its own `output`, `fill` or `target_kind`, as its options change what the input is."""
        for key, value in attributes.items():
            setattr(self, key, value)

    def curious(self) -> bool:
        """Whether to look once more for a mistake that shows from the first batch on, such as a softmax too many: the first calls do."""
        if self._looks:
            self._looks -= 1
            return True
        return False

    # -- what a loss file writes -------------------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Called once after the options are set; refuses combinations that make no sense."""

    def adapt(self) -> None:
        """Called after the options are set, and again after one is changed: `become` what they say."""

    def values(self, input: Tensor, target: Tensor) -> Tensor:
        """What each example costs, before any weight."""
        raise NotImplementedError

    def terms(self, input: Tensor, target: Tensor, keep: Tensor | None, own: Tensor | None, **given: Any) -> tuple[Tensor, Tensor | None]:
        """Values and weights of each example; `keep` marks those that count, `own` is what each weighs by the user's word.

        A loss between the examples of a batch writes this in place of `values` and `weights`: the value of an anchor is the mean over its
        terms, the weight their number times `own`, so that "mean" is the mean over all terms and "sum" their sum.
        """
        weights = self.weights(input, target)
        if weights is not None and self.weightless():  # what weighs nothing may be NaN
            there = weights != 0
            input, target = self.blank(input, target, there)
            keep = _both(keep, there)
        values = self.values(input, target)
        if own is not None:
            weights = own if weights is None else own * weights
        if keep is not None:
            values = torch.where(keep, values, 0)
            weights = torch.where(keep, 1.0 if weights is None else weights, 0).to(values.dtype)
        return values, weights

    def weights(self, input: Tensor, target: Tensor) -> Tensor | None:
        """How much each example counts by its label, or None for 1."""
        return None

    def weightless(self) -> bool:
        """Whether some of `weights` may be 0; asked only where there are weights."""
        return True

    def kept(self, input: Tensor, target: Tensor) -> Tensor | None:
        """Which examples count by their label, or None for all."""
        return None

    def all_count(self, target: Tensor) -> bool:
        """Whether every label of a whole column counts: none is ignored, none weighs nothing."""
        return self._by_values

    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        """The shape of `values`; raises FalllineError where input and target do not fit."""
        raise NotImplementedError

    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Input and target with a harmless example wherever `keep` is False."""
        raise NotImplementedError

    def check_values(self, input: Tensor, target: Tensor) -> None:
        """Refuse values that the formula is not defined for; called with examples left out already made harmless."""

    def check_targets(self, target: Tensor, n_classes: int | None) -> None:
        """Refuse a whole column of targets that this loss cannot use."""

    def short(self, input: Tensor, target: Tensor) -> Tensor | None:
        """The reduced loss of a batch without weights or mask by one fused function, or None where that is not right for it.

        It makes the same checks as the long way; whatever is out of the ordinary (other types, bad labels, infinite values) it leaves to
        the long way by giving None.
        """
        return None

    def quick(self, input: Tensor, target: Tensor) -> Tensor:
        """The mean without the checks: for a loop that called `validate_targets` on its whole column of targets before.

        Input (N, ...) and target as `forward` takes them; an empty batch is the caller's business.
        """
        input, target = wide(input), wide(target)
        if self._by_values:
            return self.values(input, target).mean()
        if type(self)._terms is not Loss._terms:
            return self._mean(*self._terms(input, target, None, None))
        keep = None if self._all_count else self.kept(input, target)
        if keep is not None:
            input, target = self.blank(input, target, keep)
        return self._mean(*self.terms(input, target, keep, None), keep)

    def _as_called(self, input: Tensor, target: Tensor) -> Tensor:
        """The `quick` of a loss whose `forward` is its own."""
        return self(input, target)

    def quick_slope(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """What `quick` gives and its derivative by the input, both without a graph; by autograd where a loss knows no shorter way."""
        leaf = input.detach().requires_grad_()
        with torch.enable_grad():
            value = self.quick(leaf, target)
        (slope,) = torch.autograd.grad(value, leaf)
        return value.detach(), slope

    def quick_each(self, input: Tensor, target: Tensor) -> Tensor:
        """`quick` of several models at once: input (R, N, ...) and target (R, N, ...) give values (R,)."""
        if self._by_values and type(self).values is not Loss.values and type(self).quick is not Loss._as_called:
            return self.values(wide(input.flatten(0, 1)), wide(target.flatten(0, 1))).view(len(input), -1).mean(1)
        try:
            return torch.func.vmap(self.quick)(input, target)
        except (RuntimeError, NotImplementedError):  # a way that only one model can go
            return torch.stack([self.quick(x, y) for x, y in zip(input, target, strict=True)])

    def quick_slopes(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """`quick_slope` of several models at once: input (R, N, ...) and target (R, N, ...) give values (R,) and slopes like the input."""
        if input[:1].numel() % _LANES:  # some functions round the numbers behind the last whole vector otherwise: each model's by itself
            found = [self.quick_slope(x, y) for x, y in zip(input, target, strict=True)]
            return torch.stack([value for value, _ in found]), torch.stack([slope for _, slope in found])
        leaf = input.detach().requires_grad_()
        with torch.enable_grad():
            values = self.quick_each(leaf, target)
            (slope,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), slope

    def prepare(self, labels: Tensor) -> Tensor:
        """Targets as `quick` takes them, from class indices 0..C-1 (or numbers, for regression)."""
        return labels

    @classmethod
    def outputs(cls, n_classes: int | None = None) -> int:
        """Width of the model's last layer."""
        return 1

    # -- what a user calls -------------------------------------------------------------------------------------------------------------

    @override
    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        try:
            return super().__call__(*args, **kwargs)
        except TypeError:
            misplaced(type(self), self.forward, args, kwargs, written=f"a call of {type(self).__name__}")
            raise

    def forward(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The loss, reduced as `reduction` says.

        `sample_weight` (N,) or the shape of one value an example: how much each counts (>= 0). `mask` of the same shapes: True where an
        example counts. A weight of 0 leaves the example out; one that requires a gradient keeps it, so that it can be learnt away from 0,
        and then NaN is not harmless there.
        Raises FalllineError where shapes, labels or values break what the loss needs.
        """
        if sample_weight is None and mask is None:
            value = self.short(input, target)
            if value is not None:
                return value
        return self._reduce(*self._terms(input, target, sample_weight, mask))

    def _reduce(self, values: Tensor, weights: Tensor | None, keep: Tensor | None) -> Tensor:
        if self.reduction == "mean":
            return self._mean(values, weights, keep)
        values = values if weights is None else values * weights
        return values if self.reduction == "none" else values.sum()

    def _mean(self, values: Tensor, weights: Tensor | None, keep: Tensor | None) -> Tensor:
        if weights is None and keep is None and values.numel():
            return values.mean()
        total = values.sum() if weights is None else (values * weights).sum()
        count = self._count(values, weights, keep)
        return total / (torch.where(count == 0, 1, count) if isinstance(count, Tensor) else max(count, 1))

    def sum_and_count(
        self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum and what the mean divides it by; add both over micro-batches or ranks, then divide once.

        >>> from fallline.losses import MSE
        >>> MSE().sum_and_count(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0]))
        (tensor(5.), tensor(2.))
        """
        return self._sum_and_count(*self._terms(input, target, sample_weight, mask))

    def _sum_and_count(self, values: Tensor, weights: Tensor | None, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        total = values.sum() if weights is None else (values * weights).sum()
        count = self._count(values, weights, keep)
        return total, count if isinstance(count, Tensor) else torch.full_like(total.detach(), float(count))

    def per_example(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """One value an example, times its weight; 0 where an example is left out."""
        values, weights, _ = self._terms(input, target, sample_weight, mask)
        return values if weights is None else values * weights

    def validate_targets(self, target: Tensor, n_classes: int | None = None) -> None:
        """Check a whole column of targets once, before training; raises FalllineError with what to use instead.

        Where no label is ignored, `quick` looks for none from then on: give it every column that `quick` will see.
        """
        if target.is_floating_point() and target.numel():
            bad = torch.nonzero(~torch.isfinite(target.flatten()))
            if len(bad):
                refuse("every target is a finite number", checks.at(target, bad), "remove or repair those rows", where=self.name)
        self.check_targets(target, n_classes)
        if self._all_count is not False:
            self._all_count = self.all_count(target)

    @override
    def extra_repr(self) -> str:
        shown = ((key, getattr(self, key)) for key in self.options)
        return ", ".join(
            f"{k}={v.tolist() if isinstance(v, Tensor) else v!r}" for k, v in shown if v is not None and not self._is_default(k, v)
        )

    # -- the one way through -----------------------------------------------------------------------------------------------------------

    def _is_default(self, key: str, value: Any) -> bool:
        return not isinstance(value, Tensor) and value == self.options[key].default

    def _terms(
        self, input: Tensor, target: Tensor, sample_weight: Tensor | None, mask: Tensor | None, **given: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        for what, came in (("input", input), ("target", target), ("sample_weight", sample_weight), ("mask", mask)):
            if came is None and what in {"sample_weight", "mask"}:
                continue
            if not isinstance(came, Tensor):
                advice = f"give the {what}" if came is None else f"write torch.as_tensor({what})"
                refuse(f"{what} is a tensor", type(came).__name__, advice, where=self.name)
            if came.device != input.device:
                refuse(f"{what} is on the input's device, {input.device}", came.device, f"write {what}.to(input.device)", where=self.name)
            must(came.layout is _STRIDED, f"{what} is dense", came.layout, f"write {what}.to_dense()", where=self.name)
            if what != "input" and came.is_complex():
                law = "the target is real" if what == "target" else f"{what} is real"
                refuse(law, came.dtype, f"write {what}.real", where=self.name)
        if input.dtype not in _FLOATING:
            advice = "write input.real or input.abs()" if input.is_complex() else "write input.float(), or give the model's raw output"
            law = "the input is floating point" + (" of 16, 32 or 64 bits" if input.is_floating_point() else "")
            refuse(law, input.dtype, advice, where=self.name)
        input = wide(input)
        if target.dtype != input.dtype and (target.is_floating_point() or self.target_kind in _QUANTITIES):
            target = target.to(input.dtype)
        shape = self.shape(input, target)
        keep = self.kept(input, target)
        own = counting = None
        if mask is not None:
            must(mask.dtype == torch.bool, "the mask is boolean", mask.dtype, "write mask.bool()", where=self.name)
            keep = _both(keep, spread(mask, shape, "mask", self.name))
        if sample_weight is not None:
            own = spread(sample_weight, shape, "sample_weight", self.name).to(input.dtype)
            counting = _both(keep, own != 0)
            if not (sample_weight.requires_grad and self.separate):
                keep = counting
        if keep is not None:
            input, target = self.blank(input, target, keep)
        if self.validate and readable(input, target, sample_weight):
            self.check_values(input.detach(), target.detach())
            if sample_weight is not None:
                checks.weighable(sample_weight.detach(), self.name)
        values, weights = self.terms(input, target, keep, own, **given)
        return values, weights, keep if counting is None else counting

    def _count(self, values: Tensor, weights: Tensor | None, keep: Tensor | None) -> Tensor | int:
        if self.normalize == "count":
            return values.numel() if keep is None else keep.sum().to(values.dtype)
        return values.numel() if weights is None else weights.sum()


def _declared(cls: type[Loss]) -> dict[str, Option]:
    """The options that the body of `cls` declares; the class keeps each default as a plain attribute."""
    found: dict[str, Option] = {}
    for key, value in list(vars(cls).items()):
        if isinstance(value, Option):
            limits = value.number
            named = (
                type(limits)(key, limits.low, limits.high, limits.open_low, limits.open_high, limits.usual, limits.doc) if limits else None
            )
            found[key] = Option(value.default, value.doc, named, value.choices, value.kind, value.vector, key)
            if value.vector:
                delattr(cls, key)
            else:
                setattr(cls, key, value.default)
    return found


Loss.options = _declared(Loss)


def _changed_since(cls: type[Loss], way: str, formula: frozenset[str]) -> bool:
    """Whether a class that comes before the one that wrote `way` writes part of `formula` anew."""
    for kind in cls.__mro__:
        if way in vars(kind):
            return False
        if not formula.isdisjoint(vars(kind)):
            return True
    return False


def _snake(name: str) -> str:
    """`HuberOfMine` as `huber_of_mine`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _both(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a & b


def spread(weight: Tensor, shape: torch.Size, what: str, where: str) -> Tensor:
    """A weight or mask of shape (N,) or of `shape`, as `shape`."""
    if weight.shape == shape:
        return weight
    if weight.ndim == 1 and len(shape) > 1 and weight.shape[0] == shape[0]:
        return weight.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    law = f"{what} has the shape of one value an example, {tuple(shape)}" + (f", or ({shape[0]},)" if len(shape) > 1 else "")
    advice = ""
    if weight.ndim > 1 and weight.shape == shape[: weight.ndim]:
        advice = f"write {what}[..., {', '.join(['None'] * (len(shape) - weight.ndim))}].expand({', '.join(map(str, shape))})"
    elif weight.ndim == len(shape) + 1 and (axis := _one_too_many(weight.shape, shape)) is not None:
        advice = f"write {what}.squeeze({axis})"
    refuse(law, tuple(weight.shape), advice, where=where)


def _one_too_many(longer: torch.Size, shape: torch.Size) -> int | None:
    """The axis of length 1 without which `longer` is `shape`."""
    return next((i for i, n in enumerate(longer) if n == 1 and longer[:i] + longer[i + 1 :] == shape), None)


def functional_of(cls: type[Loss]) -> Callable[..., Tensor]:
    """The function `name(input, target, *, <options>, sample_weight, mask, reduction)` of a loss class."""
    import inspect

    def call(
        input: Any = None, target: Any = None, *third: Any, sample_weight: Tensor | None = None, mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        if input is None or len(third) > most:
            misplaced(cls, call, (a for a in (input, target, *third) if a is not None), options, written=f"functional.{cls.name}")
        given = {key: options.pop(key) for key in (*cls.given, cls.third) if key in options}
        return cls(**options).forward(input, target, *third, sample_weight=sample_weight, mask=mask, **given)  # pyright: ignore[reportArgumentType]

    most = int(bool(cls.third))
    kinds = inspect.Parameter
    keys = [key for key in cls.options if key not in {"reduction", "normalize", "validate"}] + ["reduction", "normalize", "validate"]
    own = [p for p in inspect.signature(call).parameters.values() if p.kind not in {kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL}]
    own[0] = own[0].replace(annotation=Tensor, default=kinds.empty)
    own[1] = own[1].replace(annotation=Tensor, default=None if cls.third else kinds.empty)
    own[2:2] = [kinds(key, kinds.KEYWORD_ONLY, default=cls.options[key].default) for key in keys]
    own[-2:-2] = [kinds(key, kinds.KEYWORD_ONLY, default=None) for key in cls.given]
    if cls.third:
        own.insert(2, kinds(cls.third, kinds.POSITIONAL_OR_KEYWORD, default=None))
    call.__signature__ = inspect.Signature(own, return_annotation=Tensor)  # pyright: ignore[reportFunctionMemberAccess]
    call.__name__ = call.__qualname__ = cls.name
    call.__module__ = "fallline.losses.functional"
    call.__doc__ = f"{cls.__doc__}\n\n    The function form of `{cls.__name__}`, with the same options."
    return call
