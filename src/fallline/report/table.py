"""The page of a table of batch size against epochs: the table, what its differences show, the curves behind it, how to repeat it."""

import math
from typing import Any

from fallline.report import about as told
from fallline.report.draw import heat as drawn
from fallline.report.figures.heat import Heat, cells, heat_map, main_key
from fallline.report.figures.lengths import length_curves
from fallline.report.figures.shapes import Curves, Table, numbers
from fallline.report.figures.source import Source, dig
from fallline.report.page import Panel, filled, legend, page, panel, render
from fallline.report.run import Card, Notice, foot
from fallline.report.standing import difference_text
from fallline.report.words import count, listed, metric, number, seconds

_SAME = "A seed gives every batch size the same initial weights; the same seeds on the same machine give the same table."


def table_page(reader: Source) -> str:
    """The report of a table as one self-contained HTML page.

    Args:
        reader: the record of a table (`fallline.record.Reader`); whatever it lacks is left out of the page.

    >>> from fallline import record
    >>> "<h1>Batch size against epochs on the data</h1>" in table_page(record.Reader(record.Writer(None, kind="table")))
    True
    """
    info = reader.info
    charts: dict[str, Any] = {}
    heat = heat_map(reader)
    curves = filled([panel(f, charts, own_legend=False) for f in curve_figures(reader)])
    names = list(dict.fromkeys(line.series for p in curves for line in getattr(p.figure, "lines", [])))
    pairs = pair_table(reader)
    notes = dig(info, "result", "notes", default=[])
    body = render(
        "table.html.j2",
        notice=notice(info),
        known=known(reader),
        rests=rests(reader),
        cards=cards(reader),
        heat=None if heat is None else heat_panel(heat, charts),
        curves=curves,
        legend=legend([(name, name) for name in names]),
        pairs=pairs,
        notes=[str(note)[:1].upper() + str(note)[1:] + "." for note in notes] if isinstance(notes, list) else [],
        about=told.about(reader),
        repeat=told.repeat(info, "table", _SAME),
    )
    contents = [("table", "Table"), *([("curves", "Curves")] if curves else []), *([("pairs", "Differences")] if pairs else [])]
    contents += [("data", "Data and model"), ("repeat", "Repeat it")]
    eyebrow = " · ".join(part for part in ("Table over seeds", told.when(info), told.took(info)) if part)
    return page(headline(reader), body, eyebrow=eyebrow, lead=lead(reader), contents=contents, charts=charts, foot=foot(info))


def curve_figures(reader: Source) -> list[Curves]:
    """Test metric, test loss and training loss over epochs."""
    key = main_key(cells(reader))
    wanted = dict.fromkeys([(key, "test"), (key, "train"), ("loss", "test"), ("loss", "train")])
    return [figure for k, split in wanted if (figure := length_curves(reader, k, split)) is not None]


def still_figures(reader: Source) -> list[Heat | Curves]:
    """The table and the curves of its metric, for a still picture."""
    heat = heat_map(reader)
    return [*([] if heat is None else [heat]), *curve_figures(reader)[:1]]


def heat_panel(heat: Heat, charts: dict[str, Any]) -> Panel:
    """Add the heat map to `charts` and return what the page shows of it."""
    name = f"c{len(charts)}"
    charts[name] = drawn.spec(heat)
    return Panel(heat, name, [], True, charts[name]["height"], False, False)  # pyright: ignore[reportArgumentType]


def headline(reader: Source) -> str:
    """What the table is of."""
    return f"Batch size against epochs on {told.data_name(reader.info)}"


def lead(reader: Source) -> str:
    """What was trained on what."""
    info, found = reader.info, cells(reader)
    optimizer = told.first(info, "optimizer.name")
    text = f"{told.model_name(info)} trained on {told.data_sentence(info)}"
    text += f" with {optimizer}" if optimizer else ""
    rate = told.first(info, "optimizer.lr")
    text += f" at a learning rate of {number(rate)}" if isinstance(rate, int | float) else ""
    seeds = max((int(n) for n in numbers(cell.get("seeds") for cell in found) if math.isfinite(n)), default=0)
    return f"{text}, {count(seeds, 'seed')} for each batch size." if seeds else f"{text}."


def known(reader: Source) -> list[str]:
    """What is shown, a line for each number of epochs."""
    text = str(dig(reader.info, "result", "headline", default="")).partition(" (test ")[0]
    return [line.rstrip(".") + "." for line in text.replace(". After ", ".\nAfter ").splitlines() if line]


def rests(reader: Source) -> str:
    """On what these words rest."""
    text = str(dig(reader.info, "result", "headline", default="")).partition(" (test ")[2]
    return f"Test {text.rstrip(').')}." if text else ""


def notice(info: Any) -> Notice | None:
    """What a reader must know first: an unfinished table."""
    words = {
        "interrupted": "This table was stopped by hand. It counts what was done until then, and can be resumed.",
        "running": "This table has not ended: the page shows what is recorded so far.",
        "failed": "This table failed before its end; the page shows what was recorded.",
    }
    status = str(told.first(info, "status", default=""))
    return Notice(words[status], "warn") if status in words else None


def cards(reader: Source) -> list[Card]:
    """Best cell, largest shown gap, published cells met, time."""
    found = cells(reader)
    heat = heat_map(reader)
    if heat is None:
        return []
    key = main_key(found)
    value = heat.high
    best = next(cell for cell in found if cell.get("mean") == value)
    out = [Card("Best cell", metric(key, value, 2), f"{best['cell']}, {count(best['epochs'], 'epoch')}")]
    beside = [cell for cell in found if cell.get("published_within") is not None]
    if beside:
        met = [cell for cell in beside if cell["published_within"]]
        out.append(Card("Published cells met", f"{len(met)} of {len(beside)}", "within the interval widened by one point"))
    pairs = _pairs(reader)
    if pairs:
        out.append(Card("Differences shown", f"{sum(_shown(p) for p in pairs)} of {len(pairs)}", "at the 5 % level over all of them"))
    spent = told.first(reader.info, "result.seconds")
    if isinstance(spent, int | float):
        out.append(Card("Time", seconds(spent), f"{count(int(told.first(reader.info, 'result.members', default=0)), 'training')}"))
    return out


def pair_table(reader: Source) -> Table | None:
    """Every pair of batch sizes at every number of epochs; None where there is none."""
    key = main_key(cells(reader))
    rows = []
    for pair in _pairs(reader):
        gap, low, high, p = numbers(pair.get(k) for k in ("difference", "low", "high", "p"))
        text = difference_text(key, gap, low, high) if math.isfinite(gap) else "–"
        verdict = "shown" if _shown(pair) else "not shown"
        lost = pair.get("diverged") or [0, 0]
        if any(lost):
            verdict += f" ({listed([str(n) for n in lost])} diverged)"
        rows.append([str(pair.get("epochs")), f"{pair.get('a')} − {pair.get('b')}", text, f"{p:.2g}" if math.isfinite(p) else "–", verdict])
    return Table(["epochs", "pair", "difference (95 % interval)", "p, corrected", "difference"], rows) if rows else None


def _pairs(reader: Source) -> list[dict[str, Any]]:
    found = dig(reader.info, "result", "differences", default=[])
    return [pair for pair in found if isinstance(pair, dict)] if isinstance(found, list) else []


def _shown(pair: dict[str, Any]) -> bool:
    p = pair.get("p")
    return isinstance(p, int | float) and p <= 0.05
