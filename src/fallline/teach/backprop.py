"""Back-propagation, shown: every factor of the chain rule, layer by layer, each number checked against autograd.

    δ_L = ∂L/∂ŷ · f′(z_L)        δ_l = (δ_{l+1} W_{l+1}) ⊙ f′(z_l)        ∂L/∂W_l = δ_lᵀ a_{l−1}        ∂L/∂b_l = Σ δ_l

Source: Rumelhart, Hinton & Williams, "Learning representations by back-propagating errors", Nature 323, 1986.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fallline._core.errors import FalllineError
from fallline._core.files import write_text
from fallline.teach import topmost, watch
from fallline.teach.layers import RULES, Backward
from fallline.teach.marks import Verdict, gain, judge
from fallline.teach.naming import bias_factors, name_steps, weight_factors
from fallline.teach.steps import Check, Gradient, LossPart, Step

AGREES = 1e-7  # torch keeps the constants of Hardsigmoid's and CELU's derivatives in float32: 3e-8 off


@dataclass(repr=False)
class Trace:
    """What `trace_backprop` found.

    Attributes:
        model: class name of the model.
        steps: one `Step` a layer and use, in forward order (the backward pass reads them from the end).
        loss: the loss and its derivative by the prediction, the start of the backward pass.
        gradients: parameter name -> `Check`: the product of factors beside autograd's gradient.
        verdict: whether the gradient vanished or exploded on the way, and by which factor.
        examples: number of examples N.
        notes: what a reader has to know of the trace as a whole.
        largest_error: the largest relative difference from autograd of any number in the trace.
        named: whether the network is small enough that every value has a symbol.
    """

    model: str
    steps: list[Step]
    loss: LossPart
    gradients: dict[str, Check]
    verdict: Verdict
    examples: int
    notes: list[str] = field(default_factory=list)
    largest_error: float = 0.0
    named: bool = False

    @property
    def agrees(self) -> bool:
        """Whether every number agrees with autograd to a relative 1e-7."""
        return self.largest_error < AGREES

    @property
    def marked(self) -> list[Step]:
        """The steps whose factor made the gradient vanish or explode."""
        return [step for step in self.steps if step.mark]

    def text(self) -> str:
        """The trace for a terminal: forward pass, loss, backward pass, verdict."""
        from fallline.teach.text import render

        return render(self)

    def html(self) -> str:
        """The trace as one self-contained page."""
        from fallline.teach.page import render

        return render(self)

    def to_html(self, path: str | Path) -> Path:
        """Write the page to `path`; a `FalllineError` names the path where it cannot be written."""
        target = Path(path)
        write_text(target, self.html())
        return target

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"Trace({self.model}, {len(self.steps)} steps, {self.examples} examples, loss {self.loss.value:.4g}: {self.verdict.problem})"

    def _repr_html_(self) -> str:
        from html import escape

        return f'<iframe srcdoc="{escape(self.html())}" style="width:100%;height:900px;border:0"></iframe>'


def _real(value: Any, what: str) -> Tensor:
    try:
        tensor = torch.as_tensor(value).detach().to("cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise FalllineError(f"`{what}` must be a tensor or numbers, but got {type(value).__name__}.") from error
    if tensor.is_complex():
        raise FalllineError(f"`{what}` must hold real numbers, but it holds {str(tensor.dtype).removeprefix('torch.')}.")
    if tensor.numel() == 0:
        raise FalllineError(f"`{what}` must hold at least one example, but its shape is {tuple(tensor.shape)}.")
    tensor = tensor.double() if tensor.is_floating_point() else tensor
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise FalllineError(f"`{what}` must be finite, but it holds NaN or infinity; look at the data first.")
    return tensor.clone()


_BATCHED = ((("Linear",), 2), (("Conv1d", "MaxPool1d", "AvgPool1d"), 3), (("Conv2d", "MaxPool2d", "AvgPool2d", "BatchNorm2d"), 4))


def _batch(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, bool]:
    """`x` and `y` with an axis of examples in front; whether one example was given without it."""
    first = type(watch.units(model)[0][1]).__name__
    wanted = next((dims for kinds, dims in _BATCHED if first in kinds), None)
    alone = wanted is None and y.dim() == 0 and len(x) > 1  # a picture into a Flatten, with one label
    single = x.dim() <= 1 or alone or (wanted is not None and x.dim() == wanted - 1)
    if not single:
        return x, (y.reshape(1) if y.dim() == 0 else y), False
    return (
        (x.reshape(1, -1) if x.dim() <= 1 else x[None]),
        (y if y.dim() and not y.is_floating_point() and y.numel() == 1 else y[None]),
        True,
    )


def _kind(call: watch.Call, step_in: Tensor, step_out: Tensor) -> str:
    def form(shape: torch.Size) -> str:
        return "×".join(str(s) for s in shape[1:]) or "1"

    return f"{form(step_in.shape)} → {form(step_out.shape)}"


def _elementwise(call: watch.Call, source: Tensor, out: Tensor) -> Tensor | None:
    """f′(z) of a module that fallline does not know, if probing shows that it works element by element."""
    if source.shape != out.shape or any(True for _ in call.module.parameters()):
        return None
    ones = torch.autograd.grad(out, source, torch.ones_like(out), retain_graph=True, materialize_grads=True)[0]
    for seed in (1, 2):
        probe = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(seed))
        pulled = torch.autograd.grad(out, source, probe, retain_graph=True, materialize_grads=True)[0]
        if topmost.relative(pulled, ones * probe) > 1e-12:
            return None
    return ones


class _Walk:
    """The backward walk over the calls of one pass."""

    def __init__(self, twin: nn.Module, calls: list[watch.Call], value: Tensor, out: Tensor, last: int | None) -> None:
        self.twin, self.calls, self.last = twin, calls, last
        self.names: dict[int, str] = {}
        for name, parameter in twin.named_parameters():
            self.names.setdefault(id(parameter), name)
        self.parameters = [p for p in twin.parameters() if p.requires_grad]
        tensors: list[Tensor] = [out, *self.parameters]
        for call in calls:
            tensors += [t for t in (call.input, call.output) if t is not None and t.requires_grad]
        found = torch.autograd.grad(value, tensors, retain_graph=True, materialize_grads=True)
        self.auto = {id(t): g for t, g in zip(tensors, found, strict=True)}
        self.top = self.auto[id(out)]
        uses = [id(p) for c in calls for p in c.module.parameters()]
        self.shared = {i for i in uses if uses.count(i) > 1}
        opened = [m for m in twin.modules() if watch._opened(m) and type(m) not in RULES]
        linked = all(c.source == i - 1 for i, c in enumerate(calls) if i) and last == len(calls) - 1
        self.strict = linked and all(type(m) is nn.Sequential for m in opened)

    def delta(self, at: int, top: Tensor, passed: list[Tensor]) -> tuple[Tensor, str]:
        """The delta at the output of call `at`, and where it came from."""
        call = self.calls[at]
        assert call.output is not None
        auto = self.auto.get(id(call.output), torch.zeros_like(call.output))
        parts = [passed[len(self.calls) - 1 - j] for j in range(at + 1, len(self.calls)) if self.calls[j].source == at]
        arrives = "the next layer"
        if self.last == at:
            parts, arrives = [*parts, top], "the loss"
        if parts and all(p.shape == auto.shape for p in parts):
            own = torch.stack(parts).sum(0)
            if self.strict or topmost.relative(own, auto) < 1e-6:
                return own, arrives
        return auto, "autograd"

    def step(self, at: int, own: Tensor, arrives: str, label: str) -> tuple[Step, list[tuple[str, Tensor]]]:
        """The step of call `at`, and its parts of the weights' gradients."""
        call = self.calls[at]
        assert call.output is not None
        a, z = call.input.detach(), call.output.detach()
        auto_in = self.auto.get(id(call.output), torch.zeros_like(z))
        auto_out = self.auto.get(id(call.input))
        rule = RULES.get(type(call.module))
        back = rule(call.module, a, z, own) if rule else None
        if back is None:
            back = self.whole(call, a, auto_out)
            own = auto_in if arrives == "autograd" else own
        error = topmost.relative(own, auto_in)
        if auto_out is not None:
            error = max(error, topmost.relative(back.delta_out, auto_out))
        gradients, parts = [], []
        known = {name: (formula, value) for name, formula, value in back.weights}
        frozen = False
        for local_name, parameter in call.module.named_parameters():
            if not parameter.requires_grad:
                frozen = True
                continue
            auto, full = self.auto[id(parameter)], self.names[id(parameter)]
            if local_name in known:
                formula, value = known[local_name]
                parts.append((full, value))
                gradients.append(Gradient(full, formula, value, auto, id(parameter) in self.shared))
                if id(parameter) not in self.shared:
                    error = max(error, topmost.relative(value, auto))
            else:
                shared = id(parameter) in self.shared
                gradients.append(Gradient(full, "by autograd, all uses together" if shared else "by autograd", auto, auto, shared, True))
        indices = "its input is not real numbers: no delta passes" if auto_out is None else ""
        note = "; ".join(n for n in (back.note, indices, "frozen weights: no gradient is taken for them" if frozen else "") if n)
        step = Step(
            label,
            type(call.module).__name__,
            _kind(call, a, z),
            back.family,
            a,
            z,
            back.local,
            back.formula,
            own,
            back.delta_out,
            gain(own, back.delta_out) if auto_out is not None else math.nan,
            tuple(gradients),
            error,
            arrives,
            None,
            note,
            symbol=back.symbol,
            bias=back.bias,
        )
        return step, parts

    def whole(self, call: watch.Call, a: Tensor, auto_out: Tensor | None) -> Backward:
        """A module without a rule here: its vector-Jacobian product, by autograd."""
        assert call.output is not None
        passed = torch.zeros_like(a) if auto_out is None else auto_out
        local = _elementwise(call, call.input, call.output) if auto_out is not None and call.output.requires_grad else None
        if local is not None:
            name = type(call.module).__name__
            note = "no rule of its own here: probing shows that it works element by element, and f′(z) is autograd's"
            return Backward(passed, "activation", f"{name}′", "f′(z), by autograd", local, [], note)
        note = "traced as a whole by its vector-Jacobian product (autograd); its inner factors are not shown"
        if call.others:
            note += f"; it returns {call.others + 1} tensors, of which the first is shown"
        if call.extra:
            note += f"; it takes {call.extra + 1} tensors, and the delta is that of the first"
        return Backward(passed, "module", type(call.module).__name__, "dL/da = vector-Jacobian product, by autograd", None, [], note)


def trace_backprop(model: nn.Module, x: Any, y: Any, loss: str | Callable[..., Any]) -> Trace:
    """Follow one backward pass through `model`, factor by factor.

    Any `nn.Sequential` (nested too) of Linear, Conv2d, Flatten, pooling, Dropout, BatchNorm and the activations of `torch.nn` is opened
    down to its factors. Another module is shown as a whole, by its vector-Jacobian product, with a note that says so; a model of your own
    is followed through the modules that it calls. The pass runs on a float64 copy in eval mode (dropout off, BatchNorm by its running
    statistics): weights, gradients, mode and random streams of `model` stay as they are, bit for bit.

    Args:
        model: any `torch.nn.Module` that returns one tensor and has a parameter that needs a gradient.
        x: one example, or a batch (N, ...); numbers are accepted.
        y: its target, or a batch of N targets, in the form that `loss` takes.
        loss: a callable `loss(output, y)` that returns one number (torch's, fallline's or your own), or the name of a fallline loss.

    Returns:
        A `Trace`: `.steps`, `.loss`, `.gradients`, `.verdict`, `.text()`, `.html()`, `.to_html(path)`. With a batch, deltas are kept for
        each example, and gradients are summed over them (a mean loss has its 1/N in the first delta).

    Raises:
        FalllineError: a shape that does not fit, a loss that is not one number, a model that needs no gradient or cannot be run.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Sigmoid())
    >>> _ = model[0].weight.data.fill_(2.0), model[0].bias.data.fill_(0.0)
    >>> trace = trace_backprop(model, [0.5], [1.0], torch.nn.BCELoss())
    >>> factor = trace.steps[0].gradients[0].scalars[0]
    >>> factor.symbol, factor.formula, round(factor.value, 4)
    ('dL/dw11', 'δ1 · x1', -0.1345)
    >>> trace.agrees
    True
    """
    if not isinstance(model, nn.Module):
        raise FalllineError(f"`model` must be a torch.nn.Module, but got {type(model).__name__}.")
    with watch.untouched():
        function, name = topmost.build(loss)
        inputs, target = _real(x, "x"), _real(y, "y")
        twin = watch.duplicate(model)
        inputs, target, single = _batch(twin, inputs, target)
        if not inputs.is_floating_point() and not _takes_integers(twin):
            inputs = inputs.double()
        out, calls, last = watch.run(twin, inputs)
        if not out.requires_grad:
            raise FalllineError("the model's output does not depend on its parameters through differentiable code; do not detach it.")
        shown, target = topmost.fit_target(function, out, target, single)
        value = topmost.measure(function, shown, target)
        walk = _Walk(twin, calls, value, out, last)
        part = topmost.describe(function, name, value, shown, target, walk.top.reshape(shown.shape))
        steps, parts = _walk_back(walk, part.delta.reshape(out.shape))
    gradients = _totals(walk, parts)
    _simplify(steps, part)
    verdict = judge(steps, part.delta, walk.strict)
    named = name_steps(steps, [c.module for c in calls], walk.strict)
    if named:
        _add_scalars(steps)
    errors = [part.error, *(s.error for s in steps), *(c.error for c in gradients.values())]
    notes = _notes(model, walk, steps)
    kind = type(getattr(model, "_orig_mod", model)).__name__
    return Trace(kind, steps, part, gradients, verdict, len(inputs), notes, max(errors), named)


def _simplify(steps: list[Step], part: LossPart) -> None:
    """Say where the loss and the last activation were made for each other, so that their factors multiply to ŷ − y."""
    if not steps or steps[-1].arrives != "the loss" or not part.closed_form or steps[-1].kind != "Sigmoid":
        return
    gap = (part.prediction - part.target) / part.prediction.numel()
    if topmost.relative(steps[-1].delta_out, gap.reshape(steps[-1].delta_out.shape)) < 1e-9:
        over = " / n" if gap.numel() > 1 else ""
        steps[-1].note = f"sigmoid and cross-entropy were made for each other: dL/dŷ · σ′(z) = (ŷ − y){over}"


def _takes_integers(model: nn.Module) -> bool:
    return any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in model.modules())


def _walk_back(walk: _Walk, top: Tensor) -> tuple[list[Step], dict[str, Tensor]]:
    totals: dict[str, Tensor] = {}
    names = [c.name for c in walk.calls]
    steps: list[Step] = []
    passed: list[Tensor] = []
    for at in reversed(range(len(walk.calls))):
        again = names.count(names[at]) > 1
        label = f"{names[at]} (use {names[: at + 1].count(names[at])})" if again else names[at]
        own, arrives = walk.delta(at, top, passed)
        step, parts = walk.step(at, own, arrives, label)
        passed.append(step.delta_out)
        steps.append(step)
        for name, gradient in parts:
            totals[name] = totals[name] + gradient if name in totals else gradient
    return steps[::-1], totals


def _totals(walk: _Walk, parts: dict[str, Tensor]) -> dict[str, Check]:
    checks = {}
    for parameter in walk.parameters:
        name, auto = walk.names[id(parameter)], walk.auto[id(parameter)]
        own = parts.get(name)
        error = topmost.relative(own, auto) if own is not None else 0.0
        elsewhere = own is None or (not walk.strict and error > 1e-6)
        checks[name] = Check(name, auto if elsewhere or own is None else own, auto, 0.0 if elsewhere else error, elsewhere)
    return checks


def _add_scalars(steps: list[Step]) -> None:
    for step in steps:
        if step.kind != "Linear":
            continue
        added = []
        for g in step.gradients:
            make = weight_factors if g.value.dim() == 2 else bias_factors
            auto = g.value if g.shared else g.autograd
            added.append(Gradient(g.parameter, g.formula, g.value, g.autograd, g.shared, g.by_autograd, make(step, step.delta_in, auto)))
        step.gradients = tuple(added)


def _notes(model: nn.Module, walk: _Walk, steps: list[Step]) -> list[str]:
    notes = []
    if model.training and any("Dropout" in s.kind or "Norm" in s.kind for s in steps):
        notes.append("The model is in training mode; it was traced in eval mode (dropout off, normalisation by running statistics).")
    if any(s.arrives == "autograd" for s in steps):
        notes.append("Code between the modules (sums, views, functions) is not shown: the delta behind it is autograd's.")
    if walk.shared:
        notes.append("Weights used several times: their gradient is the sum over the uses.")
    covered = {g.parameter for s in steps for g in s.gradients}
    rest = [walk.names[id(p)] for p in walk.parameters if walk.names[id(p)] not in covered]
    if rest:
        notes.append(f"Used by code outside the modules shown, so that the gradient is autograd's alone: {', '.join(rest)}.")
    return notes
