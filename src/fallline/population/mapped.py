"""Forward and backward of all members of any module that `torch.func.vmap` can run, autograd behind it.

Equal to each member alone to rounding, which is enough where no weight has a gradient that is 0 but for rounding; `make_pass` looks.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fallline.population.cost import cost
from fallline.population.noise import Call, Noise, Unstackable, Using
from fallline.population.probe import probe
from fallline.population.stack import Stack

if TYPE_CHECKING:
    from fallline.losses import Loss


class Mapped:
    """The pass of any module that `vmap` can run.

    Args:
        stack: of the members.
        noise: their random streams.
        calls: by the number of rows the calls of dropout in the model.
    """

    def __init__(self, stack: Stack, noise: Noise, calls: dict[int, list[Call]]) -> None:
        self.stack, self.noise, self.calls = stack, noise, calls
        self.names = _names(stack.template)
        self.training = torch.func.vmap(self._forward, in_dims=(0, 0, 0, 0), randomness="error")
        self.judging = torch.func.vmap(self._forward, in_dims=(0, 0, None, 0), randomness="error")

    def _forward(self, learnt: dict[str, Tensor], rest: dict[str, Tensor], x: Tensor, noise: list[Tensor]) -> Tensor:
        with Using(noise) as pieces:
            every = {name: tensor for first, tensor in {**learnt, **rest}.items() for name in self.names[first]}
            out = torch.func.functional_call(self.stack.template, every, (x,), tie_weights=False)
        if pieces.left():
            raise Unstackable("dropout is called less often in one step than in another")
        return out

    def step(self, x: Tensor, target: Tensor, loss: "Loss") -> tuple[Tensor, Tensor]:
        """See `Pass`."""
        stack = self.stack
        if x.shape[1] not in self.calls:
            self.calls[x.shape[1]] = probe(stack.template, x[0]).calls
        noise = [self.noise.all(call, x.device) for call in self.calls[x.shape[1]]]
        leaves = {n: v.detach().requires_grad_() for n, v in stack.values.items()}
        stack.template.train()
        with torch.enable_grad(), _quietly():
            raw = self.training(leaves, {**stack.fixed, **stack.buffers}, x, noise)
        raw = raw if raw.ndim > 2 else raw.unsqueeze(-1)
        value, slope = cost(loss, raw.detach(), target)
        with _quietly():
            grads = torch.autograd.grad(raw, list(leaves.values()), slope)
        stack.grads = dict(zip(leaves, (g.contiguous() for g in grads), strict=True))
        return value, raw.detach()

    def outputs(self, x: Tensor) -> Tensor:
        """See `Pass`."""
        stack = self.stack
        stack.template.eval()
        with torch.no_grad(), _quietly():
            raw = self.judging(stack.values, {**stack.fixed, **stack.buffers}, x, [])
        return raw if raw.ndim > 2 else raw.unsqueeze(-1)


_running = 0
_lock = threading.Lock()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's word on operations that vmap runs member by member; threads may be inside together."""
    global _running  # noqa: PLW0603
    switch = torch._C._functorch._set_vmap_fallback_warning_enabled  # pyright: ignore[reportAttributeAccessIssue]
    with _lock:
        _running += 1
        switch(False)
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if not _running:
                switch(True)


def _names(template: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter and buffer by its first: one a module that holds it.

    `functional_call` would find tied names by itself, but leaves the members' tensors in a module that stands in two places.
    """
    out: dict[int, dict[tuple[int, str], str]] = {}
    everything = [*template.named_parameters(remove_duplicate=False), *template.named_buffers(remove_duplicate=False)]
    for name, tensor in everything:
        path, _, last = name.rpartition(".")
        out.setdefault(id(tensor), {}).setdefault((id(template.get_submodule(path)), last), name)
    return {first: [first, *others] for first, *others in (list(held.values()) for held in out.values())}
