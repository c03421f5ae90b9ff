"""Curves drawn twice from the same numbers: by matplotlib into a file, and as SVG into a page (its colours follow light and dark)."""

import io
from html import escape
from pathlib import Path

from fallline._core.errors import FalllineError
from fallline._core.files import write_bytes
from fallline.report import colours
from fallline.teach.digits import number
from fallline.teach.lines import Curves, Line

FORMATS = ("png", "svg", "pdf")
# role -> (colour token, dash, width, matplotlib's dash)
STYLES = {
    "value": ("s6", "", 2.6, "-"),
    "second": ("s3", "", 2.6, "-"),
    "slope": ("s2", "7 4", 2.2, "--"),
    "second slope": ("s7", "7 4", 2.2, "--"),
    "faint": ("faint", "", 0.7, "-"),
    "path": ("s6", "", 1.8, "-"),
}
WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 14, 46


def save(picture: Curves, path: str | Path) -> Path:
    """Draw into a file; its ending (png, svg, pdf) says how.

    Raises:
        FalllineError: another ending, or a path that cannot be written.
    """
    from matplotlib.figure import Figure

    target = Path(path)
    kind = target.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise FalllineError(f"a picture must end in .png, .svg or .pdf, but got '{target}'; write '{target.with_suffix('.png').name}'.")
    figure = Figure(figsize=(7.2, 3.3 if picture.square else 4.2), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(0, color=colours.light("line"), linewidth=0.9, zorder=0)
    axes.axvline(0, color=colours.light("line"), linewidth=0.9, zorder=0)
    for line in picture.lines:
        token, _, width, dash = STYLES[line.role]
        marker = {"marker": "o", "markersize": 3.5} if line.role == "path" else {}
        axes.plot(line.x, line.y, color=colours.light(token), linestyle=dash, linewidth=width * 0.75, label=line.name or "_", **marker)
    axes.set_title(picture.title, fontsize=11, color=colours.light("ink"))
    axes.set_xlabel(picture.x_label, color=colours.light("soft"))
    axes.set_ylabel(picture.y_label, color=colours.light("soft"))
    axes.tick_params(colors=colours.light("soft"), labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(colours.light("faint"))
    if picture.square:
        axes.set_aspect("equal")
    if len([line for line in picture.lines if line.name]) > 1:
        axes.legend(frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else {"CreationDate": None} if kind == "pdf" else None)
    write_bytes(target, buffer.getvalue())
    return target


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, five or so."""
    from math import ceil, floor, log10

    raw = (high - low) / 5
    unit = 10 ** floor(log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.999)
    return [i * step for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def _spread(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or 1.0
    return low - room, high + room


def svg(picture: Curves) -> str:
    """The picture as inline SVG; colours are the page's own."""
    x_low, x_high = _spread([v for line in picture.lines for v in line.x])
    y_low, y_high = _spread([v for line in picture.lines for v in line.y])
    inner, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    if picture.square:
        scale = max((x_high - x_low) / inner, (y_high - y_low) / tall)
        x_mid, y_mid = (x_low + x_high) / 2, (y_low + y_high) / 2
        x_low, x_high = x_mid - scale * inner / 2, x_mid + scale * inner / 2
        y_low, y_high = y_mid - scale * tall / 2, y_mid + scale * tall / 2

    def px(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * inner

    def py(y: float) -> float:
        return TOP + (y_high - y) / (y_high - y_low) * tall

    parts = []
    for tick in _ticks(x_low, x_high):
        parts.append(f'<line class="g{" o" if tick == 0 else ""}" x1="{px(tick):.1f}" y1="{TOP}" x2="{px(tick):.1f}" y2="{TOP + tall}"/>')
        parts.append(f'<text x="{px(tick):.1f}" y="{TOP + tall + 18}" text-anchor="middle">{number(tick)}</text>')
    for tick in _ticks(y_low, y_high):
        parts.append(
            f'<line class="g{" o" if tick == 0 else ""}" x1="{LEFT}" y1="{py(tick):.1f}" x2="{LEFT + inner}" y2="{py(tick):.1f}"/>'
        )
        parts.append(f'<text x="{LEFT - 8}" y="{py(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for line in picture.lines:
        parts.append(_path(line, [(px(x), py(y)) for x, y in zip(line.x, line.y, strict=True)]))
    parts.append(f'<text x="{LEFT + inner / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(picture.x_label)}</text>')
    if picture.y_label:
        parts.append(f'<text transform="translate(14 {TOP + tall / 2}) rotate(-90)" text-anchor="middle">{escape(picture.y_label)}</text>')
    drawn = f'<svg class="curves" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(picture.title)}">{"".join(parts)}</svg>'
    return drawn + _keys(picture)


def _path(line: Line, points: list[tuple[float, float]]) -> str:
    token, dash, width, _ = STYLES[line.role]
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    style = f'fill="none" stroke="var(--{token})" stroke-width="{width}" stroke-linejoin="round"' + (
        f' stroke-dasharray="{dash}"' if dash else ""
    )
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="var(--{token})"/>' for x, y in points) if line.role == "path" else ""
    return f'<polyline points="{steps}" {style}/>{dots}'


def _keys(picture: Curves) -> str:
    named = [line for line in picture.lines if line.name]
    if len(named) < 2:
        return ""
    out = []
    for line in named:
        token, dash, width, _ = STYLES[line.role]
        stroke = f'<line x1="0" y1="4" x2="26" y2="4" stroke="var(--{token})" stroke-width="{width}" stroke-dasharray="{dash}"/>'
        out.append(f'<span class="curvekey"><svg width="26" height="8" aria-hidden="true">{stroke}</svg>{escape(line.name)}</span>')
    return f'<p class="curvekeys">{"".join(out)}</p>'
