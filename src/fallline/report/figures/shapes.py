"""The few shapes that every figure of a report is made of: lines, marks, dots with whiskers, tables.

A figure is numbers and words, never pixels: `draw.plotly_` and `draw.matplotlib_` draw the same tuple, and the tests read the numbers.
A `series` names who a line belongs to ("train", "validation", or an optimizer); the colours follow it (`report.colours`).
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

MOST_POINTS = 600


class Line(NamedTuple):
    """One curve. `low` and `high`, where given, bound a band round it; NaN is a gap."""

    name: str
    series: str
    x: list[float]
    y: list[float]
    low: list[float] | None = None
    high: list[float] | None = None


class Mark(NamedTuple):
    """One point worth a word. `kind`: "best" (ring), "end" (cross: it ended), "chosen" (dot), "lost" (open triangle), "edge" (filled)."""

    x: float
    y: float
    text: str
    series: str
    kind: str


class Table(NamedTuple):
    """What a figure shows, as text for those who cannot see it or want the numbers."""

    columns: list[str]
    rows: list[list[str]]


class Curves(NamedTuple):
    """Lines over one x axis. `says`: what to see, in one sentence; `alt`: the picture in words; `note`: how to read it.

    `span`, where given, is the y range from lowest to highest, shared with the figures that stand beside this one.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    marks: list[Mark]
    says: str
    alt: str
    table: Table
    note: str = ""
    log_x: bool = False
    log_y: bool = False
    can_log: bool = True
    percent: bool = False
    span: tuple[float, float] | None = None


class Interval(NamedTuple):
    """One row of dots with whiskers: the value of each seed, their mean, and the interval of the mean.

    NaN: no interval; an infinite end: the seeds do not bound it there. `aside` stands above the row, at the right; a `quiet` row is grey.
    """

    name: str
    series: str
    mean: float
    low: float
    high: float
    dots: list[float]
    aside: str = ""
    quiet: bool = False


class Intervals(NamedTuple):
    """Rows of dots with whiskers, best first. `middle`: what the large dot is; `line`: where a reference line stands (NaN: none)."""

    name: str
    title: str
    x_label: str
    rows: list[Interval]
    says: str
    alt: str
    table: Table
    note: str = ""
    percent: bool = False
    log_x: bool = False
    middle: str = "mean"
    line: float = math.nan


class Dots(NamedTuple):
    """Points in the plane, one group a series."""

    name: str
    series: str
    x: list[float]
    y: list[float]
    text: list[str]


class Scatter(NamedTuple):
    """Groups of points; `diagonal` draws the line on which both are equal."""

    name: str
    title: str
    x_label: str
    y_label: str
    groups: list[Dots]
    says: str
    alt: str
    table: Table
    note: str = ""
    diagonal: bool = False
    log_x: bool = False
    percent: bool = False


class Grid(NamedTuple):
    """Counts in a square: rows are true classes, columns predicted ones."""

    name: str
    title: str
    x_label: str
    y_label: str
    labels: list[str]
    counts: list[list[int]]
    says: str
    alt: str
    table: Table
    note: str = ""


class Bars(NamedTuple):
    """A histogram: `edges` has one more entry than `heights`."""

    name: str
    title: str
    x_label: str
    y_label: str
    edges: list[float]
    heights: list[float]
    says: str
    alt: str
    table: Table
    note: str = ""


class Entry(NamedTuple):
    """An entry of a matrix: words, a small line under them, more on demand; `lean` from -1 (bad) to 1 (good), 0: nothing shown."""

    text: str
    small: str = ""
    title: str = ""
    lean: float = 0.0


class Matrix(NamedTuple):
    """A square of entries, row against column; None on the diagonal and where nothing is known."""

    name: str
    title: str
    labels: list[str]
    entries: list[list[Entry | None]]
    says: str
    alt: str
    table: Table
    note: str = ""


Figure = Curves | Intervals | Scatter | Grid | Bars | Matrix


def numbers(values: Iterable[object]) -> list[float]:
    """Plain floats; whatever is no number becomes NaN.

    >>> numbers([1, None, "x"])
    [1.0, nan, nan]
    """
    out = []
    for value in values:
        try:
            out.append(float(value))  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError):
            out.append(math.nan)
    return out


def thin(x: Sequence[float], y: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float], int]:
    """At most about `most` points: each the mean of `every` neighbours, placed at the last of them. Returns x, y, every.

    >>> thin([1, 2, 3, 4], [1.0, 3.0, 5.0, 7.0], most=2)
    ([2.0, 4.0], [2.0, 6.0], 2)
    """
    every = max(1, -(-len(x) // most))
    if every == 1:
        return numbers(x), numbers(y), 1
    xs, ys = [], []
    for start in range(0, len(x), every):
        part = [v for v in y[start : start + every] if math.isfinite(v)]
        xs.append(float(x[min(start + every, len(x)) - 1]))
        ys.append(sum(part) / len(part) if part else math.nan)
    return xs, ys, every


def begun(x: list[float], y: list[float], most: int = 2) -> tuple[list[float], list[float]]:
    """A curve without its value before the first step, which would squash all the others; kept where there are only `most` more.

    >>> begun([0, 1, 2, 3], [9.0, 3.0, 2.0, 1.0])
    ([1, 2, 3], [3.0, 2.0, 1.0])
    >>> begun([0, 1, 2], [9.0, 3.0, 2.0])
    ([0, 1, 2], [9.0, 3.0, 2.0])
    """
    return (x[1:], y[1:]) if len(x) > most + 1 and x[0] == 0 else (x, y)


def ending(x: Sequence[float], y: Sequence[float]) -> tuple[float, float] | None:
    """The last finite point of a curve whose last value is not finite; None for a curve that ends well, or never began.

    >>> ending([1, 2, 3], [0.5, 0.7, float("nan")])
    (2.0, 0.7)
    """
    if not len(y) or math.isfinite(y[-1]):
        return None
    for a, b in zip(reversed(x), reversed(y), strict=True):
        if math.isfinite(b):
            return float(a), float(b)
    return None
