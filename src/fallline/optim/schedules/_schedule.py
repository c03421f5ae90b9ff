"""A schedule: a pure function from the step (0, 1, 2, ...) to the multiplier of the base learning rate."""

from collections.abc import Callable
from dataclasses import dataclass

from fallline._core.errors import must


@dataclass(frozen=True)
class Schedule:
    """`schedule(step)` is the multiplier; `first >> then` runs `then` from the step where `first` ends.

    Args:
        name: as a user reads it.
        at: multiplier at a step >= 0.
        length: steps until it has ended, or None where it never does.

    >>> from fallline.optim.schedules import constant, warmup
    >>> [(warmup(2) >> constant())(step) for step in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """

    name: str
    at: Callable[[int], float]
    length: int | None = None

    def __call__(self, step: int) -> float:
        return self.at(step)

    def __rshift__(self, then: "Schedule") -> "Schedule":
        must(self.length is not None, "the first of two schedules has an end", f"'{self.name}', which has none", "start with warmup(...)")
        first, ends = self.at, self.length or 0
        total = None if then.length is None else ends + then.length
        return Schedule(f"{self.name}+{then.name}", lambda step: first(step) if step < ends else then.at(step - ends), total)
