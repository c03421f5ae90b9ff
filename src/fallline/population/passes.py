"""Forward and backward of all members at once: gradients of every member's loss by its own weights, from its own mini-batch.

    Dense     a plain stack of linear layers and activations: batched matrix products, without autograd
    Mapped    any other module: `torch.func.vmap` of its forward, autograd behind it

Both set `stack.grads` and agree with each member alone to rounding.

Source: Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", Nature 323, 1986, for the backward pass.
"""

import warnings
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from fallline.population.noise import Call, Noise, Unstackable, finding, using
from fallline.population.stack import Stack
from fallline.training.dense import activation, plain_layers

if TYPE_CHECKING:
    from fallline.losses import Loss


class Pass(Protocol):
    """Forward and backward of a stack."""

    def step(self, x: Tensor, target: Tensor, loss: "Loss") -> tuple[Tensor, Tensor]:
        """Set the gradients for mini-batches x (R, N, ...) and target (R, N, ...): losses (R,) and raw outputs (R, N, outputs)."""
        ...

    def outputs(self, x: Tensor) -> Tensor:
        """Raw outputs (R, N, outputs) in evaluation mode, for rows x (N, ...) that all members share."""
        ...


def cost(loss: "Loss", raw: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Each member's loss (R,), and its derivative by the raw outputs (R, N, outputs)."""
    if raw.shape[-1] == 1 and raw.ndim == 3:
        value, slope = loss.quick_slopes(raw.squeeze(-1), target)
        return value, slope.unsqueeze(-1)
    return loss.quick_slopes(raw, target)


class _Linear:
    """z = a Wᵀ + b, member by member."""

    def __init__(self, stack: Stack, prefix: str, biased: bool) -> None:
        self.stack, self.weight = stack, f"{prefix}weight"
        self.bias = f"{prefix}bias" if biased else None

    def forward(self, a: Tensor) -> Tensor:
        self.kept = a
        across = self.stack.values[self.weight].transpose(1, 2)
        if self.bias is None:
            return torch.bmm(a, across)
        return torch.baddbmm(self.stack.values[self.bias].unsqueeze(1), a, across)

    def backward(self, delta: Tensor, wanted: bool) -> Tensor:
        grads = self.stack.grads
        torch.bmm(delta.transpose(1, 2), self.kept, out=grads[self.weight])
        if self.bias is not None:
            torch.sum(delta, 1, out=grads[self.bias])
        return torch.bmm(delta, self.stack.values[self.weight]) if wanted else delta


class _Dropout:
    def __init__(self, noise: Noise, p: float) -> None:
        self.noise, self.p = noise, p

    def forward(self, a: Tensor) -> Tensor:
        self.kept = self.noise.draw(a.shape[1:], self.p, dtype=a.dtype, device=a.device)
        return a * self.kept

    def backward(self, delta: Tensor, wanted: bool) -> Tensor:
        return delta * self.kept if wanted else delta


class Dense:
    """The pass of a plain stack of layers; made by `make_pass`."""

    def __init__(self, stack: Stack, layers: list[nn.Module], noise: Noise) -> None:
        place = {id(m): f"{name}." if name else "" for name, m in stack.template.named_modules()}
        self.parts, self.judged = [], []
        for layer in layers:
            if isinstance(layer, nn.Linear):
                part = _Linear(stack, place[id(layer)], layer.bias is not None)
            elif isinstance(layer, nn.Dropout):
                self.parts += [_Dropout(noise, layer.p)] if layer.p > 0 else []
                continue
            else:
                part = activation(layer)
            if part is not None:
                self.parts.append(part)
                self.judged.append(part)
        first = next(i for i, part in enumerate(self.parts) if isinstance(part, _Linear))
        self.back = [(part, i > first) for i, part in enumerate(self.parts) if i >= first][::-1]
        self.stack = stack

    def step(self, x: Tensor, target: Tensor, loss: "Loss") -> tuple[Tensor, Tensor]:
        """See `Pass`."""
        with torch.no_grad():
            a = x.flatten(2)
            for part in self.parts:
                a = part.forward(a)
            value, delta = cost(loss, a, target)
            for part, wanted in self.back:
                delta = part.backward(delta, wanted)
        return value, a

    def outputs(self, x: Tensor) -> Tensor:
        """See `Pass`."""
        with torch.no_grad():
            a = x.flatten(1).expand(len(self.stack), len(x), -1)
            for part in self.judged:
                a = part.forward(a)
                part.kept = None  # pyright: ignore[reportAttributeAccessIssue]
        return a


class Mapped:
    """The pass of any module that `vmap` can run."""

    def __init__(self, stack: Stack, noise: Noise, calls: dict[int, list[Call]]) -> None:
        self.stack, self.noise, self.calls = stack, noise, calls
        self.training = torch.func.vmap(self._forward, in_dims=(0, 0, 0, 0), randomness="error")
        self.judging = torch.func.vmap(self._forward, in_dims=(0, 0, None, 0), randomness="error")

    def _forward(self, learnt: dict[str, Tensor], rest: dict[str, Tensor], x: Tensor, noise: list[Tensor]) -> Tensor:
        with using(noise):
            return torch.func.functional_call(self.stack.template, {**learnt, **rest}, (x,))

    def step(self, x: Tensor, target: Tensor, loss: "Loss") -> tuple[Tensor, Tensor]:
        """See `Pass`."""
        stack = self.stack
        if x.shape[1] not in self.calls:
            self.calls[x.shape[1]] = probe(stack.template, x[0])[0]
        noise = [self.noise.draw(c.shape, c.p, dtype=c.dtype, device=x.device) for c in self.calls[x.shape[1]]]
        leaves = {n: v.detach().requires_grad_() for n, v in stack.values.items()}
        stack.template.train()
        with torch.enable_grad():
            raw = self.training(leaves, {**stack.fixed, **stack.buffers}, x, noise)
        raw = raw if raw.ndim > 2 else raw.unsqueeze(-1)
        value, slope = cost(loss, raw.detach(), target)
        grads = torch.autograd.grad(raw, list(leaves.values()), slope)
        stack.grads = dict(zip(leaves, (g.contiguous() for g in grads), strict=True))
        return value, raw.detach()

    def outputs(self, x: Tensor) -> Tensor:
        """See `Pass`."""
        stack = self.stack
        stack.template.eval()
        with torch.no_grad():
            raw = self.judging(stack.values, {**stack.fixed, **stack.buffers}, x, [])
        return raw if raw.ndim > 2 else raw.unsqueeze(-1)


def probe(template: nn.Module, x: Tensor) -> tuple[list[Call], set[str]]:
    """The calls of dropout in the model on one member's mini-batch x (N, ...), and the names of the parameters that the output needs.

    The model's buffers are left as they were.
    """
    calls: list[Call] = []
    held = {n: b.detach().clone() for n, b in template.named_buffers()}
    named = {n: p.detach().clone().requires_grad_(p.requires_grad) for n, p in template.named_parameters()}
    template.train()
    with torch.enable_grad(), finding(calls):
        raw = torch.func.functional_call(template, {**named, **held}, (x,))
    if not isinstance(raw, Tensor):
        raise Unstackable(f"the model returns a {type(raw).__name__}, not a tensor")
    learnt = {n: p for n, p in named.items() if p.requires_grad}
    grads = torch.autograd.grad(raw.sum(), list(learnt.values()), allow_unused=True) if raw.requires_grad else [None] * len(learnt)
    return calls, {n for n, g in zip(learnt, grads, strict=True) if g is not None}


def make_pass(stack: Stack, x: Tensor, noise: Noise, target: Tensor, loss: "Loss") -> Pass:
    """The fastest pass that gives what each member alone would give; the stack itself is left as it is.

    Args:
        stack: of the members.
        x: some rows that all members can be tried on, (N, ...).
        noise: the members' random streams.
        target: of these rows, as the loss reads it.
        loss: what is minimised.

    Raises:
        Unstackable: the model cannot be run for several members at once; the reason says what stands in the way.
    """
    layers = plain_layers(stack.template, x)
    if layers is not None:
        return Dense(stack, layers, noise)
    for module in stack.template.modules():
        if any(getattr(module, name) for name in _HOOKS):
            raise Unstackable(f"{type(module).__name__} has hooks, which would see all members at once")
    calls, used = probe(stack.template, x)
    for name in [n for n in stack.values if n not in used]:  # without a gradient, no optimizer moves it
        stack.fixed[name] = stack.values.pop(name)
        del stack.grads[name]
    if not stack.values:
        raise Unstackable("no parameter of the model has a gradient")
    made = Mapped(stack, noise, {len(x): calls})
    kept = {n: b.clone() for n, b in stack.buffers.items()}
    state = [g.get_state() for g in noise.generators]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            both = x.unsqueeze(0).expand(len(stack), *x.shape)
            made.step(both, target.unsqueeze(0).expand(len(stack), *target.shape), loss)
            made.outputs(x)
    except Unstackable:
        raise
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        raise Unstackable(_reason(error)) from error
    finally:
        for generator, was in zip(noise.generators, state, strict=True):
            generator.set_state(was)
        for n, b in kept.items():
            stack.buffers[n].copy_(b)
    return made


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_WORDS = {
    "data-dependent control flow": "its forward chooses its way by the values of a tensor",
    ".item()": "its forward reads a tensor's value (.item())",
    "randomness": "its forward draws random numbers",
    "inplace": "its forward changes a tensor in place that the members share",
    "in-place": "its forward changes a tensor in place that the members share",
}


def _reason(error: Exception) -> str:
    text = str(error)
    told = next((words for sign, words in _WORDS.items() if sign in text), None)
    return told or f"torch.func.vmap cannot run it ({text.strip().splitlines()[0][:160]})"
