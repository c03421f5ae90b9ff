"""One thread for small steps: where a step takes some hundred microseconds, waking a second thread costs more than it brings.

Measured on two cores for 64-128-10 at batch 32, while other programs ran: a training of 400 steps took 0.12 s of processor time on one
thread, and 1.1 s or more on two, as threads wait for one another in every operation.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

SMALL = 2e7  # multiplications and additions of a step: 784-256-10 at batch 32 is above it, 784-64-10 below


def is_small(model: nn.Module, batch: int) -> bool:
    """Whether a step of this model at this batch size is small; one with convolutions or recurrences never counts as such."""
    flat = all(isinstance(m, _FLAT) or next(m.children(), None) is not None or not list(m.parameters()) for m in model.modules())
    return flat and 6 * batch * sum(p.numel() for p in model.parameters()) < SMALL


@contextlib.contextmanager
def fitting_threads(model: nn.Module, batch: int) -> Iterator[None]:
    """Run torch on one thread where a step of this model is small; the user's number of threads is put back.

    Args:
        model: what is trained; one with convolutions or recurrences is left to torch's own choice.
        batch: rows in a mini-batch.
    """
    before = torch.get_num_threads()
    if before == 1 or not is_small(model, batch):
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_FLAT = (nn.Linear, nn.LayerNorm, nn.BatchNorm1d, nn.PReLU)
