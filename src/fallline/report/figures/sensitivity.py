"""How much an optimizer minds its learning rate: the trials of the search, loss and metric against the rate, and the useful band.

    useful band = rates with  L(lr) <= L* + 0.1 (L0 − L*)         L*: the best trial's loss, L0: the loss before the first step
    width       = log10(upper end / lower end), in decades

The ends are read on the straight line between two trials, on log lr. Where the loss before the first step was not recorded, the worst
finite loss of all trials in the same picture stands for it. The edge is the smallest rate above the best from which on every trial
diverged or ended above its start.

Source: loss against learning rate as the measure of how forgiving an optimizer is: Asi and Duchi, "The importance of better models in
stochastic optimization", PNAS 2019; "learning rate sensitivity" as one number: Wortsman et al., "Small-scale proxies for large-scale
Transformer training instabilities", ICLR 2024, who average min(L, L0) − L* over three decades. A width in decades is taken here instead,
because the trials of a search need not span three decades.
"""

import json
import math
from typing import Any, NamedTuple

from fallline import record
from fallline.report.figures.bands import shared
from fallline.report.figures.intervals import main_metric
from fallline.report.figures.members import Cell, batch_of, cells, facets, members, ranked, series_name, stranger
from fallline.report.figures.shapes import Curves, Line, Mark, Table, numbers
from fallline.report.figures.source import Source, dig, points
from fallline.report.words import is_percent, label, listed, metric, number

SHARE = 0.1  # of the way from the start to the best loss: so far from the best a rate may fall and still be useful


class Trials(NamedTuple):
    """The search of one cell: rates from the smallest, their validation loss (NaN: diverged) and metric, the loss before the first step."""

    cell: Cell
    lr: list[float]
    loss: list[float]
    metric: list[float]
    start: float


class Band(NamedTuple):
    """The useful rates of one cell. `open_low`, `open_high`: the band goes on beyond what was tried there."""

    low: float
    high: float
    open_low: bool
    open_high: bool

    @property
    def decades(self) -> float:
        """Its width in powers of ten."""
        return math.log10(self.high / self.low)


def trials(raw: Any) -> list[tuple[float, float]]:
    """The (lr, loss) pairs of one search, sorted by lr; a loss that is none is NaN.

    >>> trials([[0.1, None], [0.01, 0.5], ["x", 1]])
    [(0.01, 0.5), (0.1, nan)]
    """
    out = []
    for pair in raw if isinstance(raw, list) else []:
        if isinstance(pair, list | tuple) and len(pair) >= 2:
            lr, loss = numbers(pair[:2])
            if math.isfinite(lr) and lr > 0:
                out.append((lr, loss))
    return sorted(out, key=lambda p: p[0])


def searched(reader: Source) -> list[Trials]:
    """The search of every cell that has one, in the order of the table; cells that have no row yet stand last."""
    search = dig(reader.info, "result", "search", default={})
    if not isinstance(search, dict):
        return []
    known = cells(reader)
    by_name = {cell.name: cell for cell in known}
    by_name |= {series_name(str(c.row.get("optimizer", "?")), batch_of(c.row), True): c for c in known if "cell" in c.row}
    runs = members(reader, search=True)
    key = main_metric(reader)[1]
    found: dict[str, Trials] = {}
    for name, raw in search.items():
        pairs = trials(raw)
        cell = by_name.get(str(name), stranger(str(name), known))
        if not pairs:
            continue
        measured = {float(m.settings["lr"]): m.run for m in runs.get(cell.name, []) if numbers([m.settings.get("lr")])[0] > 0}
        judged = [_metric(reader, measured[lr], key) if lr in measured and math.isfinite(loss) else math.nan for lr, loss in pairs]
        starts = [s for run in measured.values() if math.isfinite(s := _start(reader, run))]
        start = sorted(starts)[len(starts) // 2] if starts else math.nan
        found[cell.name] = Trials(cell, [lr for lr, _ in pairs], [loss for _, loss in pairs], judged, start)
    order = {cell.name: i for i, cell in enumerate(known)}
    return sorted(found.values(), key=lambda t: order.get(t.cell.name, len(order)))


def _metric(reader: Source, run: str, key: str) -> float:
    """The metric of a trial at the weights that were kept; without that, the best of its curve."""
    texts = getattr(reader, "texts", None)
    for _, text in texts("outcome", run) if texts else ():
        try:
            return numbers([json.loads(text)["validation"][key]])[0]
        except (ValueError, KeyError, TypeError):
            continue
    curve = points(reader, key, "validation", run)
    values = [v for v in curve.value if math.isfinite(v)] if curve else []
    return (max if record.key(key).better != "lower" else min)(values, default=math.nan)


def _start(reader: Source, run: str) -> float:
    curve = points(reader, "loss", "validation", run)
    return curve.value[0] if curve and curve.epoch[0] == 0 else math.nan


def edge(lr: list[float], loss: list[float], start: float) -> float:
    """The smallest rate above the best from which on every trial diverged or ended above its start; NaN where none did.

    >>> edge([0.01, 0.1, 1.0, 10.0], [2.0, 0.5, 3.0, float("nan")], 2.5)
    1.0
    """
    finite = [i for i, v in enumerate(loss) if math.isfinite(v)]
    best = min(finite, key=lambda i: loss[i]) if finite else -1
    out = math.nan
    for i in range(len(lr) - 1, best, -1):
        if math.isfinite(loss[i]) and not loss[i] > start:
            break
        out = lr[i]
    return out


def useful(lr: list[float], loss: list[float], start: float) -> Band | None:
    """The band of useful rates round the best one; None where every trial diverged or none came below its start.

    >>> band = useful([0.01, 0.1, 1.0], [0.5, 0.0, 1.0], 1.0)
    >>> round(band.low, 3), round(band.high, 3), band.open_low, round(band.decades, 2)
    (0.063, 0.126, False, 0.3)
    """
    finite = [i for i, v in enumerate(loss) if math.isfinite(v)]
    best = min(finite, key=lambda i: loss[i], default=-1)
    if best < 0 or not start > loss[best]:
        return None
    most = loss[best] + SHARE * (start - loss[best])

    def end(step: int) -> tuple[float, bool]:
        i = best
        while 0 <= i + step < len(lr):
            after = loss[i + step]
            if not math.isfinite(after):
                return lr[i], False
            if after > most:
                part = (most - loss[i]) / (after - loss[i])
                return lr[i] * (lr[i + step] / lr[i]) ** part, False
            i += step
        return lr[i], True

    (low, open_low), (high, open_high) = end(-1), end(1)
    return Band(low, high, open_low, open_high)


def sensitivity(reader: Source) -> dict[str, list[Curves]]:
    """Loss and metric of the trials against the learning rate, "loss" and "metric": a picture for each facet each."""
    found = searched(reader)
    key = main_metric(reader)[1]
    order = facets([t.cell for t in found])
    by_facet = {facet: [t for t in found if t.cell.facet == facet] for facet in order}
    out = {"loss": [_figure(by_facet[f], "loss", f) for f in order]}
    if key != "loss" and any(math.isfinite(v) for t in found for v in t.metric):
        out["metric"] = [_figure(by_facet[f], key, f) for f in order]
    if len(order) > 1:
        out = {name: shared(figures, apart=name == "loss") for name, figures in out.items()}
    return {name: figures for name, figures in out.items() if figures}


def _figure(found: list[Trials], key: str, facet: str) -> Curves:
    lines = [Line(t.cell.series if facet else t.cell.name, t.cell.series, t.lr, t.loss if key == "loss" else t.metric) for t in found]
    finite = [y for line in lines for y in line.y if math.isfinite(y)]
    lower = record.key(key).better != "higher"
    ceiling = _ceiling(found, finite) if lower else max(finite, default=1.0)
    if key == "loss":
        lines = [line._replace(y=[min(v, ceiling) if math.isfinite(v) else v for v in line.y]) for line in lines]
    floor = min(finite, default=0.0)
    marks: list[Mark] = []
    for place, (t, line) in enumerate(zip(found, lines, strict=True), start=1):
        bad = _beyond(ceiling if lower else floor, place, ceiling - floor, up=lower)
        marks += _marks(t, line, bad)
    says = _says(found)
    note = "Dot: the rate that was chosen. Triangle: a trial that diverged, whatever its height; filled: the edge, from which on every"
    note += " trial diverged or ended above its start."
    if key == "loss" and any(v > ceiling for t in found for v in t.loss):
        note += f" Losses above {number(ceiling)} are drawn there."
    said = "Validation loss" if key == "loss" else f"Validation {label(key)}"
    rows = []
    for t, line in zip(found, lines, strict=True):
        values = [metric(key, v, 2) if math.isfinite(v) else "diverged" for v in (t.loss if key == "loss" else t.metric)]
        rows.append([line.name, ", ".join(f"{number(lr, 3)}: {value}" for lr, value in zip(t.lr, values, strict=True))])
    return Curves(
        f"rates-{key}",
        facet or f"{said} against learning rate",
        "learning rate",
        said.lower() if key == "loss" else f"validation {label(key)}",
        lines,
        marks,
        says,
        f"Line chart of {said} against learning rate for {listed([line.name for line in lines])}. {says}",
        Table(["optimizer", f"learning rate: {said[0].lower()}{said[1:]}"], rows),
        note,
        log_x=True,
        log_y=key == "loss" and bool(finite) and min(finite) > 0,
        can_log=key == "loss" and bool(finite) and min(finite) > 0,
        percent=is_percent(key),
    )


def _beyond(end: float, place: int, span: float, *, up: bool) -> float:
    """Where the diverged trials of the n-th line stand: beyond what was measured, one line's a little farther than another's."""
    if up and end > 0:
        return end * 1.08**place
    return end + (1 if up else -1) * 0.04 * place * (span or 1.0)


def _ceiling(found: list[Trials], finite: list[float]) -> float:
    """Where losses are cut off: a little above the start, so that one bad trial does not squash the others."""
    starts = [t.start for t in found if math.isfinite(t.start)]
    most = max(finite, default=1.0)
    return min(most, 1.5 * max(starts)) if starts and max(starts) > 0 else most


def _marks(t: Trials, line: Line, bad: float) -> list[Mark]:
    out = []
    at = dict(zip(line.x, line.y, strict=True))
    chosen = _chosen(t)
    if math.isfinite(at.get(chosen, math.nan)):
        out.append(Mark(chosen, at[chosen], f"{line.name}: chosen {number(chosen, 3)}", line.series, "chosen"))
    first = edge(t.lr, t.loss, t.start)
    for lr, loss in zip(t.lr, t.loss, strict=True):
        if lr == first:
            level = at.get(lr, math.nan)
            out.append(Mark(lr, level if math.isfinite(level) else bad, f"{line.name}: edge at {number(lr, 3)}", line.series, "edge"))
        elif not math.isfinite(loss):
            out.append(Mark(lr, bad, f"{line.name}: {number(lr, 3)} diverged", line.series, "lost"))
    return out


def _at_end(t: Trials) -> bool:
    finite = [(v, i) for i, v in enumerate(t.loss) if math.isfinite(v)]
    if "lr_at_edge" in t.cell.row:
        return bool(t.cell.row["lr_at_edge"])
    return len(t.lr) > 1 and bool(finite) and min(finite)[1] in (0, len(t.lr) - 1)


def _says(found: list[Trials]) -> str:
    ends = [(t.cell.series if t.cell.facet else t.cell.name, ranked(t.cell.row)) for t in found if _at_end(t)]
    if not ends:
        return "No best rate stands at the end of what was tried."
    out = "" if any(kept for _, kept in ends) else ", so it is not ranked" if len(ends) == 1 else ", so these are not ranked"
    return f"The best rate of {listed([name for name, _ in ends])} stands at the end of what was tried{out}."


def bands(reader: Source) -> Table | None:
    """The useful band of every series, the widest first; None where nothing was searched.

    Of a series that stands in several pictures: the middle of its widths and the narrowest and widest.
    """
    found = searched(reader)
    worst: dict[str, list[float]] = {}
    for t in found:
        worst.setdefault(t.cell.facet, []).extend(v for v in t.loss if math.isfinite(v))
    held: dict[str, list[tuple[Trials, Band | None]]] = {}
    for t in found:
        start = t.start if math.isfinite(t.start) else max(worst[t.cell.facet], default=math.nan)
        held.setdefault(t.cell.series, []).append((t, useful(t.lr, t.loss, start)))
    if not held:
        return None
    several = any(len(group) > 1 for group in held.values())
    made = [_several(name, group) if several else _one(*group[0]) for name, group in held.items()]
    heads = ["chosen", "useful band", "from … to", "edge", "trials"]
    if several:
        heads = ["cells", "useful band, middle", "narrowest to widest", "chosen"]
    return Table(["optimizer" if several else "cell", *heads], [row for _, row in sorted(made, key=lambda m: -m[0])])


def _one(t: Trials, band: Band | None) -> tuple[float, list[str]]:
    rate, last = (number(v, 3) if math.isfinite(v) else none for v, none in ((_chosen(t), "–"), (edge(t.lr, t.loss, t.start), "not seen")))
    words = ["–", "–"] if band is None else [_wide(band), f"{number(band.low, 2)} to {number(band.high, 2)}"]
    return (band.decades if band else -1.0), [t.cell.name, rate, *words, last, str(len(t.lr))]


def _several(name: str, group: list[tuple[Trials, Band | None]]) -> tuple[float, list[str]]:
    held = sorted((band for _, band in group if band), key=lambda band: band.decades)
    rates = sorted(v for t, _ in group if math.isfinite(v := _chosen(t)))
    words = ["–", "–"] if not held else [_wide(held[len(held) // 2]), f"{held[0].decades:.1f} to {held[-1].decades:.1f}"]
    span = "–" if not rates else number(rates[0], 3) if rates[0] == rates[-1] else f"{number(rates[0], 3)} to {number(rates[-1], 3)}"
    return (held[len(held) // 2].decades if held else -1.0), [name, str(len(group)), *words, span]


def _wide(band: Band) -> str:
    return f"{'at least ' if band.open_low or band.open_high else ''}{band.decades:.1f} decades"


def _chosen(t: Trials) -> float:
    return numbers([t.cell.row.get("lr")])[0]
