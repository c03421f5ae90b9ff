"""Forward and backward of all members: gradients of every member's loss by its own weights, from its own mini-batch.

    Dense     a plain stack of linear layers and activations: batched matrix products, without autograd
    Layers    members in turn, bit for bit as alone: convolutions, batch norms, and whatever else rounding decides
    Turns     a plain stack in turn, bit for bit as alone, for a rule that magnifies rounding
    Mapped    any other module: `torch.func.vmap` of its forward, autograd behind it

All set `stack.grads`. `Dense` and `Mapped` agree with each member alone to rounding, `Layers` and `Turns` exactly.
"""

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from fallline.population.dense import Dense
from fallline.population.layers import Layers
from fallline.population.mapped import Mapped
from fallline.population.noise import Call, Noise, Unstackable, first_line
from fallline.population.probe import probe, refuse_hooks, undisturbed
from fallline.population.stack import Stack
from fallline.population.turns import Turns
from fallline.training.dense import plain_layers

if TYPE_CHECKING:
    from fallline.losses import Loss

_NEAR, _NEAR_SINGLE, _NEAR_TENSOR_CORES = 1e-9, 1e-3, 3e-2  # relative, for float64, float32, and products with few bits on CUDA
_APART = 1e-2  # relative difference of a single gradient that is nothing but rounding
_FEW = 2e-3  # share of such gradients in a tensor that chance may bring


class Pass(Protocol):
    """Forward and backward of a stack."""

    def step(self, x: Tensor, target: Tensor, loss: "Loss") -> tuple[Tensor, Tensor]:
        """Set the gradients for mini-batches x (R, N, ...) and target (R, N, ...): losses (R,) and raw outputs (R, N, outputs)."""
        ...

    def outputs(self, x: Tensor) -> Tensor:
        """Raw outputs (R, N, outputs) in evaluation mode, for rows x (N, ...) that all members share."""
        ...


def make_pass(stack: Stack, x: Tensor, noise: Noise, target: Tensor, loss: "Loss", *, short: int = 0, bits: str = "") -> Pass:
    """The fastest pass that gives what each member alone would give.

    The stack's numbers stay as they are; a parameter that the outputs do not need becomes one of its fixed ones, as no optimizer moves it.

    Args:
        stack: of the members.
        x: some rows that all members can be tried on, (N, ...).
        noise: the members' random streams.
        target: of these rows, as the loss reads it.
        loss: what is minimised.
        short: rows of a last mini-batch that has fewer.
        bits: why only the very bits of the run alone are near enough, where that is so.

    Raises:
        Unstackable: the model cannot be run for several members at once; the reason says what stands in the way, and nothing was changed.
    """
    layers = plain_layers(stack.template, x) if stack.free else None
    here = x.device.type == "cpu"  # elsewhere many launches of small kernels cost more than the bits are worth
    if bits and not here:
        raise Unstackable(bits)
    if layers is not None:
        return Turns(stack, noise, x) if bits else Dense(stack, layers, noise)
    refuse_hooks(stack.template)
    if not stack.free:
        raise Unstackable("a parameter has hooks, which would see all members")
    found = probe(stack.template, x)
    if not found.used:
        raise Unstackable("no parameter of the model has a gradient")
    calls = {len(x): found.calls}
    if short:
        calls[short] = probe(stack.template, x[:short]).calls
    exact = here and (found.exact or bool(bits))
    stack.widest = max(stack.widest, found.widest)
    if not exact:
        noisy = [_try(stack, x[:rows], noise, target[:rows], loss, calls, found.used) for rows in calls]
        exact = here and any(noisy)
    for name in [n for n in stack.values if n not in found.used]:
        stack.fixed[name] = stack.values.pop(name)
        del stack.grads[name]
    if exact:
        return Layers(stack, noise, x, drops=bool(found.calls))
    return Mapped(stack, noise, calls)


def _try(stack: Stack, x: Tensor, noise: Noise, target: Tensor, loss: "Loss", calls: dict[int, list[Call]], learnt: set[str]) -> bool:
    """Run two members mapped and in turn; whether some gradient is nothing but rounding, so that only the same bits are near enough.

    Raises:
        Unstackable: they cannot be mapped, or give something else.
    """
    one, other = stack.part(2, learnt), stack.part(2, learnt)
    count = len(one)
    xs, ts = torch.stack([x, x.flip(0)])[:count], torch.stack([target, target.flip(0)])[:count]
    with undisturbed(x.device):
        turns = Layers(other, noise.copy(2), x, drops=bool(calls[len(x)]), whole=True)
        expected = turns.outputs(x), turns.step(xs, ts, loss)[1]
        try:
            mapped = Mapped(one, noise.copy(2), dict(calls))
            found = mapped.outputs(x), mapped.step(xs, ts, loss)[1]
        except (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError) as error:
            raise Unstackable(_reason(error)) from error
    for ours, theirs in zip(found, expected, strict=True):
        _same("its outputs", ours, theirs, _size(theirs))
    for name in stack.buffers:
        _same(f"its buffer '{name}'", one.buffers[name], other.buffers[name], _size(other.buffers[name]))
    largest = max(_size(grad) for grad in other.grads.values())
    for name, grad in one.grads.items():
        _same(f"the gradient of '{name}'", grad, other.grads[name], largest)
    return any(_noisy(grad, other.grads[name]) for name, grad in one.grads.items())


def _size(tensor: Tensor) -> float:
    finite = tensor[torch.isfinite(tensor)]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _same(what: str, ours: Tensor, theirs: Tensor, size: float) -> None:
    """Refuse what is apart by more than rounding of numbers of that size."""
    if ours.shape != theirs.shape:
        raise Unstackable(f"mapped over members, {what} has shape {tuple(ours.shape[1:])}, and {tuple(theirs.shape[1:])} alone")
    near = _NEAR if ours.dtype is torch.float64 else _NEAR_TENSOR_CORES if ours.is_cuda else _NEAR_SINGLE
    if not bool(torch.isclose(ours, theirs, rtol=0, atol=near * size, equal_nan=True).all()):
        raise Unstackable(f"mapped over members, {what} is not what it is alone")


def _noisy(ours: Tensor, theirs: Tensor) -> bool:
    """Whether more gradients than chance brings differ by a part of their size: they are 0 but for rounding."""
    apart = (ours - theirs).abs() > _APART * torch.maximum(ours.abs(), theirs.abs())
    return float(apart.double().mean()) > _FEW


_WORDS = {
    "data-dependent control flow": "its forward chooses its way by the values of a tensor",
    ".item()": "its forward reads a tensor's value (.item())",
    "randomness": "its forward draws random numbers in a way of its own",
    "lstm": "vmap cannot run torch's recurrent layers",
    "gru": "vmap cannot run torch's recurrent layers",
    "rnn": "vmap cannot run torch's recurrent layers",
    "data pointer": "its forward leaves torch (for NumPy, or by the address of a tensor)",
    "storage": "its forward leaves torch (for NumPy, or by the address of a tensor)",
    "numpy": "its forward leaves torch (for NumPy, or by the address of a tensor)",
    "inplace": "its forward changes a tensor in place that the members share",
    "in-place": "its forward changes a tensor in place that the members share",
}


def _reason(error: Exception) -> str:
    text = str(error)
    told = next((words for sign, words in _WORDS.items() if sign in text), None)
    return told or f"torch.func.vmap cannot run it ({first_line(error)})"
