"""A figure as plotly reads it: plain dictionaries, so that plotly itself need not be imported to write a page.

Colours are tokens ("@s6", "@accent/0.15") that the page's script turns into the colours of the theme in use. Text that came from
data is escaped (`plain`), and never enters a hover template.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fallline.report import colours
from fallline.report.figures.shapes import Bars, Curves, Figure, Grid, Intervals, Line, Matrix, Scatter
from fallline.report.words import number

Spec = dict[str, Any]
_SYMBOL = {"best": "circle-open", "end": "x-thin-open", "chosen": "circle", "edge": "triangle-up", "lost": "triangle-up-open"}


def plain(text: str, most: int = 60) -> str:
    """Text as plotly shows it unchanged: its small markup language is escaped, very long names are cut.

    >>> plain("<b>a</b>")
    '&lt;b&gt;a&lt;/b&gt;'
    """
    return html.escape(text if len(text) <= most else text[: most - 1] + "…", quote=False)


def spec(figure: Figure, tokens: Mapping[str, str] | None = None) -> Spec:
    """The figure as `{"data": [...], "layout": {...}, "height": pixels}`; a matrix is a table of the page, and has no chart.

    `tokens`: the colour of each series, where several figures share their colours; otherwise they are assigned.
    """
    if isinstance(figure, Matrix):
        return {"data": [], "layout": {}, "height": 0}
    if isinstance(figure, Curves):
        return _curves(figure, tokens or colours.assign(line.series for line in figure.lines))
    if isinstance(figure, Intervals):
        return _intervals(figure, tokens or colours.assign(row.series for row in figure.rows))
    if isinstance(figure, Scatter):
        return _scatter(figure)
    if isinstance(figure, Grid):
        return _grid(figure)
    return _bars(figure)


def _axis(title: str = "", **more: Any) -> Spec:
    title_part: Spec = {"title": {"text": plain(title), "standoff": 10, "font": {"size": 13}}} if title else {}
    return {
        "showgrid": False,
        "zeroline": False,
        "showline": False,
        "ticks": "",
        "automargin": True,
        "ticklabelstandoff": 4,
        "gridcolor": "@grid",
        "linecolor": "@line",
        "tickcolor": "@line",
        **title_part,
        **more,
    }


def _layout(x: Spec, y: Spec, **more: Any) -> Spec:
    return {"xaxis": x, "yaxis": y, "showlegend": False, "margin": {"l": 8, "r": 12, "t": 12, "b": 8}, "hovermode": "closest", **more}


def _curves(f: Curves, tokens: Mapping[str, str]) -> Spec:
    data: list[Spec] = []
    for line in f.lines:
        if line.low is not None and line.high is not None:
            data += _band(line, tokens[line.series])
    hover = "%{y:.2%}" if f.percent else "%{y:.4~g}"
    along = "%{x:.3~g}"
    for line in f.lines:
        token = tokens[line.series]
        few = f.log_x or lonely(line.y)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if few else "lines",
                "name": plain(line.name),
                "meta": line.series,
                "x": line.x,
                "y": line.y,
                "line": {"color": f"@{token}", "width": 1 if line.series == "batch" else 2.2, "dash": colours.dash(token)},
                "marker": {"size": 7 if len(line.x) == 1 else 5, "color": f"@{token}"},
                "hovertemplate": f"{hover}<br>{plain(f.x_label).replace('%', '')} {along}<extra>%{{fullData.name}}</extra>",
            }
        )
    for mark in f.marks:
        token = tokens.get(mark.series, "ink")
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plain(mark.text),
                "meta": mark.series,
                "x": [mark.x],
                "y": [mark.y],
                "cliponaxis": False,
                "marker": {"symbol": _SYMBOL[mark.kind], "size": 11, "color": f"@{token}", "line": {"width": 2.4, "color": f"@{token}"}},
                "hovertemplate": "%{fullData.name}<extra></extra>",
            }
        )
    ys = [v for line in f.lines for v in line.y]
    y = _axis(showgrid=True, nticks=6, **({"tickformat": ".1~%"} if f.percent else {}), **_log(f.log_y, ys))
    x = _axis(f.x_label, showline=True, nticks=10, **_log(f.log_x, [v for line in f.lines for v in line.x]))
    if f.x_label == "epoch":
        x |= _whole_ticks([v for line in f.lines for v in line.x])
    if ys and not f.log_y and (known := _finite(ys)) and max(known) == min(known) > 0:
        y["range"] = [0, 2 * known[0]]
    hovermode = "x unified" if len(f.lines) <= 3 and not f.log_x else "closest"
    logs = log_ticks(ys if f.span is None else [*ys, *f.span]) if f.can_log else {}
    out: Spec = {"data": data, "layout": _layout(x, y, hovermode=hovermode), "height": 330, "log": logs}
    if f.span is not None:
        out["height"] = 240
        out["range"] = _ranges(*f.span)
        y["range"] = out["range"]["log" if f.log_y else "linear"]
    return out


def _ranges(low: float, high: float) -> Spec:
    """The range of an axis, with a little room, on a linear and on a logarithmic scale.

    >>> _ranges(0.0, 1.0)["linear"], _ranges(1.0, 10.0)["log"]
    ([-0.05, 1.05], [-0.05, 1.05])
    """
    room = 0.05 * (high - low or abs(high) or 1.0)
    if low <= 0:
        return {"linear": [low - room, high + room], "log": None}
    ends = [math.log10(low), math.log10(high)]
    more = 0.05 * (ends[1] - ends[0] or 1.0)
    return {"linear": [low - room, high + room], "log": [ends[0] - more, ends[1] + more]}


def lonely(values: Sequence[float]) -> bool:
    """Whether some finite value has no finite neighbour, so that a line alone would not show it.

    >>> lonely([1.0]), lonely([1.0, 2.0]), lonely([1.0, 2.0, float("nan"), 4.0])
    (True, False, True)
    """
    ok = [False, *map(math.isfinite, values), False]
    return any(ok[i] and not ok[i - 1] and not ok[i + 1] for i in range(1, len(ok) - 1))


def _even(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from low to high, the coarsest that show at least two."""
    power = math.floor(math.log10(high - low))
    for step in (m * 10.0**e for e in (power, power - 1) for m in (5, 2, 1)):
        ticks = [float(f"{k * step:.12g}") for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
        if len(ticks) >= 2:
            return ticks
    return []


def log_ticks(values: Sequence[float]) -> Spec:
    """Ticks for a logarithmic axis: powers of ten, with 2 and 5 between them where the values span less than two;
    even steps where fewer than two of these would be seen.

    >>> log_ticks([0.09, 2.2])["tickvals"]
    [0.1, 0.2, 0.5, 1.0, 2.0]
    >>> log_ticks([0.21, 0.27])["tickvals"]
    [0.22, 0.24, 0.26]
    """
    known = [v for v in values if math.isfinite(v) and v > 0]
    if not known:
        return {}
    low, high = math.log10(min(known)), math.log10(max(known))
    inside = (1, 2, 5) if high - low < 2 else (1,)
    every = max(1, math.ceil((high - low) / 7))
    places = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in inside if not e % every]
    kept = [float(f"{v:.3g}") for v in places if low - 0.08 <= math.log10(v) <= high + 0.08]
    if sum(low <= math.log10(v) <= high for v in kept) < 2 and max(known) > min(known):
        kept = _even(min(known), max(known)) or kept
    return {"tickmode": "array", "tickvals": kept, "ticktext": [number(v) for v in kept]} if kept else {}


def _whole_ticks(values: Sequence[float]) -> Spec:
    """Ticks at whole epochs only, about ten."""
    known = _finite(values)
    span = max(known) - min(known) if known else 0
    if not span:
        return {"tickmode": "array", "tickvals": known[:1]}
    rough = max(1.0, span / 10)
    power = 10.0 ** math.floor(math.log10(rough))
    return {"tick0": 0, "dtick": next(m * power for m in (1, 2, 5, 10) if m * power >= rough and m * power >= 1)}


def _log(on: bool, values: Sequence[float]) -> Spec:
    return {"type": "log", **log_ticks(values)} if on else {}


def _band(line: Line, token: str) -> list[Spec]:
    low, high = line.low or [], line.high or []
    kept = [(x, a, b) for x, a, b in zip(line.x, low, high, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(kept) < 2:
        return []
    back = kept[::-1]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": plain(line.name),
            "meta": line.series,
            "hoverinfo": "skip",
            "fill": "toself",
            "x": [x for x, _, _ in kept] + [x for x, _, _ in back],
            "y": [b for _, _, b in kept] + [a for _, a, _ in back],
            "line": {"width": 0, "color": f"@{token}/0"},
            "fillcolor": f"@{token}/0.14",
        }
    ]


def _intervals(f: Intervals, tokens: Mapping[str, str]) -> Spec:
    data: list[Spec] = []
    notes: list[Spec] = []
    form = ".2%" if f.percent else ".4~g"
    many = len(f.rows) > 12
    start, end = interval_range(f)
    for place, row in enumerate(f.rows):
        token = "faint" if row.quiet else tokens.get(row.series, "ink")
        known = {"type": "scatter", "name": plain(row.name), "meta": row.series}
        if not math.isnan(row.low) and not math.isnan(row.high):
            ends = [max(row.low, start), min(row.high, end)]
            words = " to ".join("without bound" if math.isinf(v) else _spoken(v, percent=f.percent) for v in (row.low, row.high))
            data.append(
                {
                    **known,
                    "mode": "lines",
                    "x": ends,
                    "y": [place, place],
                    "line": {"color": f"@{token}", "width": 2.2},
                    "hovertemplate": f"interval {words}<extra>%{{fullData.name}}</extra>",
                }
            )
        if row.dots:
            data.append(
                {
                    **known,
                    "mode": "markers",
                    "x": row.dots,
                    "y": [place + 0.24] * len(row.dots),
                    "marker": {"size": 4.5 if many else 6, "color": f"@{token}/0.6"},
                    "hovertemplate": f"one seed %{{x:{form}}}<extra>%{{fullData.name}}</extra>",
                }
            )
        if math.isfinite(row.mean):
            data.append(
                {
                    **known,
                    "mode": "markers",
                    "x": [row.mean],
                    "y": [place],
                    "marker": {"size": 9 if many else 12, "color": f"@{token}", "line": {"color": "@surface", "width": 2}},
                    "hovertemplate": f"{f.middle} %{{x:{form}}}<extra>%{{fullData.name}}</extra>",
                }
            )
        if row.aside:
            at: Spec = {"xref": "paper", "x": 1, "xanchor": "right", "y": place, "yanchor": "bottom", "showarrow": False}
            notes.append({**at, "text": plain(row.aside), "font": {"size": 12, "color": "@soft"}})
    names = [plain(row.name, 34 if many else 28) for row in f.rows]
    y = _axis(tickmode="array", tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.35, -0.65], fixedrange=True)
    span: Spec = {}
    if math.isfinite(start) and math.isfinite(end):
        span = {"range": [math.log10(start), math.log10(end)] if f.log_x else [start, end]}
    logs = _log(True, [start, end]) if f.log_x and span else {}
    x = _axis(f.x_label, showgrid=True, nticks=6, **{**logs, **span}, **({"tickformat": ".1~%"} if f.percent else {}))
    more: Spec = {"annotations": notes} if notes else {}
    if math.isfinite(f.line):
        more["shapes"] = [
            {"type": "line", "x0": f.line, "x1": f.line, "yref": "paper", "y0": 0, "y1": 1, "line": {"color": "@faint", "width": 1.2}}
        ]
    return {"data": data, "layout": _layout(x, y, **more), "height": (28 if many else 44) * len(names) + 70, "names": True}


def interval_range(f: Intervals) -> tuple[float, float]:
    """From where to where the axis of intervals goes; infinite where nothing is known.

    >>> from fallline.report.figures.shapes import Interval, Table
    >>> row = Interval("a", "a", 2.0, 1.0, float("inf"), [3.0])
    >>> interval_range(Intervals("n", "t", "x", [row], "", "", Table([], [])))
    (0.9, 3.1)
    """
    known = _finite([v for row in f.rows for v in (row.low, row.high, row.mean, *row.dots)] + [f.line])
    known = [v for v in known if v > 0] if f.log_x else known
    if not known:
        return -math.inf, math.inf
    low, high = min(known), max(known)
    if f.log_x:
        factor = max((high / low) ** 0.06, 1.05)
        return low / factor, high * factor
    pad = 0.05 * ((high - low) or abs(high) or 1)
    return low - pad, high + pad


def _spoken(value: float, *, percent: bool) -> str:
    return f"{100 * value:.2f} %" if percent else number(value)


def _scatter(f: Scatter) -> Spec:
    tokens = colours.assign(group.series for group in f.groups)
    data: list[Spec] = []
    form = ".2%" if f.percent else ".4~g"
    if f.diagonal:
        both = _finite([v for g in f.groups for v in (*g.x, *g.y)])
        if both:
            ends = [min(both), max(both)]
            data.append(
                {"type": "scatter", "mode": "lines", "x": ends, "y": ends, "line": {"color": "@faint", "width": 1.2}, "hoverinfo": "skip"}
            )
    for group in f.groups:
        token = tokens[group.series]
        many = len(group.x) > 200
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plain(group.name),
                "meta": group.series,
                "x": group.x,
                "y": group.y,
                "marker": {"size": 4.5 if many else 8, "color": f"@{token}/{0.4 if many else 0.85}"},
                "hovertemplate": f"%{{x:.4~g}}, %{{y:{form}}}<extra>%{{fullData.name}}</extra>",
            }
        )
    x = _axis(f.x_label, showline=True, showgrid=True, nticks=7, **_log(f.log_x, [v for g in f.groups for v in g.x]))
    y = _axis(f.y_label, showgrid=True, nticks=6, **({"tickformat": ".1~%"} if f.percent else {}))
    return {"data": data, "layout": _layout(x, y), "height": 380}


def _grid(f: Grid) -> Spec:
    names = [plain(label, 22) for label in f.labels]
    n = len(names)
    shares = [[(v / max(1, sum(row))) for v in row] for row in f.counts]
    text = [[str(v) if v else "" for v in row] for row in f.counts]
    data: list[Spec] = [
        {
            "type": "heatmap",
            "z": shares,
            "x": list(range(n)),
            "y": list(range(n)),
            "zmin": 0,
            "zmax": 1,
            "xgap": 2,
            "ygap": 2,
            "colorscale": [[0, "@sunken"], [0.05, "@heat/0.16"], [0.5, "@heat/0.55"], [1, "@heat/0.9"]],
            "showscale": False,
            "customdata": f.counts,
            "hovertemplate": "%{customdata} rows, %{z:.1%} of their class<extra></extra>",
        }
    ]
    notes: list[Spec] = []
    if n <= 12:
        notes = [
            {
                "x": j,
                "y": i,
                "text": text[i][j],
                "showarrow": False,
                "font": {"size": 12 if n > 6 else 14, "color": "@onheat" if shares[i][j] > 0.5 else "@ink"},
            }
            for i in range(n)
            for j in range(n)
            if text[i][j]
        ]
    ticks: Spec = {"tickmode": "array", "tickvals": list(range(n)), "ticktext": names} if n <= 40 else {"showticklabels": False}
    x = _axis(f.x_label, side="top", fixedrange=True, **ticks)
    y = _axis(f.y_label, autorange="reversed", fixedrange=True, **ticks)
    return {"data": data, "layout": _layout(x, y, annotations=notes), "height": min(640, max(300, 40 * n + 90))}


def _bars(f: Bars) -> Spec:
    middles = [(a + b) / 2 for a, b in zip(f.edges, f.edges[1:], strict=False)]
    width = f.edges[1] - f.edges[0] if len(f.edges) > 1 else 1
    data: list[Spec] = [
        {
            "type": "bar",
            "x": middles,
            "y": f.heights,
            "width": [width * 0.92] * len(middles),
            "marker": {"color": "@accent/0.75"},
            "hovertemplate": "%{y} rows near %{x:.4~g}<extra></extra>",
            "name": plain(f.title),
        }
    ]
    return {"data": data, "layout": _layout(_axis(f.x_label, showline=True, nticks=7), _axis(showgrid=True, nticks=5)), "height": 380}


def _finite(values: Sequence[float]) -> list[float]:
    return [v for v in values if math.isfinite(v)]
