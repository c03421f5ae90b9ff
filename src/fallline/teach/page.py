"""A trace as one self-contained page: the network drawn, the chain rule factor by factor, the size of the delta on its way back."""

import math as numbers
from html import escape
from typing import TYPE_CHECKING

from torch import Tensor

from fallline.teach.digits import number, term
from fallline.teach.marks import THRESHOLDS, size
from fallline.teach.naming import delta_name, weight_name
from fallline.teach.notation import math
from fallline.teach.picture import draw
from fallline.teach.steps import Factor, Step
from fallline.teach.text import alias, applied, brief, head, in_numbers, per_example, product, weighted_sum, zero

if TYPE_CHECKING:
    from fallline.teach.backprop import Trace

STYLE = """
.net{display:block;width:100%;margin:0 auto;font-size:14px}
.net text{fill:var(--ink);paint-order:stroke;stroke:var(--surface);stroke-width:5px;stroke-linejoin:round}
.net circle,.net rect{fill:var(--surface);stroke:var(--faint);stroke-width:1.5}
.net .edges line{stroke:color-mix(in srgb,var(--s2) 45%,var(--line))}
.net .name{font-weight:640;font-size:15px}.net .soft{fill:var(--soft);font-size:13px}.net .w{font-size:13px}
.net .fore,.fore{fill:var(--accent);color:var(--accent)}.net .back,.back{fill:var(--s2);color:var(--s2)}
.net .back{font-size:13.5px;font-weight:600}
.layer{background:var(--surface);border:1px solid var(--line);border-radius:12px;padding:16px 20px 8px;margin-top:16px}
.layer.marked{border-color:var(--bad);box-shadow:inset 4px 0 0 var(--bad)}
.layer>header{display:flex;flex-wrap:wrap;gap:4px 14px;align-items:baseline}
.layer .what{color:var(--soft);font-size:14px;margin-left:auto}
.layer .rule{margin:6px 0 2px;font-size:17px}
.layer math{font-size:1.06em}
table.chain{width:auto;min-width:0}
table.chain td{border-bottom:0;padding:3px 12px 3px 0;vertical-align:middle;white-space:nowrap}
table.chain td.v{font-weight:640;text-align:right}table.chain td.ok{color:var(--good);font-size:13px}
table.chain tr.cut td{padding-top:12px}
table.chain td.why{color:var(--soft);font-size:13.5px}
.layer .scroll{margin-top:10px}.layer .rule .what{margin-left:20px}
.netbox{overflow-x:auto}@media (max-width:820px){.net{min-width:680px}}
.way{display:grid;grid-template-columns:auto auto minmax(80px,1fr) auto auto;gap:7px 16px;align-items:center;font-size:14.5px}
.way .r{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.way .soft{color:var(--soft)}
.way .rail{background:var(--sunken);border-radius:5px;height:14px}.way .fill{height:14px;border-radius:5px;background:var(--s2);opacity:.75;
min-width:3px}
.way.ill .fill{background:var(--faint);opacity:.45}.way.ill .fill.hot{background:var(--bad);opacity:1}
.way .bad{color:var(--bad);font-weight:620}
.two{display:flex;flex-wrap:wrap;gap:6px 22px;margin:8px 0 0;font-size:14px;color:var(--soft)}
"""


def _cell(words: str, kind: str = "") -> str:
    return f'<td class="{kind}">{words}</td>' if kind else f"<td>{words}</td>"


def _row(*cells: str, cut: bool = False) -> str:
    return f"<tr{' class=cut' if cut else ''}>{''.join(cells)}</tr>"


def _scroll(rows: list[str]) -> str:
    return f'<div class="scroll"><table class="chain">{"".join(rows)}</table></div>' if rows else ""


def _fore(words: str) -> str:
    return f'<span class="fore">{words}</span>'


def _back(words: str) -> str:
    return f'<span class="back">{words}</span>'


def _forward(trace: "Trace") -> str:
    rows = []
    for step in trace.steps:
        for i, name in enumerate(step.names_out):
            value, cut = _fore(escape(per_example(step.output, i))), i == 0
            if step.kind == "Linear":
                symbols, shown = weighted_sum(step, i)
                middle = _cell(math(f"= {shown}")) if trace.examples == 1 else _cell("")
                rows.append(_row(_cell(math(name)), _cell(math(f"= {symbols}")), middle, _cell("="), _cell(value, "v"), cut=cut))
            elif step.family == "activation":
                rule = _cell(math(f"= {applied(step, i)}"))
                rows.append(_row(_cell(math(name)), rule, _cell(""), _cell("="), _cell(value, "v"), cut=cut))
            elif step.family == "norm":
                rule = math(f"= γ ({step.names_in[i]} − mean)/√(var + ε) + β")
                rows.append(_row(_cell(math(name)), _cell(rule), _cell(""), _cell("="), _cell(value, "v"), cut=cut))
    return _scroll(rows)


def _grid(heads: list[str], rows: list[list[str]], words: int) -> str:
    """A plain table whose first `words` columns are words and the rest numbers."""

    def line(cells: list[str], tag: str) -> str:
        return "".join(f"<{tag}{'' if i < words else ' class=n'}>{escape(c)}</{tag}>" for i, c in enumerate(cells))

    body = "".join(f"<tr>{line(r, 'td')}</tr>" for r in rows)
    return f'<div class="scroll"><table><thead><tr>{line(heads, "th")}</tr></thead><tbody>{body}</tbody></table></div>'


def _forward_large(trace: "Trace") -> str:
    rows = []
    for s in trace.steps:
        rows.append([s.layer, s.kind, s.shape, number(size(s.output)), number(float(s.output.min())), number(float(s.output.max()))])
    return _grid(["layer", "kind", "shape", "norm", "least", "largest"], rows, 3)


def _activation_rows(step: Step, local: Tensor) -> list[str]:
    rows = []
    for i, (value, before) in enumerate(zip(step.names_out, step.names_in, strict=True)):
        upper, lower = delta_name(value), delta_name(before)
        pairs = tuple(zip(step.delta_in[:, i].tolist(), local[:, i].tolist(), strict=True))
        factor = Factor(lower, (upper, "f"), pairs, 0.0, 0.0)
        middle = math(f"= {product(factor, pairs[0])}") if len(pairs) == 1 else ""
        rows.append(
            _row(
                _cell(math(lower)),
                _cell(math(f"= {upper} · {step.symbol}({before})")),
                _cell(middle),
                _cell("="),
                _cell(_back(escape(per_example(step.delta_out, i))), "v"),
            )
        )
    return rows


def _weight_rows(step: Step) -> list[str]:
    """Each entry of the weights' and biases' gradients as a product."""
    rows = []
    for gradient in step.gradients:
        for f in gradient.scalars:
            same = (
                f"✓ autograd {number(f.autograd)}"
                if abs(f.value - f.autograd) <= 1e-7 * max(abs(f.value), abs(f.autograd))
                else "✗ differs"
            )
            same = same if not gradient.shared else ""
            cells = [_cell(math(f.symbol)), _cell(math(f"= {f.formula}")), _cell(math(f"= {in_numbers(f)}")), _cell("=")]
            rows.append(_row(*cells, _cell(_back(number(f.value)), "v"), _cell(same, "ok"), _cell(escape(zero(f)), "why")))
    return rows


def _delta_rows(step: Step) -> list[str]:
    """The delta that a Linear layer passes on, as a sum over its units."""
    rows = []
    for i, source in enumerate(step.names_in):
        terms = [(weight_name(source, t), delta_name(t)) for t in step.names_out]
        symbols = " + ".join(f"{w} {d}" for w, d in terms)
        shown = ""
        if len(step.delta_in) == 1 and step.local is not None:
            pairs = [(float(step.local[o, i]), float(step.delta_in[0, o])) for o in range(len(terms))]
            shown = "= " + " + ".join(f"{term(w) if at else number(w)}·{term(d)}" for at, (w, d) in enumerate(pairs))
        value = _back(escape(per_example(step.delta_out, i)))
        cells = [_cell(math(delta_name(source))), _cell(math(f"= {symbols}")), _cell(math(shown) if shown else ""), _cell("=")]
        rows.append(_row(*cells, _cell(value, "v")))
    return rows


def _opened(step: Step) -> str:
    if step.family == "activation" and step.local is not None and step.local.shape == step.input.shape:
        return f'<p class="rule">{math(step.formula)}</p>{_scroll(_activation_rows(step, step.local))}'
    if step.kind == "Linear":
        return _scroll(_weight_rows(step)) + _scroll(_delta_rows(step))
    if step.family == "shape":
        return '<p class="note">The delta passes on unchanged.</p>'
    rows = [
        _row(_cell(math(delta_name(n))), _cell("="), _cell(_back(per_example(step.delta_out, i)), "v")) for i, n in enumerate(step.names_in)
    ]
    return f'<p class="rule">{math(step.formula)}</p>{_scroll(rows)}{_weights(step)}'


def _weights(step: Step) -> str:
    rows = [
        _row(_cell(f"∂L/∂ {escape(g.parameter)}"), _cell(math(f"= {g.formula}")), _cell(escape(brief(g.value)), "v"))
        for g in step.gradients
    ]
    return _scroll(rows)


def _summary(step: Step) -> str:
    rows = [_row(_cell("delta in"), _cell(_back(escape(brief(step.delta_in)))))]
    if step.local is not None:
        rows.append(_row(_cell(f"local {escape(step.symbol)}"), _cell(escape(brief(step.local)))))
    rows.append(_row(_cell("delta out"), _cell(_back(escape(brief(step.delta_out))))))
    rows += [
        _row(_cell(f"∂L/∂ {escape(g.parameter)}"), _cell(_back(escape(brief(g.value)))), _cell(math(f"= {g.formula}")))
        for g in step.gradients
    ]
    return f'<p class="rule">{math(step.formula)}</p>{_scroll(rows)}'


def _layer(trace: "Trace", step: Step) -> str:
    tag = f'<span class="tag bad">{escape(step.mark.problem)}: {escape(step.mark.say)}</span>' if step.mark else ""
    body = _opened(step) if trace.named else _summary(step)
    if step.arrives == "autograd":
        body = '<p class="note">The delta arrives through code between the modules: it is autograd’s.</p>' + body
    note = f'<p class="note">{escape(step.note)}</p>' if step.note else ""
    passed = "no delta arrives" if numbers.isnan(step.gain) else f"the delta × {number(step.gain)}"
    head = f'<h3>{escape(step.layer)} · {escape(step.kind)}</h3>{tag}<span class="what">{escape(step.shape)}, {passed}</span>'
    return f'<div class="layer{" marked" if step.mark else ""}"><header>{head}</header>{body}{note}</div>'


def _way(trace: "Trace") -> str:
    stops = [("loss", trace.loss.name, size(trace.loss.delta), numbers.nan, False)]
    stops += [(s.layer, s.kind, size(s.delta_out), s.gain, bool(s.mark)) for s in reversed(trace.steps)]
    logs = [numbers.log10(v) for _, _, v, _, _ in stops if 0 < v < numbers.inf]
    low, high = (min(logs), max(logs)) if logs else (0.0, 0.0)
    span = max(high - low, 1.0)
    cells = []
    for layer, kind, value, factor, hot in stops:
        part = (numbers.log10(value) - low + 0.06 * span) / (1.06 * span) if 0 < value < numbers.inf else 1.0 if value else 0.0
        bar = (
            f'<div class="rail"><div class="fill{" hot" if hot else ""}" style="width:{100 * part:.1f}%"></div></div>'
            if value
            else '<div class="rail"></div>'
        )
        gained = "" if numbers.isnan(factor) else f"× {number(factor)}"
        cells.append(f'<span>{escape(layer)}</span><span class="soft">{escape(kind)}</span>{bar}<span class="r">{number(value)}</span>')
        cells.append(f'<span class="r{" bad" if hot else " soft"}">{gained}</span>')
    ill = " ill" if trace.verdict.problem != "none" else ""
    return f'<div class="way{ill}">{"".join(cells)}</div>'


def _checks(trace: "Trace") -> str:
    rows = []
    for check in trace.gradients.values():
        difference = "autograd’s own" if check.by_autograd else number(check.error)
        form = "×".join(str(n) for n in check.value.shape) or "1"
        rows.append([check.parameter, form, number(size(check.value)), number(size(check.autograd)), difference])
    return _grid(["parameter", "shape", "norm", "autograd", "difference, relative"], rows, 2)


def _cards(trace: "Trace") -> str:
    ratio = trace.verdict.ratio
    cards = [
        ("loss", number(trace.loss.value), trace.loss.name),
        ("examples", str(trace.examples), "deltas for each, gradients summed" if trace.examples > 1 else "followed number by number"),
        ("delta at the first weights", f"× {number(ratio)}", "of its size at the output"),
        ("agrees with autograd", "yes" if trace.agrees else "no", f"largest difference {number(trace.largest_error)}"),
    ]
    inner = "".join(
        f'<div class="card"><dt>{escape(a)}</dt><dd>{escape(b)}<div class="more">{escape(c)}</div></dd></div>' for a, b, c in cards
    )
    return f'<dl class="cards">{inner}</dl>'


def _section(name: str, title: str, says: str, body: str) -> str:
    return f'<section id="{name}"><h2>{title}</h2><p class="sub">{says}</p>{body}</section>'


def _network(trace: "Trace", drawing: str) -> str:
    says = (
        f"{_fore('Forward values')}, and {_back('derivatives of the loss')} on their way back. Each line carries its weight and "
        "the gradient of it: the larger the gradient, the thicker the line."
    )
    if trace.examples > 1:
        says += f" Values and deltas are those of the first of {trace.examples} examples; gradients are of all."
    return _section("network", "The network", says, f'<figure class="wide"><div class="netbox">{drawing}</div></figure>')


def _back_pass(trace: "Trace") -> str:
    part = trace.loss
    top = (
        f'<div class="layer"><header><h3>Loss · {escape(part.name)}</h3></header>'
        f'<p class="rule">{math(f"L = {part.formula} = {number(part.value)}")}</p>'
        f'<p class="rule">{math(head(trace))} {math(f"= {part.derivative} =")} {_back(escape(brief(part.delta)))}'
        f'<span class="what">{math(alias(trace)) if alias(trace) else ""}</span></p></div>'
    )
    says = (
        "From the loss to the inputs: each layer takes the delta that arrives, multiplies it by its local derivative, passes it on, and "
        "leaves a gradient at its weights."
    )
    return _section("backward", "Backward", says, top + "".join(_layer(trace, s) for s in reversed(trace.steps)))


TITLES = {"vanishing": "The gradient vanishes", "exploding": "The gradient explodes", "not finite": "The gradient is not finite"}


def render(trace: "Trace") -> str:
    """The page: nothing is loaded from elsewhere, and no text of the user's is left unescaped."""
    from fallline.report.page import page

    says = "Norm of the delta behind each layer, on a logarithmic scale, and the factor by which the layer changed it."
    drawing, ill = draw(trace), trace.verdict.problem != "none"
    says += " The factors that did the damage are red." if trace.marked else ""
    way = (
        "way",
        "Size of the delta",
        _section("way", "How large the delta is on its way back", says, _way(trace) + f'<p class="note">{THRESHOLDS}.</p>'),
    )
    forward = _forward(trace) if trace.named else _forward_large(trace)
    checked = "The product of factors beside the gradient that torch computes by itself."
    sections = [
        *([("network", "Network", _network(trace, drawing))] if drawing else []),
        *([way] if ill else []),
        ("forward", "Forward", _section("forward", "Forward", "From the inputs to the prediction.", forward)),
        ("backward", "Backward", _back_pass(trace)),
        *([] if ill else [way]),
        ("check", "Check", _section("check", "Checked against autograd", checked, _checks(trace))),
    ]
    notes = "".join(f'<p class="notice">{escape(n)}</p>' for n in trace.notes)
    title = TITLES.get(trace.verdict.problem, "Back-propagation, factor by factor")
    count = f"{trace.examples} example{'s' if trace.examples != 1 else ''}"
    body = _cards(trace) + notes + "".join(s[2] for s in sections)
    contents = [(name, words) for name, words, _ in sections]
    return page(title, body, eyebrow=f"{trace.model}, {count}, {trace.loss.name}", lead=trace.verdict.say, contents=contents, style=STYLE)
