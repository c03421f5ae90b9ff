"""A check: a name, what it proves, and a function that yields findings or says why it cannot be made."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fallline.prove.report import Finding
from fallline.prove.subject import NotChecked, Subject


@dataclass
class Case:
    """A loss with everything that is known of it.

    Attributes:
        subject: the loss and how it is called.
        kind: kind of target; see `forms`.
        domain: where the input's numbers lie; see `forms`.
        base: the value at the user's rows.
        reference: an independent formula, or None.
        perfect: the input at which the loss should be least, or None.
        reduction: "mean", "sum", "none", or None where nobody said.
        separate: whether the cost of an example depends on it alone; None where nobody said.
        compile: whether to try torch.compile.
        marks: what earlier checks learned: "ignores-target", "gradient-unsound", "mixes", ...
    """

    subject: Subject
    kind: str
    domain: str
    base: float
    reference: Callable[..., Tensor] | None = None
    perfect: Tensor | None = None
    reduction: str | None = None
    separate: bool | None = None
    compile: bool = False
    marks: set[str] | None = None

    def mark(self, *names: str) -> None:
        """Remember something for the checks to come."""
        self.marks = (self.marks or set()) | set(names)

    def marked(self, name: str) -> bool:
        """Whether an earlier check remembered it."""
        return name in (self.marks or ())

    def needs_target(self) -> None:
        """Raise NotChecked where the value has nothing to do with the target."""
        if self.kind == "none":
            raise NotChecked("there is no target")
        if self.marked("ignores-target"):
            raise NotChecked("the value does not depend on the target")

    def moved(self, a: float, b: float) -> bool:
        """Whether two values differ by more than rounding."""
        rough = 1e-5 if self.subject.coarse else 1e-9
        if a != a or b != b:  # noqa: PLR0124
            return (a == a) != (b == b)  # noqa: PLR0124
        return abs(a - b) > rough * (abs(a) + abs(b)) + rough * 1e-3


@dataclass(frozen=True)
class Check:
    """One thing to prove.

    Attributes:
        name: what `skip=` and the report call it.
        proves: what holds where it finds nothing.
        run: yields findings; raises NotChecked where it cannot be made.
        still: whether it compares values of several calls, and so needs equal calls to give equal values.
    """

    name: str
    proves: str
    run: Callable[[Case], Iterator[Finding]]
    still: bool = True


def finite(*tensors: Tensor) -> bool:
    """Whether every number is finite."""
    return all(bool(torch.isfinite(t).all()) for t in tensors)


def shown(value: float) -> str:
    """A number in four digits."""
    return f"{value:.4g}"
