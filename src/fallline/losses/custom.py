"""A loss of one's own: any function of (input, target), or a module such as `torch.nn.HuberLoss()`, in the place of a loss of fallline.

    ℓ = f(x, y)                     one number an example, or one for the batch

    task          input x                 target y
    regression    (N,) numbers            (N,) numbers, in `fit` standardised by the training rows
    binary        (N,) logits             (N,) floating point, 0 or 1
    multiclass    (N, C) logits           (N,) class indices

When to use: a cost that fallline does not have, in `fit`, `compare`, `find_lr` and the estimators: they take the function as it is.
When not: fallline has the loss: by its name it is checked, masked and weighed, and saved with the run.
Source: none; f is the user's own.

A value for each example, of any shape (N, ...), is averaged, so that sample_weight and mask work; one value for the whole batch is taken as
its mean, and then neither does. Parameters of a module are trained with the model's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from fallline._core.errors import FalllineError, lookup, must, refuse
from fallline.losses._base import Loss, wide

_TASKS = {
    "regression": ("real", "identity", "numbers (N,), the target standardised"),
    "binary": ("binary", "logit", "one logit a row (N,) and labels 0 or 1 as floating point (N,)"),
    "multiclass": ("index", "logits", "a logit a class (N, classes) and class indices (N,)"),
}
# losses of torch that read the output or the target otherwise, silently: what they take, and the loss to use
_OTHERWISE: dict[Any, tuple[str, str]] = {
    nn.NLLLoss: ("log-probabilities", "cross_entropy"),
    F.nll_loss: ("log-probabilities", "cross_entropy"),
    nn.BCELoss: ("probabilities", "binary_cross_entropy"),
    F.binary_cross_entropy: ("probabilities", "binary_cross_entropy"),
    nn.SoftMarginLoss: ("labels -1 and +1", "binary_cross_entropy"),
    F.soft_margin_loss: ("labels -1 and +1", "binary_cross_entropy"),
    nn.HingeEmbeddingLoss: ("labels -1 and +1", "hinge"),
    nn.PoissonNLLLoss: ("counts, which are not standardised", "poisson_nll"),
    F.poisson_nll_loss: ("counts, which are not standardised", "poisson_nll"),
    nn.KLDivLoss: ("log-probabilities and probabilities", "cross_entropy"),
    F.kl_div: ("log-probabilities and probabilities", "cross_entropy"),
}


class Custom(Loss):
    """Any function of (input, target) as a loss of `task`: "regression", "binary" or "multiclass".

    Input and target as the module's table has them; the function gives a value for each example, or one for the batch.

    >>> Custom(torch.nn.HuberLoss(), task="regression")(torch.tensor([0.0]), torch.tensor([3.0]))
    tensor(2.5000)
    """

    name = "custom"
    tasks = frozenset(_TASKS)
    target_kind = "real"
    output = "identity"

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *, task: str, **options: Any) -> None:
        super().__init__(**options)
        kind, output, self.takes = lookup("task", task, _TASKS)
        _refuse_other(function)
        self.task, self.function = task, function
        self.become(name=called(function), target_kind=kind, output=output, outputs=partial(_outputs, task))

    @classmethod
    def absent(cls, name: str, task: str) -> "Custom":
        """What stands for a loss that was not kept with a run: enough to predict by; called, it says so."""
        loss = cls(partial(_gone, name), task=task)
        loss.become(name=name)
        return loss

    @property
    def is_absent(self) -> bool:
        """Whether this stands for a loss that was not kept."""
        return isinstance(self.function, partial) and self.function.func is _gone

    @override
    def extra_repr(self) -> str:
        return f"{'' if isinstance(self.function, nn.Module) else called(self.function) + ', '}task={self.task!r}"

    # -- the loss ----------------------------------------------------------------------------------------------------------------------

    @override
    def shape(self, input: Tensor, target: Tensor) -> torch.Size:
        rows = input.shape[:1]
        got = f"input {tuple(input.shape)} and target {tuple(target.shape)}"
        must(input.ndim >= 1 and target.shape[:1] == rows, "input and target have one row an example", got, where=self.name)
        return rows

    @override
    def blank(self, input: Tensor, target: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(torch.where(keep.reshape(-1, *[1] * (part.ndim - 1)), part, 0) for part in (input, target))  # pyright: ignore[reportReturnType]

    @override
    def terms(self, input: Tensor, target: Tensor, keep: Tensor | None, own: Tensor | None, **given: Any) -> tuple[Tensor, Tensor | None]:
        found = self._called(input, target) if len(input) else input.flatten()[:0]
        if found.ndim == 0:
            each = keep is not None or own is not None or self.reduction == "none"
            advice = "have it give one value an example, by reduction='none' where it has that"
            must(not each, "the loss gives a value for each example", "one for the batch", advice, where=self.name)
            found = found.expand(len(input))
        values = found.flatten(1).mean(-1) if found.ndim > 1 else found
        if keep is None:
            return values, own
        return torch.where(keep, values, 0), torch.where(keep, 1.0 if own is None else own, 0).to(values.dtype)

    @override
    def quick(self, input: Tensor, target: Tensor) -> Tensor:
        return self._called(wide(input), target).mean()

    @override
    def prepare(self, labels: Tensor) -> Tensor:
        return labels.to(torch.int64) if self.task == "multiclass" else labels.to(torch.float32)

    def _called(self, input: Tensor, target: Tensor) -> Tensor:
        """What the function gives, looked at: a tensor of floating point, () or (N, ...), that a gradient can be taken of."""
        shapes = f"input {tuple(input.shape)} {_kind(input)} and target {tuple(target.shape)} {_kind(target)}"
        try:
            found = self.function(input, target)
        except FalllineError:
            raise
        except Exception as error:  # whatever the user's function raises
            what = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(". ")
            raise FalllineError(f"the loss {self.name} raised {what}; it was called with {shapes}.") from error
        if not isinstance(found, Tensor):
            refuse("the loss gives a tensor", type(found).__name__, "leave .item() and float() out", where=self.name)
        fits = found.is_floating_point() and (found.ndim == 0 or found.shape[0] == input.shape[0])
        must(fits, "the loss gives one number, or one an example", f"{tuple(found.shape)} {_kind(found)} for {shapes}", where=self.name)
        if input.requires_grad and not found.requires_grad:
            advice = "leave out what cuts it: detach, argmax, round, NumPy"
            refuse("the loss has a gradient with respect to the output", "none", advice, where=self.name)
        return found

    def said(self) -> str:
        """One line on how a run calls it."""
        return f"loss: {self.name} (your own), called with {self.takes}"


def own_loss(loss: Any, task: str) -> Loss | None:
    """The loss object that a user gave, one of their own as a `Custom` of `task`; None for a name.

    Raises:
        FalllineError: a class in place of an object, or what cannot be called.
    """
    from fallline.losses.combined.multi_task import MultiTask

    if isinstance(loss, str):
        return None
    if isinstance(loss, type):
        refuse("loss is a name, a loss object or a function", f"the class {loss.__name__}", f"write {loss.__name__}()")
    if isinstance(loss, MultiTask):
        advice = "the losses of several heads need a loop of your own"
        refuse("loss is that of one task", "a MultiTask", advice)
    if isinstance(loss, Loss):
        fits = not isinstance(loss, Custom) or loss.task == task
        must(fits, f"the loss is one for {task}", f"task={loss.task!r}" if isinstance(loss, Custom) else "", "give the function itself")
        missing = [name for name in ("tasks", "target_kind", "output") if not hasattr(loss, name)]
        advice = "give them to the class (those of fl.losses.MSE are an example), or give a plain function of (input, target)"
        must(not missing, "a loss says its tasks, target_kind and output", f"no {', '.join(missing)}", advice, where=loss.name)
        return loss
    advice = "fl.losses.MSE(), 'mse' or torch.nn.HuberLoss() is an example"
    must(callable(loss), "loss is a name, a loss object or a function of (input, target)", f"a {type(loss).__name__}", advice)
    return Custom(loss, task=task)


def called(function: Any) -> str:
    """What a function or module is called."""
    name = getattr(function, "__name__", None) or type(getattr(function, "func", function)).__name__
    return {"<lambda>": "lambda"}.get(name, name)


def _outputs(task: str, n_classes: int | None = None) -> int:
    return int(n_classes or 0) if task == "multiclass" else 1


def _gone(name: str, input: Tensor, target: Tensor) -> Tensor:
    del input, target
    raise FalllineError(
        f"the loss {name} was the user's own and is not kept with the run; pass the same again: load_run(folder, loss=...)."
    )


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _refuse_other(function: Any) -> None:
    must(callable(function), "the loss is a function of (input, target)", type(function).__name__, where="Custom")
    for other, (takes, better) in _OTHERWISE.items():
        if function is other or (isinstance(other, type) and type(function) is other):
            raise FalllineError(f"{called(function)} takes {takes}, not what a model gives here; use the loss {better}.")
    if getattr(function, "reduction", None) == "sum":
        refuse(
            "the loss gives a mean, or one value an example", "reduction='sum'", "write reduction='mean' or 'none'", where=called(function)
        )
