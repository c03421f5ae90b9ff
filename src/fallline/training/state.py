"""Where training stands: what a checkpoint keeps besides weights and the optimizer."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class State:
    """Position and memory of a run.

    Args:
        epoch: whole epochs done.
        position: steps done in the running epoch.
        step: steps done in all.
        seconds: wall-clock time spent in training, over all sittings.
        start: validation loss (or the first training loss) before training, from which divergence is told.
        lived: seconds spent in the running epoch before this sitting.
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    seconds: float = 0.0
    start: float = math.nan
    lived: float = 0.0
    best: dict[str, Tensor] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        return {key: value for key, value in vars(self).items() if key != "best"}


@dataclass
class Tally:
    """What the running epoch has measured: losses (steps,), outputs (rows, width) of the first rows, gradient norms (steps,)."""

    losses: Tensor
    outputs: Tensor
    norms: Tensor

    @classmethod
    def empty(cls, steps: int, rows: int, width: int, dtype: torch.dtype, device: torch.device) -> "Tally":
        """Nothing measured yet: NaN. Outputs are kept in double precision where the inputs are of that."""
        return cls(
            torch.full((steps,), math.nan, dtype=loss_dtype(device), device=device),
            torch.empty((rows, width), dtype=dtype if dtype is torch.float64 else torch.float32, device=device),
            torch.full((steps,), math.nan, device=device),
        )


def loss_dtype(device: torch.device) -> torch.dtype:
    """In which the losses of an epoch are kept: double precision, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's generators that training draws from."""
    states = {"rng/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["rng/cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_rng_state(tensors: dict[str, Tensor], device: torch.device) -> None:
    """Put back what `rng_state` gave."""
    torch.set_rng_state(tensors["rng/cpu"])
    if device.type == "cuda" and "rng/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng/cuda"], device)
