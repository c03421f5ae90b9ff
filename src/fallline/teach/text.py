"""A trace as aligned text: forward, loss, backward, verdict."""

import math
from typing import TYPE_CHECKING

from torch import Tensor

from fallline.teach.digits import number, term
from fallline.teach.marks import THRESHOLDS, size
from fallline.teach.naming import delta_name, weight_name
from fallline.teach.steps import Factor, Step

if TYPE_CHECKING:
    from fallline.teach.backprop import Trace

SHOWN = 2


def product(factor: Factor, row: tuple[float, ...]) -> str:
    """The factors of one example as numbers, negative ones behind the first in brackets."""
    return " · ".join(term(v) if i else number(v) for i, v in enumerate(row))


def in_numbers(factor: Factor) -> str:
    """The right-hand side of a factor in numbers, the sum over examples written out where it is short."""
    rows = [product(factor, row) for row in factor.terms]
    if len(rows) == 1:
        return rows[0]
    if len(rows) > SHOWN:
        return f"{rows[0]} + … ({len(rows)} examples)"
    return " + ".join(f"({row})" for row in rows)


def zero(factor: Factor) -> str:
    """Which factor made a gradient exactly 0, if one did."""
    if factor.value != 0 or len(factor.names) < 2:
        return ""
    for i, name in enumerate(factor.names):
        if all(row[i] == 0 for row in factor.terms):
            return f"{name} = 0, so this weight is not moved"
    return ""


def brief(tensor: Tensor) -> str:
    """A large tensor in one line: its shape, norm and range."""
    form = "×".join(str(n) for n in tensor.shape)
    if tensor.numel() == 1:
        return number(float(tensor.reshape(-1)[0]))
    if tensor.numel() <= 4:
        return "[" + ", ".join(number(float(v)) for v in tensor.flatten()) + "]"
    low, high = float(tensor.min()), float(tensor.max())
    return f"{form}, norm {number(size(tensor))}, from {number(low)} to {number(high)}"


def per_example(tensor: Tensor, column: int) -> str:
    """One value of a small network, for each example."""
    values = [number(float(v)) for v in tensor[:, column]]
    return values[0] if len(values) == 1 else "[" + ", ".join(values[:6]) + (", …]" if len(values) > 6 else "]")


def applied(step: Step, unit: int) -> str:
    """The activation of one unit in symbols: `σ(z3)`; where a unit sees all of its row, the row and which entry of it."""
    name = step.symbol.rstrip("′")
    if step.local is not None and step.local.shape == step.input.shape:
        return f"{name}({step.names_in[unit]})"
    return f"entry {unit + 1} of {name}({', '.join(step.names_in)})"


def weighted_sum(step: Step, unit: int) -> tuple[str, str]:
    """`w13 a1 + w23 a2 + b3`, in symbols and in the numbers of the first example."""
    weight, bias = step.local, step.bias
    if weight is None:
        return step.formula, ""
    symbols = [f"{weight_name(s, step.names_out[unit])} {s}" for s in step.names_in]
    numbers = [
        f"{term(float(weight[unit, i])) if i else number(float(weight[unit, i]))}·{term(float(step.input[0, i]))}"
        for i in range(len(step.names_in))
    ]
    if bias is not None:
        symbols.append(f"b{step.names_out[unit][1:]}")
        numbers.append(term(float(bias[unit])))
    return " + ".join(symbols), " + ".join(numbers)


def table(rows: list[tuple[str, ...]], indent: int = 4) -> list[str]:
    """Rows as aligned columns."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(len(r) for r in rows))]
    return [(" " * indent + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False))).rstrip() for row in rows]


def _forward(trace: "Trace") -> list[str]:
    lines = ["FORWARD", ""]
    for step in trace.steps:
        lines.append(f"  {step.layer}  {step.kind}  {step.shape}")
        if trace.named:
            rows = []
            for i, name in enumerate(step.names_out):
                value = per_example(step.output, i)
                if step.kind == "Linear":
                    symbols, numbers = weighted_sum(step, i)
                    rows.append((name, f"= {symbols}", *((f"= {numbers}",) if trace.examples == 1 else ()), f"= {value}"))
                elif step.family == "activation":
                    rows.append((name, f"= {applied(step, i)}", f"= {value}"))
                elif step.family == "norm":
                    rows.append((name, f"= γ ({step.names_in[i]} − mean)/√(var + ε) + β", f"= {value}"))
            lines += table(rows) or ["    values pass on unchanged"]
        else:
            lines.append(f"    {brief(step.output)}")
    return lines


def head(trace: "Trace") -> str:
    """What the derivative of the loss is called: dL/dŷ, and δ3 as well where the last layer is a Linear."""
    last = trace.steps[-1].names_out if trace.named else ()
    return f"{delta_name(last[0])} = dL/dŷ" if len(last) == 1 and last[0].startswith("z") else "dL/dŷ"


def alias(trace: "Trace") -> str:
    """Says that the prediction is the last sum, where no activation follows it."""
    last = trace.steps[-1].names_out if trace.named else ()
    return f"      (ŷ = {last[0]})" if len(last) == 1 and last[0].startswith("z") else ""


def _loss(trace: "Trace") -> list[str]:
    part = trace.loss
    lines = ["LOSS", "", f"  {part.name}:  L = {part.formula} = {number(part.value)}"]
    lines.append(f"    {head(trace)} = {part.derivative} = {brief(part.delta)}{alias(trace)}")
    return lines


def _backward_named(step: Step) -> list[str]:
    lines: list[str] = []
    if step.family == "activation" and step.local is not None and step.local.shape == step.input.shape:
        lines.append(f"    {step.formula}")
        rows = []
        for i, (value, before) in enumerate(zip(step.names_out, step.names_in, strict=True)):
            upper, lower = delta_name(value), delta_name(before)
            first = f"{lower} = {upper} · {step.symbol}({before})"
            f = Factor(lower, (upper, "f"), tuple(zip(step.delta_in[:, i].tolist(), step.local[:, i].tolist(), strict=True)), 0.0, 0.0)
            numbers = product(f, f.terms[0]) if len(f.terms) == 1 else None
            rows.append((first, *((f"= {numbers}",) if numbers else ()), f"= {per_example(step.delta_out, i)}"))
        lines += table(rows)
    elif step.kind == "Linear":
        rows = []
        for gradient in step.gradients:
            for f in gradient.scalars:
                why = zero(f)
                rows.append((f.symbol, f"= {f.formula}", f"= {in_numbers(f)}", f"= {number(f.value)}", f"← {why}" if why else ""))
        lines += table(rows)
        rows = []
        for i, source in enumerate(step.names_in):
            symbols = " + ".join(f"{weight_name(source, t)} {delta_name(t)}" for t in step.names_out)
            rows.append((delta_name(source), f"= {symbols}", f"= {per_example(step.delta_out, i)}"))
        lines += table(rows)
    elif step.family == "shape":
        lines.append("    the delta passes on unchanged")
    else:
        lines.append(f"    {step.formula}")
        rows = [(delta_name(n), f"= {per_example(step.delta_out, i)}") for i, n in enumerate(step.names_in)]
        lines += table(rows)
        lines += table([(f"dL/d {g.parameter}", f"= {g.formula}", f"= {brief(g.value)}") for g in step.gradients])
    return lines


def _backward_large(step: Step) -> list[str]:
    rows = [("delta in", brief(step.delta_in)), ("rule", step.formula)]
    if step.local is not None:
        rows.append((f"local {step.symbol}", brief(step.local)))
    rows.append(("delta out", f"{brief(step.delta_out)}  ({number(step.gain)} times)"))
    rows += [(f"dL/d {g.parameter}", f"{brief(g.value)}   {g.formula}") for g in step.gradients]
    return table(rows)


def _backward(trace: "Trace") -> list[str]:
    lines = ["BACKWARD", ""]
    for step in reversed(trace.steps):
        lines.append(f"  {step.layer}  {step.kind}" + (f"   ◀ {step.mark.problem.upper()}: {step.mark.say}" if step.mark else ""))
        if step.arrives == "autograd":
            lines.append("    (the delta arrives through code between the modules: autograd's)")
        lines += _backward_named(step) if trace.named else _backward_large(step)
        if step.note:
            lines.append(f"    note: {step.note}")
    return lines


def _sizes(trace: "Trace") -> list[str]:
    lines = ["HOW LARGE THE DELTA IS ON ITS WAY BACK", ""]
    norms = [size(trace.loss.delta), *(size(step.delta_out) for step in reversed(trace.steps))]
    logs = [math.log10(n) for n in norms if 0 < n < float("inf")]
    low, span = (min(logs), max(logs) - min(logs)) if logs else (0.0, 0.0)

    def bar(norm: float) -> str:
        return "█" * (1 + round(35 * (math.log10(norm) - low) / span)) if span > 1 and 0 < norm < float("inf") else ""

    rows: list[tuple[str, ...]] = [("", "loss", number(norms[0]), "", bar(norms[0]), "")]
    for step, norm in zip(reversed(trace.steps), norms[1:], strict=True):
        factor = "" if math.isnan(step.gain) else f"× {number(step.gain)}"
        rows.append((step.layer, step.kind, number(norm), factor, bar(norm), "◀" if step.mark else ""))
    scale = "(logarithmic)" if span > 1 else ""
    return lines + table([("layer", "kind", "‖delta out‖", "factor", scale, ""), *rows], 2)


def render(trace: "Trace") -> str:
    """The whole text."""
    count = f"{trace.examples} example{'s' if trace.examples != 1 else ''}"
    title = f"Back-propagation through {trace.model}, {count}"
    notes = [f"note: {n}" for n in trace.notes]
    checked = f"largest difference from autograd: {number(trace.largest_error)} relative"
    tail = [
        trace.verdict.say,
        f"({THRESHOLDS}.)",
        f"{'Every number agrees with autograd' if trace.agrees else 'NOT all numbers agree'}; {checked}.",
    ]
    parts = [[title, "═" * len(title), *notes], _forward(trace), _loss(trace), _backward(trace), _sizes(trace), tail]
    return "\n\n".join("\n".join(p) for p in parts) + "\n"
