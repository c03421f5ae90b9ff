"""Multi-task loss: one total from a loss for each head of a network, and a report of every part.

    total = Σᵢ wᵢ ℓᵢ (+ what the weighting adds)          w fixed, learned as noise (uncertainty), or balanced by gradients (gradnorm)

When to use: one network with several heads, say a class and a number. Begin with fixed weights and standardised targets; then uncertainty
for losses in different units, gradnorm for tasks that learn at different rates.
When not: one task alone matters and the others do not help it: compare with the network trained for that task alone. An easy task beside a
hard one: in `examples/multi_task.py` (51,000 pictures of Fashion-MNIST, one seed) the class alone came to 91.88 %; with the brightness at a
fixed weight of 0.1 to 91.67 %, by gradnorm to 91.07 %, by uncertainty, which gives the easy task ever more weight, to 90.11 %.
Source: Caruana, "Multitask Learning", Machine Learning 28, 1997. https://doi.org/10.1023/A:1007379606734 ; uncertainty: Kendall, Gal and
Cipolla, CVPR 2018. https://arxiv.org/abs/1705.07115 ; gradnorm: Chen et al., ICML 2018. https://arxiv.org/abs/1711.02257
Departs from the source: with uncertainty the total may be negative, as log s is: look at the raw parts. A task without an example in a
batch costs 0 and moves neither its head nor its weight.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from typing_extensions import override

from fallline._core.errors import FalllineError, FalllineWarning, lookup, nearest, refuse
from fallline.losses._base import Loss
from fallline.losses._tracing import readable
from fallline.losses.catalog import build
from fallline.losses.combined._parts import Parts
from fallline.losses.combined._weighting import WEIGHT, Shared, Weighting, each
from fallline.losses.combined.fixed import Fixed
from fallline.losses.combined.gradnorm import INITIAL, Balanced
from fallline.losses.combined.uncertainty import BOUNDS, FORMS, Uncertainty, form_of

TaskLoss = str | Loss | Callable[[Tensor, Tensor], Tensor]
ByTask = Mapping[str, Tensor | None] | Sequence[Tensor | None]
Extra = Tensor | Mapping[str, Tensor | None] | None
_WEIGHTINGS = {"fixed": (), "uncertainty": ("forms", "bounds"), "gradnorm": ("alpha", "weight_lr", "initial")}
_PATIENCE = 200


class MultiTask(nn.Module):
    """The losses of several tasks as one.

    Args:
        losses: task to loss: its name ("mse", "huber:delta=2"), a loss of fallline, or any function of (output, target) that gives a 0-d
            tensor; such a function gets no weights and no mask.
        weighting: "fixed"; "uncertainty": give the optimizer `[*model.parameters(), *loss.parameters()]`; "gradnorm": call
            `loss.backward(parts, shared=...)` in place of `parts.total.backward()`.
        weights: task to weight > 0, or numbers in the order of the tasks; 1 where none is given. They stay ("fixed"), or are begun with.
        forms: for "uncertainty", task to "regression", "absolute" or "classification", where its loss does not tell.
        bounds: for "uncertainty", the least and the largest noise (s², or b); 1e-6 and 1e12 unless given.
        alpha: for "gradnorm", how much harder tasks that lag pull, >= 0; 1.5 unless given.
        weight_lr: for "gradnorm", the step of the weights; 0.025 unless given.
        initial: for "gradnorm", task to its loss before training; that of the first batch where none is given.
        validate: look at values too: losses that must not be negative, weights that never move (reads tensors).

    >>> loss = MultiTask({"class": "cross_entropy", "brightness": "mse"}, weights={"brightness": 10.0})
    >>> outputs = {"class": torch.zeros(2, 3), "brightness": torch.tensor([0.5, 0.5])}
    >>> targets = {"class": torch.tensor([0, 2]), "brightness": torch.tensor([0.5, 0.7])}
    >>> print(loss.parts(outputs, targets))
    task                raw       weight     weighted        added
    class            1.0986            1       1.0986            0
    brightness         0.02           10          0.2            0
    total                                1.2986
    """

    name = "multi_task"

    def __init__(
        self,
        losses: Mapping[str, TaskLoss],
        *,
        weighting: str = "fixed",
        weights: Mapping[str, float] | Sequence[float] | Tensor | None = None,
        forms: Mapping[str, str] | None = None,
        bounds: tuple[float, float] | None = None,
        alpha: float | None = None,
        weight_lr: float | None = None,
        initial: Mapping[str, float] | Sequence[float] | None = None,
        validate: bool = True,
    ) -> None:
        super().__init__()
        given = {"forms": forms, "bounds": bounds, "alpha": alpha, "weight_lr": weight_lr, "initial": initial}
        self.kind, self.validate = weighting, validate
        takes = lookup("weighting", weighting, _WEIGHTINGS)
        for key, value in given.items():
            if value is not None and key not in takes:
                owner = next(k for k, keys in _WEIGHTINGS.items() if key in keys)
                refuse(f"{key} is given for weighting {owner!r} alone", f"weighting {weighting!r}", where="MultiTask")
        self.tasks = _tasks(losses)
        self._plain: dict[str, Callable[..., Any]] = {}
        for task in self.tasks:
            loss = _loss(task, losses[task])
            if isinstance(loss, nn.Module):
                self.add_module(f"loss_{task}", loss)
            else:
                self._plain[task] = loss
        self.weighting = self._weighting(weights, **given)
        self._calls = 0

    def _weighting(self, weights: Any, forms: Any, bounds: Any, alpha: Any, weight_lr: Any, initial: Any) -> Weighting:
        tasks = self.tasks
        numbers = each(weights, tasks, WEIGHT, 1.0, "MultiTask")
        if self.kind == "fixed":
            return Fixed(tasks, numbers)
        if self.kind == "gradnorm":
            start = each(initial, tasks, INITIAL, math.nan, "MultiTask")
            settings = {"alpha": 1.5 if alpha is None else alpha, "weight_lr": 0.025 if weight_lr is None else weight_lr}
            return Balanced(tasks, numbers, initial=start, **settings)
        for task, form in (forms or {}).items():
            lookup("task of MultiTask", task, dict.fromkeys(tasks))
            lookup(f"form of task {task!r}", form, FORMS)
        found = {task: (forms or {}).get(task) or form_of(task, self.loss(task)) for task in tasks}
        return Uncertainty(tasks, found, None if weights is None else numbers, bounds or BOUNDS)

    # -- what a user calls -------------------------------------------------------------------------------------------------------------

    def forward(self, outputs: ByTask, targets: ByTask, *, sample_weight: Extra = None, mask: Extra = None) -> Tensor:
        """The total; see `parts` for the arguments."""
        return self.parts(outputs, targets, sample_weight=sample_weight, mask=mask).total

    def parts(self, outputs: ByTask, targets: ByTask, *, sample_weight: Extra = None, mask: Extra = None) -> Parts:
        """The total and what it is made of.

        Args:
            outputs: task to output, as its loss takes it; or a tuple in the order of the tasks.
            targets: task to target, likewise; None for a task that this batch has no target for.
            sample_weight: task to weights (N,) (or of the shape of the task's values); a tensor holds for every task.
            mask: task to mask, True where an example counts; a tensor holds for every task.

        Raises:
            FalllineError: a head or a target is missing or too many, or does not fit its loss; the task is named.
        """
        targets = self._named(targets, "targets")
        outputs = self._named(outputs, "outputs", optional=[task for task, target in targets.items() if target is None])
        weights, masks = self._extra(sample_weight, "sample_weight"), self._extra(mask, "mask")
        if all(targets[task] is None for task in self.tasks):
            refuse("at least one task has a target", "None for every task", "skip this batch", where="MultiTask")
        raw: dict[str, Tensor] = {}
        present: dict[str, Tensor] = {}
        for task in self.tasks:
            output, target = outputs.get(task), targets[task]
            if output is None or target is None:
                anywhere = next(t for t in (*outputs.values(), *targets.values()) if t is not None)
                raw[task] = torch.zeros((), device=anywhere.device)
                present[task] = torch.zeros((), dtype=torch.bool, device=anywhere.device)
            else:
                raw[task], present[task] = self._one(task, output, target, weights[task], masks[task])
        if self.validate and readable(*raw.values()):
            self._look(raw)
        weighed = {task: self.weighting.weigh(task, raw[task], present[task]) for task in self.tasks if targets[task] is not None}
        zero = {task: torch.zeros_like(raw[task]) for task in self.tasks if task not in weighed}
        now = {task: self.weighting.weight(task) for task in zero}
        values, added = {task: w.value for task, w in weighed.items()}, {task: w.added for task, w in weighed.items()}
        first, *rest = [*values.values(), *added.values()]
        device = first.device
        return Parts(
            sum((part.to(device) for part in rest), first),
            raw,
            self._ordered(values | zero),
            self._ordered({task: w.weight.detach() for task, w in weighed.items()} | now),
            self._ordered(added | zero),
            present,
            tuple(zero),
        )

    def backward(self, parts: Parts, *, shared: Shared | None = None) -> None:
        """`balance`, then `parts.total.backward()`: the gradients of the model, by the weights that made the total."""
        self.balance(parts, shared=shared)
        parts.total.backward()

    def balance(self, parts: Parts, *, shared: Shared | None = None) -> None:
        """Move weights that no optimizer moves ("gradnorm"); nothing for the others. Call it before `parts.total.backward()`.

        Once an optimizer step: where gradients are accumulated, with the last micro-batch alone. In data parallel training every rank calls
        it, and the weights stay equal on all.

        Args:
            parts: of this batch, its graph not yet used.
            shared: parameters of the last layer that all heads share: a module, a tensor or several; `model.shared` of
                `fallline.models.MultiHead`. The features that the heads read cost less, and give nearly the same.

        Raises:
            FalllineError: none is given, no task depends on them, or the graph is used up.
        """
        self.weighting.balance(parts, shared)

    @property
    def weights(self) -> dict[str, float]:
        """The weights now, as numbers."""
        return {task: float(self.weighting.weight(task)) for task in self.tasks}

    @override
    def extra_repr(self) -> str:
        return ", ".join([f"weighting={self.kind!r}", *(f"{task}={loss!r}" for task, loss in self._plain.items())])

    def loss(self, task: str) -> Callable[..., Any]:
        """The loss of one task."""
        return self._plain[task] if task in self._plain else self.get_submodule(f"loss_{task}")

    # -- one task ----------------------------------------------------------------------------------------------------------------------

    def _one(self, task: str, output: Tensor, target: Tensor, weight: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss of a task and whether any example counts."""
        loss = self.loss(task)
        if isinstance(loss, Loss):
            try:
                total, count = loss.sum_and_count(output, target, sample_weight=weight, mask=mask)
            except FalllineError as error:
                raise type(error)(f"task {task!r}: {error}") from error
            there = count != 0
            return (total / torch.where(there, count, 1) if loss.reduction == "mean" else total), there
        if weight is not None or mask is not None:
            advice = "use a loss of fallline, or leave sample_weight and mask to your own function"
            refuse(f"the loss of task {task!r} knows weights and masks", f"a {type(loss).__name__}", advice, where="MultiTask")
        value = loss(output, target)
        if not isinstance(value, Tensor) or value.ndim:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            refuse(f"the loss of task {task!r} gives one number, a 0-d tensor", got, "take its mean", where="MultiTask")
        return value, torch.ones((), dtype=torch.bool, device=value.device)

    def _look(self, raw: dict[str, Tensor]) -> None:
        for task, value in raw.items():
            self.weighting.check(task, value)
        if not (self.training and torch.is_grad_enabled() and self._calls < _PATIENCE):
            return
        self._calls += 1
        if self._calls == _PATIENCE and (told := self.weighting.idle()):
            warnings.warn(f"after {_PATIENCE} training batches {told}.", FalllineWarning, stacklevel=4)

    # -- arguments ---------------------------------------------------------------------------------------------------------------------

    def _named(self, given: Any, what: str, optional: Sequence[str] = ()) -> dict[str, Tensor | None]:
        """Task to tensor, in the order of the tasks, from a mapping, a named tuple or a sequence."""
        if hasattr(given, "_asdict"):
            given = given._asdict()
        if isinstance(given, (tuple, list)):
            if len(given) != len(self.tasks):
                refuse(f"{what} has one entry a task ({', '.join(self.tasks)})", len(given), where="MultiTask")
            given = dict(zip(self.tasks, given, strict=True))
        if not isinstance(given, Mapping):
            first = self.tasks[0]
            refuse(f"{what} is a mapping from task to tensor", type(given).__name__, f"{{{first!r}: ...}} is an example", where="MultiTask")
        missing = [task for task in self.tasks if task not in optional and task not in given]
        if what == "outputs" and (empty := [task for task in self.tasks if task not in optional and task in given and given[task] is None]):
            refuse(f"the head {empty[0]!r} gives a tensor, as its target is there,", None, where="MultiTask")
        extra = [str(key) for key in given if key not in self.tasks]
        if missing or extra:
            self._mismatch(what, list(map(str, given)), missing, extra)
        return {task: given.get(task) for task in self.tasks}

    def _mismatch(self, what: str, names: list[str], missing: list[str], extra: list[str]) -> NoReturn:
        close = [(name, near[0]) for name in extra if (near := nearest(name, missing))]
        if close:
            advice = f"is {close[0][0]!r} meant to be {close[0][1]!r}?"
        elif missing and what == "targets":
            advice = f"write targets[{missing[0]!r}] = None where a batch has no target for it"
        elif missing:
            advice = f"{missing[0]!r} is missing: give the model a head of that name"
        else:
            advice = f"{extra[0]!r} has no loss: add one, or leave it out"
        refuse(f"{what} has exactly the tasks {', '.join(self.tasks)}", ", ".join(names) or "none", advice, where="MultiTask")

    def _extra(self, given: Extra, what: str) -> dict[str, Tensor | None]:
        if given is None or isinstance(given, Tensor):
            return dict.fromkeys(self.tasks, given)
        if not isinstance(given, Mapping):
            refuse(f"{what} is a tensor, or a mapping from task to tensor", type(given).__name__, where="MultiTask")
        for task in given:
            lookup("task of MultiTask", str(task), dict.fromkeys(self.tasks))
        return {task: given.get(task) for task in self.tasks}

    def _ordered(self, table: dict[str, Tensor]) -> dict[str, Tensor]:
        return {task: table[task] for task in self.tasks}


def multi_task(
    outputs: ByTask,
    targets: ByTask,
    *,
    losses: Mapping[str, TaskLoss],
    weights: Mapping[str, float] | Sequence[float] | Tensor | None = None,
    sample_weight: Extra = None,
    mask: Extra = None,
) -> Tensor:
    """The weighted sum of the tasks' losses; the function form of `MultiTask` with fixed weights."""
    return MultiTask(losses, weights=weights)(outputs, targets, sample_weight=sample_weight, mask=mask)


def _tasks(losses: Any) -> tuple[str, ...]:
    if not isinstance(losses, Mapping) or not losses:
        got = "none" if isinstance(losses, Mapping) else type(losses).__name__
        advice = '{"class": "cross_entropy", "size": "mse"} is an example'
        refuse("losses is a mapping from task to loss, with one task at least,", got, advice, where="MultiTask")
    for task in losses:
        if not isinstance(task, str) or not task or "." in task:
            refuse("the name of a task is text without a dot", repr(task), where="MultiTask")
    return tuple(losses)


def _loss(task: str, loss: Any) -> Loss | Callable[..., Any]:
    where = f"task {task!r} of MultiTask"
    if isinstance(loss, str):
        try:
            loss = build(loss)
        except FalllineError as error:
            raise type(error)(f"task {task!r}: {error}") from error
    if isinstance(loss, type):
        refuse("a loss is made already", f"the class {loss.__name__}", f"write {loss.__name__}()", where=where)
    if isinstance(loss, Loss) and loss.reduction == "none":
        refuse("a loss gives one number", "reduction='none'", "write reduction='mean'", where=where)
    if not callable(loss):
        refuse("a loss is a name, a loss or a function", type(loss).__name__, "'mse' is an example", where=where)
    return loss
