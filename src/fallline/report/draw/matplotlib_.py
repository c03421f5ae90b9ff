"""A figure drawn by matplotlib on axes: the same data as the interactive page, for papers and README pictures. Always light."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fallline.report import colours
from fallline.report.draw.plotly_ import interval_range
from fallline.report.figures.shapes import Bars, Curves, Figure, Grid, Intervals, Matrix, Scatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DASH: dict[str, Any] = {"solid": "solid", "dash": (0, (5, 2.5)), "dot": (0, (1.2, 1.6)), "dashdot": (0, (5, 2, 1.4, 2))}
_SYMBOL = {"best": ("o", "none"), "end": ("x", None), "chosen": ("o", None), "edge": ("^", None), "lost": ("^", "none")}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The look of a still picture; text is taken as it is, never as mathematics."""
    import matplotlib

    look: Any = {
        "font.family": "sans-serif",
        "font.size": 9,
        "text.parse_math": False,
        "text.color": colours.LIGHT["ink"],
        "axes.labelcolor": colours.LIGHT["soft"],
        "axes.edgecolor": colours.LIGHT["line"],
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": colours.LIGHT["grid"],
        "xtick.color": colours.LIGHT["soft"],
        "ytick.color": colours.LIGHT["soft"],
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "legend.frameon": False,
        "figure.facecolor": "white",
    }
    with matplotlib.rc_context(look):
        yield


def draw(figure: Figure, ax: "Axes", *, legend: bool = True, tokens: Mapping[str, str] | None = None) -> "Axes":
    """Draw the figure on `ax` and return it; inside `style()` it looks like the page. `tokens`: as in `plotly_.spec`."""
    ax.set_title(figure.title)
    if isinstance(figure, Curves):
        _curves(figure, ax, legend, tokens or colours.assign(line.series for line in figure.lines))
    elif isinstance(figure, Intervals):
        _intervals(figure, ax, tokens or colours.assign(row.series for row in figure.rows))
    elif isinstance(figure, Matrix):
        _matrix(figure, ax)
    elif isinstance(figure, Scatter):
        _scatter(figure, ax)
    elif isinstance(figure, Grid):
        _grid(figure, ax)
    else:
        _bars(figure, ax)
    return ax


def _curves(f: Curves, ax: "Axes", legend: bool, tokens: Mapping[str, str]) -> None:
    for line in f.lines:
        colour = colours.light(tokens[line.series])
        if line.low is not None and line.high is not None:
            ax.fill_between(line.x, line.low, line.high, color=colour, alpha=0.14, linewidth=0)
        thin = line.series == "batch"
        ax.plot(
            line.x,
            line.y,
            color=colour,
            linewidth=0.7 if thin else 1.6,
            alpha=0.6 if thin else 1,
            linestyle=_DASH[colours.dash(tokens[line.series])],
            marker="o" if len(line.x) == 1 else "",
            label=line.name,
        )
    for mark in f.marks:
        shape, face = _SYMBOL[mark.kind]
        colour = colours.light(tokens.get(mark.series, "ink"))
        ax.plot([mark.x], [mark.y], shape, color=colour, markersize=6, markeredgewidth=1.6, markerfacecolor=face or colour, clip_on=False)
    if f.log_x:
        ax.set_xscale("log")
    if f.log_y:
        ax.set_yscale("log")
    elif f.percent:
        _percent(ax.yaxis)
    if f.span is not None and f.span[1] > f.span[0] and (f.span[0] > 0 or not f.log_y):
        ax.set_ylim(*f.span)
    if f.log_x:
        _log(ax.xaxis)
    if f.log_y:
        _log(ax.yaxis)
    if f.x_label == "epoch":
        from matplotlib.ticker import MaxNLocator

        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(f.x_label)
    if legend and len(f.lines) > 1:
        ax.legend(fontsize=8, labelcolor=colours.LIGHT["soft"])


def _intervals(f: Intervals, ax: "Axes", tokens: Mapping[str, str]) -> None:
    many = len(f.rows) > 12
    start, end = interval_range(f)
    for place, row in enumerate(f.rows):
        colour = colours.light("faint" if row.quiet else tokens.get(row.series, "ink"))
        if not math.isnan(row.low) and not math.isnan(row.high):
            ax.plot([max(row.low, start), min(row.high, end)], [place, place], color=colour, linewidth=1.6)
        ax.plot(row.dots, [place + 0.24] * len(row.dots), "o", color=colour, alpha=0.6, markersize=2 if many else 3, markeredgewidth=0)
        ax.plot([row.mean], [place], "o", color=colour, markersize=5 if many else 7, markeredgecolor="white")
        if row.aside:
            ax.text(1, place - 0.08, row.aside, transform=ax.get_yaxis_transform(), ha="right", va="bottom", fontsize=7.5)
    ax.set_yticks(range(len(f.rows)), [row.name for row in f.rows], fontsize=7 if many else 9)
    ax.set_ylim(len(f.rows) - 0.4, -0.6)
    if f.log_x:
        ax.set_xscale("log")
    if math.isfinite(start) and math.isfinite(end):
        ax.set_xlim(start, end)
    if f.log_x:
        _log(ax.xaxis)
    if math.isfinite(f.line):
        ax.axvline(f.line, color=colours.LIGHT["faint"], linewidth=0.9, zorder=0)
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="x")
    if f.percent:
        _percent(ax.xaxis)
    ax.set_xlabel(f.x_label)


def _matrix(f: Matrix, ax: "Axes") -> None:
    from matplotlib.patches import Rectangle

    n = len(f.labels)
    for i, row in enumerate(f.entries):
        for j, entry in enumerate(row):
            if entry is None:
                continue
            token = "sunken" if not entry.lean else "accent" if entry.lean > 0 else "warn"
            strength = 1.0 if not entry.lean else 0.12 + 0.38 * abs(entry.lean)
            face: Any = (colours.LIGHT[token], strength)
            ax.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, facecolor=face, linewidth=0))
            ink = colours.LIGHT["ink" if entry.lean else "soft"]
            if n <= 8 or entry.lean:  # of many, only what is shown has its number
                ax.text(j, i, entry.text, ha="center", va="center", fontsize=8.5 if n <= 6 else 5.5, color=ink)
    ax.set_xlim(-0.5, n - 0.5)
    ax.set_ylim(n - 0.5, -0.5)
    short = [label if len(label) <= 24 else label[:23] + "…" for label in f.labels]
    ax.set_xticks(range(n), short, rotation=45, ha="right", fontsize=7.5)
    ax.set_yticks(range(n), short, fontsize=7.5)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def _scatter(f: Scatter, ax: "Axes") -> None:
    tokens = colours.assign(group.series for group in f.groups)
    for group in f.groups:
        many = len(group.x) > 200
        ax.scatter(
            group.x,
            group.y,
            s=8 if many else 24,
            color=colours.light(tokens[group.series]),
            alpha=0.4 if many else 0.85,
            linewidth=0,
            label=group.name,
        )
    if f.diagonal:
        low, high = min(ax.get_xlim()[0], ax.get_ylim()[0]), max(ax.get_xlim()[1], ax.get_ylim()[1])
        ax.plot([low, high], [low, high], color=colours.LIGHT["faint"], linewidth=0.9)
    if f.log_x:
        ax.set_xscale("log")
        _log(ax.xaxis)
    if f.percent:
        _percent(ax.yaxis)
    ax.set_xlabel(f.x_label)
    ax.set_ylabel(f.y_label)


def _grid(f: Grid, ax: "Axes") -> None:
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    counts = np.asarray(f.counts, float)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    ramp = LinearSegmentedColormap.from_list("fallline", [colours.LIGHT["sunken"], colours.LIGHT["heat"]])
    ax.imshow(shares, cmap=ramp, vmin=0, vmax=1)
    n = len(f.labels)
    if n <= 12:
        for i in range(n):
            for j in range(n):
                if f.counts[i][j]:
                    ax.text(
                        j, i, str(f.counts[i][j]), ha="center", va="center", fontsize=7.5, color="white" if shares[i, j] > 0.5 else "black"
                    )
    if n <= 40:
        names = [label if len(label) <= 16 else label[:15] + "…" for label in f.labels]
        ax.set_xticks(range(n), names, rotation=0 if max(map(len, names)) < 4 else 90)
        ax.set_yticks(range(n), names)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(f.x_label)
    ax.set_ylabel(f.y_label)


def _bars(f: Bars, ax: "Axes") -> None:
    widths = [b - a for a, b in zip(f.edges[:-1], f.edges[1:], strict=True)]
    ax.bar(f.edges[:-1], f.heights, widths, align="edge", color=colours.LIGHT["accent"], alpha=0.75, edgecolor="white", linewidth=0.6)
    ax.set_xlabel(f.x_label)


def _log(axis: Any) -> None:
    """Ticks of a logarithmic axis in plain numbers: text is taken as it is, so powers in matplotlib's mathematics would show as source."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    span = axis.get_view_interval()
    decades = math.log10(max(span) / min(span)) if min(span) > 0 else math.inf
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1.5 else (1.0,), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _percent(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
