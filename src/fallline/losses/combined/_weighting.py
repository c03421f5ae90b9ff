"""How the losses of several tasks become one: what a weighting says of each task, and when its weights move."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from fallline._core.errors import lookup, refuse
from fallline._core.number import Number
from fallline.losses._tracing import readable
from fallline.losses.combined._parts import Parts

Shared = nn.Module | Tensor | Iterable[Tensor]
WEIGHT = Number("weight", 0, open_low=True, usual="1", doc="how much a task counts")


class Weighed(NamedTuple):
    """One task: its weight, weight times loss, and what the weighting adds; all 0-d."""

    weight: Tensor
    value: Tensor
    added: Tensor


class Weighting(nn.Module):
    """What every weighting offers. Its state stands under the names of the tasks, so that their order may change."""

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    def weigh(self, task: str, raw: Tensor, present: Tensor) -> Weighed:
        """What `task` puts into the total; `raw` is its loss, 0 where `present` is False, and then it must move nothing."""
        raise NotImplementedError

    def weight(self, task: str) -> Tensor:
        """The weight of a task now, 0-d, without a graph."""
        raise NotImplementedError

    def check(self, task: str, raw: Tensor) -> None:
        """Refuse a loss that the weighting is not defined for."""

    def balance(self, parts: Parts, shared: Shared | None) -> None:
        """Move weights that do not move by the optimizer; called once a step, before the backward pass."""

    def idle(self) -> str:
        """What to tell a user whose weights have not moved since they began, or ""."""
        return ""

    def extra_repr(self) -> str:
        return ", ".join(f"{task}={float(self.weight(task)):.4g}" for task in self.tasks)


def each(given: Any, tasks: Sequence[str], number: Number, default: float, where: str) -> dict[str, float]:
    """A number for each task: `default` where it has none in a mapping, or where `given` is None; a sequence is in their order."""
    if given is None:
        return dict.fromkeys(tasks, default)
    what = number.name + ("es" if number.name.endswith("s") else "s")
    if isinstance(given, Mapping):
        for task in given:
            lookup(f"task of {where}", str(task), dict.fromkeys(tasks))
        found: dict[str, Any] = dict(given)
    elif isinstance(given, (Sequence, Tensor)) and not isinstance(given, str):
        if len(given) != len(tasks):
            refuse(f"{what} has one number a task ({', '.join(tasks)})", f"{len(given)}", where=where)
        found = dict(zip(tasks, given, strict=True))
    else:
        refuse(f"{what} is a mapping from task to number", type(given).__name__, f"{{{tasks[0]!r}: 1.0}} is an example", where=where)
    return dict.fromkeys(tasks, default) | {t: number.check(value, where=f"task {t!r} of {where}") for t, value in found.items()}


def never_negative(task: str, raw: Tensor, weighting: str, why: str) -> None:
    """Refuse a negative loss of a task where it may be read."""
    value = raw.detach()
    if readable(value) and bool(value < 0):
        advice = "give this task a loss that is never negative, or weight it 'fixed'"
        refuse(f"the loss of task {task!r} >= 0, as {why},", f"{float(value):g}", advice, where=f"weighting {weighting!r}")
