"""Which parameters a penalty counts: those that are learned and have two axes or more, unless the caller chooses."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fallline._core.errors import refuse

NamedParams = Iterable[tuple[str, Tensor]]
Choice = Callable[[str, Tensor], bool]


def total(named: NamedParams, only: Choice | None, price: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum of `price(parameter)` over the chosen parameters, a 0-d tensor; 0 where none is chosen.

    Biases and the scales of norm layers are vectors, so the default leaves them out. Raises FalllineError for parameters without names.
    """
    parts = []
    for item in named:
        if isinstance(item, Tensor):
            refuse("parameters come with their names", "tensors alone", "write model.named_parameters()", where="a penalty")
        name, parameter = item
        if parameter.requires_grad and (only(name, parameter) if only else parameter.ndim > 1):
            parts.append(price(parameter))
    return torch.stack(parts).sum() if parts else torch.zeros(())
