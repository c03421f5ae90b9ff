"""A small network as an inline SVG: weights and their gradients on the edges, values and deltas on the nodes."""

import re
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from fallline.teach.digits import number
from fallline.teach.naming import delta_name, weight_name
from fallline.teach.steps import Step

if TYPE_CHECKING:
    from fallline.teach.backprop import Trace

ACROSS, DOWN, RADIUS = 290, 156, 36
MOST_COLUMNS, MOST_NODES, LABELLED = 9, 8, 9


@dataclass
class Node:
    """One unit: its value before and after the activation, its delta, its bias; `feeds` are the edges that enter it."""

    name: str
    value: float
    before: str = ""
    delta: str = ""
    bias: str = ""
    edges: list[tuple[int, str, str, float]] = field(default_factory=list)


def columns(trace: "Trace") -> list[list[Node]]:
    """The nodes, column by column, from the inputs to the output (values of the first example)."""
    first = trace.steps[0]
    found = [[Node(n, float(first.input[0, i])) for i, n in enumerate(first.names_in)]]
    fresh = False
    for step in trace.steps:
        if step.family == "shape":
            continue
        if step.kind == "Linear":
            found.append(_units(step))
            fresh = True
        elif fresh and step.local is not None and step.local.shape == step.input.shape:
            for i, node in enumerate(found[-1]):
                node.before = f"{node.name} = {number(node.value)}"
                node.name, node.value = step.names_out[i], float(step.output[0, i])
            fresh = False
        else:
            full = len(step.names_in) != len(step.names_out) or step.local is None or step.local.shape != step.input.shape
            column = []
            for i, name in enumerate(step.names_out):
                sources = range(len(step.names_in)) if full else [i]
                node = Node(name, float(step.output[0, i]), edges=[(j, "", "", 0.0) for j in sources])
                node.delta = f"{delta_name(name)} = {number(float(step.delta_in[0, i]))}"
                column.append(node)
            found.append(column)
            fresh = False
    return found


def _units(step: Step) -> list[Node]:
    grads = {f.symbol: f.value for g in step.gradients for f in g.scalars}
    nodes = []
    for o, target in enumerate(step.names_out):
        node = Node(target, float(step.output[0, o]), delta=f"{delta_name(target)} = {number(float(step.delta_in[0, o]))}")
        if step.bias is not None:
            node.bias = f"b{target[1:]} = {number(float(step.bias[o]))}"
        for i, source in enumerate(step.names_in):
            name = weight_name(source, target)
            slope = grads.get(f"dL/d{name}")
            weight = float(step.local[o, i]) if step.local is not None else 0.0
            shown = "" if slope is None else f"∂ {number(slope)}"
            node.edges.append((i, f"{name} = {number(weight)}", shown, abs(slope or 0.0)))
        nodes.append(node)
    return nodes


def _label(words: str) -> str:
    """Words with their indices lowered: `w13 = 0.7`, `dL/da1 = 2`."""
    words = words.replace("dL/d", "∂L/∂")
    found = re.match(r"(∂L/∂)?([wabxzδŷ])([\d,]+)(.*)", words, re.DOTALL)
    if not found:
        return escape(words)
    head, letter, index, rest = found.groups()
    return f'{head or ""}{letter}<tspan dy="3.5" font-size="72%">{index}</tspan><tspan dy="-3.5">{escape(rest)}</tspan>'


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" class="{kind}">{_label(words)}</text>'


def draw(trace: "Trace") -> str:
    """The SVG, or "" where the network is too large to be drawn."""
    if not trace.named:
        return ""
    layers = columns(trace)
    tallest = max(len(c) for c in layers)
    if len(layers) > MOST_COLUMNS or tallest > MOST_NODES:
        return ""
    height = (tallest - 1) * DOWN + 190
    width = (len(layers) - 1) * ACROSS + 90 + 250

    def place(column: int, row: int) -> tuple[float, float]:
        return 60 + column * ACROSS, height / 2 + (row - (len(layers[column]) - 1) / 2) * DOWN

    steepest = max([e[3] for c in layers for n in c for e in n.edges] or [0.0])
    lines, labels, nodes = [], [], []
    for at, column in enumerate(layers):
        busy = sum(len(n.edges) for n in column) > LABELLED
        for row, node in enumerate(column):
            x, y = place(at, row)
            for source, weight, slope, size in node.edges:
                x0, y0 = place(at - 1, source)
                thick = 1.2 + 4.3 * (size / steepest if steepest > 0 else 0)
                tip = f"<title>{escape(weight)}  {escape(slope)}</title>" if weight else ""
                lines.append(f'<line x1="{x0:.0f}" y1="{y0:.0f}" x2="{x:.0f}" y2="{y:.0f}" stroke-width="{thick:.2f}">{tip}</line>')
                if weight and not busy:
                    t = 0.5 if len(layers[at - 1]) == 1 or len(column) == 1 else 0.35
                    lx, ly = x0 + t * (x - x0), y0 + t * (y - y0)
                    labels.append(_text(lx, ly - 4, weight, "w") + _text(lx, ly + 13, slope, "back"))
            nodes.append(_node(x, y, node))
    nodes.append(
        _loss(trace, 60 + (len(layers) - 1) * ACROSS, height / 2, [place(len(layers) - 1, i) for i in range(len(layers[-1]))], lines)
    )
    return (
        f'<svg class="net" viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
        f'aria-label="The network with its values and gradients">'
        f'<g class="edges">{"".join(lines)}</g><g class="labels">{"".join(labels)}</g>{"".join(nodes)}</svg>'
    )


def _node(x: float, y: float, node: Node) -> str:
    parts = [
        f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{RADIUS}"/>',
        _text(x, y - 4, node.name, "name"),
        _text(x, y + 15, number(node.value), "fore"),
    ]
    above = [w for w in (node.bias, node.before) if w]
    for i, words in enumerate(reversed(above)):
        parts.append(_text(x, y - RADIUS - 9 - 17 * i, words, "fore" if words == node.before else "soft"))
    if node.delta:
        parts.append(_text(x, y + RADIUS + 19, node.delta, "back"))
    return "".join(parts)


def _loss(trace: "Trace", x: float, y: float, ends: list[tuple[float, float]], lines: list[str]) -> str:
    left = x + 130
    for end_x, end_y in ends:
        lines.append(f'<line x1="{end_x:.0f}" y1="{end_y:.0f}" x2="{left:.0f}" y2="{y:.0f}" stroke-width="1.2" stroke-dasharray="4 4"/>')
    part = trace.loss
    words = [_text(left + 60, y - 6, "loss L", "name"), _text(left + 60, y + 14, number(part.value), "fore")]
    if part.target.numel() == 1:
        words.append(_text(left + 60, y - RADIUS - 9, f"y = {number(float(part.target.reshape(-1)[0]))}", "fore"))
    if part.delta.numel() == 1:
        output = trace.steps[-1].names_out[0]
        words.append(_text(left + 60, y + RADIUS + 19, f"dL/d{output} = {number(float(part.delta.reshape(-1)[0]))}", "back"))
    return f'<rect x="{left:.0f}" y="{y - RADIUS:.0f}" width="120" height="{2 * RADIUS}" rx="12"/>{"".join(words)}'
