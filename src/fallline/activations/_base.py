"""An activation is a value and its derivative, both as functions of a tensor."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Activation:
    """One activation function.

    `value(x)` keeps the shape unless `shape_note` says otherwise. `derivative(x)`: for an activation of single numbers, the slope at
    each; for softmax, which mixes the last axis, the whole Jacobian (..., C, C).
    """

    name: str
    value: Map
    derivative: Map
    doc: str | None  # as fallline._core.entry reads it: a sentence, the formula, when to use it, when not, its source
    shape_note: str = ""
    elementwise: bool = True
    kinks: tuple[float, ...] = ()  # where the slope jumps; there torch's choice is given

    def __call__(self, x: Tensor) -> Tensor:
        """The value, so that an activation is a function."""
        return self.value(x)
