"""Each member's piece of a stacked tensor, beginning where a tensor of its own would: at a multiple of 64 bytes.

Matrix products may round by the place of their operands in memory, so a piece that begins elsewhere is copied once a step.
"""

import torch
from torch import Tensor

from fallline.population.stack import Stack

ALIGNED = 64  # bytes; torch's own allocator


class Slices:
    """The weights and buffers of a stack, member by member.

    Args:
        stack: of the members; its tensors may be exchanged between two steps.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._seen: dict[str, tuple[Tensor, list[Tensor]]] = {}
        self._ready: dict[str, list[Tensor]] = {}

    def refresh(self) -> None:
        """Called before a step: values have changed, or stand elsewhere."""
        self._ready.clear()

    def __getitem__(self, name: str) -> list[Tensor]:
        """A weight of all members, to be read."""
        found = self._ready.get(name)
        if found is None:
            whole = self.stack.values.get(name)
            found = self._ready[name] = self._pieces(name, self.stack.fixed[name] if whole is None else whole)
        return found

    def buffer(self, name: str) -> list[Tensor]:
        """A buffer of all members, to be read and written."""
        found = self._ready.get(name)
        if found is None:
            found = self._ready[name] = self._views(name, self.stack.buffers[name])
        return found

    def gradient(self, name: str) -> list[Tensor]:
        """The place of a weight's gradient for each member, to be written."""
        return self._views(f"{name}'", self.stack.grads[name])

    def _views(self, name: str, whole: Tensor) -> list[Tensor]:
        seen = self._seen.get(name)
        if seen is None or seen[0] is not whole:
            seen = self._seen[name] = whole, list(whole.detach().unbind(0))
        return seen[1]

    def _pieces(self, name: str, whole: Tensor) -> list[Tensor]:
        size, width = whole[0].numel(), whole.element_size()
        if size * width % ALIGNED == 0 or whole.device.type != "cpu":
            return self._views(name, whole)
        pitch = -(-size * width // ALIGNED) * ALIGNED // width
        seen = self._seen.get(name)
        if seen is None or seen[0].shape != (len(whole), pitch):
            with torch.inference_mode(False):  # else it could not be written to in the next step
                room = whole.new_empty((len(whole), pitch))
                seen = self._seen[name] = room, [row[:size].view(whole.shape[1:]) for row in room]
        seen[0][:, :size].copy_(whole.view(len(whole), size))
        return seen[1]
