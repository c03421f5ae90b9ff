"""The page of a search: the finalists with fresh seeds, how the search went, which settings mattered, what it cost, how to repeat it."""

import math
from typing import Any

from fallline.report import about as told
from fallline.report.figures.intervals import interval_text
from fallline.report.figures.shapes import Curves, Scatter, Table, numbers
from fallline.report.figures.source import Source, dig
from fallline.report.figures.trials import (
    every_trial,
    finalists,
    finalists_of,
    history,
    key_of,
    mattered,
    settings_text,
    slices,
    trials_of,
)
from fallline.report.page import Panel, filled, legend, page, panel, render
from fallline.report.run import Card, Notice, foot
from fallline.report.words import count, label, metric, number
from fallline.report.words import seconds as span

_SAME = "The same seed on the same machine asks the same trials and gives the same table."
_SEARCHED = ("space", "sizes", "settings")


def tune_page(reader: Source) -> str:
    """The report of a search as one self-contained HTML page.

    Args:
        reader: the record of a search (`fallline.record.Reader`); whatever it lacks is left out of the page.

    >>> from fallline import record
    >>> "<h1>A search on the data, without a result so far</h1>" in tune_page(record.Reader(record.Writer(None, kind="search")))
    True
    """
    info = reader.info
    charts: dict[str, Any] = {}
    final = [_panel(f, charts) for f in (finalists(reader),) if f is not None]
    went = filled([_panel(f, charts) for f in (history(reader), every_trial(reader)) if f is not None])
    weight = mattered(reader)
    important = [] if weight is None else [_panel(weight, charts)]
    each = filled([_panel(f, charts)._replace(wide=False) for f in slices(reader)])
    notes = dig(info, "result", "notes", default=[])
    body = render(
        "tune.html.j2",
        notice=notice(info),
        known=known(reader),
        cards=cards(reader),
        final=final,
        rows=final_table(reader),
        train=str(dig(info, "result", "train", default="")),
        went=went,
        important=important,
        each=each,
        space=space_table(info),
        notes=[str(note) for note in notes] if isinstance(notes, list) else [],
        about=told.about(reader),
        repeat=_repeat(info),
    )
    contents = [("best", "The best"), *([("search", "The search")] if went else [])]
    contents += [("settings", "Settings")] if important or each else []
    contents += [("how", "How it was made"), ("data", "Data and model"), ("repeat", "Repeat it")]
    eyebrow = " · ".join(part for part in ("Search over settings", told.when(info), told.took(info)) if part)
    return page(headline(reader), body, eyebrow=eyebrow, lead=lead(reader), contents=contents, charts=charts, foot=foot(info))


def headline(reader: Source) -> str:
    """What the search recommends."""
    data, found = told.data_name(reader.info), finalists_of(reader)
    if not found or found[0].get("mean") is None:
        return f"A search on {data}, without a result so far"
    factors = found[0].get("factors") or {}
    name, rate = str(factors.get("optimizer", "these settings")), number(factors.get("lr"), 3)
    return f"{name} at {rate} is the pick of {count(len(trials_of(reader)), 'trial')} on {data}"


def lead(reader: Source) -> str:
    """The numbers behind the headline."""
    info, found, key = reader.info, finalists_of(reader), key_of(reader)
    epochs = told.first(info, "config.settings.epochs")
    models = told.first(info, "model.specs", default=[])
    what = " or ".join(map(str, models)) if isinstance(models, list) and models else told.model_name(info)
    text = f"{count(len(trials_of(reader)), 'trial')} of {what} on {told.data_sentence(info)}"
    text += f", {count(epochs, 'epoch')} at most." if isinstance(epochs, int | float) else "."
    if found and found[0].get("mean") is not None:
        row = found[0]
        mean, low, high, test = numbers(row.get(k) for k in ("mean", "low", "high", "test_mean"))
        text += (
            f" With {count(int(row.get('seeds', 1)), 'fresh seed')} the best reaches {metric(key, mean, 2)} {label(key)} on validation rows"
        )
        text += f" (95 % interval {interval_text(key, low, high)})" if math.isfinite(low) else ""
        text += f" and {metric(key, test, 2)} on test rows." if math.isfinite(test) else "."
    return text


def known(reader: Source) -> list[str]:
    """What is shown, a sentence a line."""
    text = str(dig(reader.info, "result", "headline", default="")).strip()
    found = finalists_of(reader)
    if found and found[0].get("mean") is not None:
        text = text.partition(". ")[2]  # the first sentence is the lead
    lines = [line for line in text.replace(". ", ".\n").splitlines() if line]
    return [f"{line[:1].upper()}{line[1:].rstrip('.')}." for line in lines]


def notice(info: Any) -> Notice | None:
    """What a reader must know first: an unfinished search."""
    words = {
        "interrupted": "This search was stopped by hand. The page shows what was done until then; the search can be resumed.",
        "running": "This search has not ended: the page shows what is recorded so far.",
        "failed": "This search failed before its end; the page shows what was recorded.",
    }
    status = str(told.first(info, "status", default=""))
    return Notice(words[status], "warn") if status in words else None


def cards(reader: Source) -> list[Card]:
    """The best with fresh seeds, its test, what the search itself had shown, trials, epochs saved."""
    info, found, key = reader.info, finalists_of(reader), key_of(reader)
    out: list[Card] = []
    if found and found[0].get("mean") is not None:
        row = found[0]
        out.append(Card(f"Best mean {label(key)}", metric(key, row["mean"], 2), f"{row.get('cell')}, fresh seeds"))
        if row.get("test_mean") is not None:
            out.append(Card(f"Its test {label(key)}", metric(key, row["test_mean"], 2), "test rows, looked at once"))
        out.append(Card("In the search it had", metric(key, row.get("searched"), 2), "one seed, the best of many"))
    n = dig(info, "result", "counts", default={})
    if isinstance(n, dict) and n.get("trials"):
        ended = f"{n.get('finished', 0)} finished, {n.get('stopped', 0)} stopped, {n.get('diverged', 0)} diverged"
        out.append(Card("Trials", number(n["trials"]), ended))
        share = 1 - n.get("epochs", 0) / max(1, n.get("epochs_in_full", 1))
        out.append(Card("Epochs saved", f"{100 * share:.0f} %", f"{number(n.get('epochs'))} were trained"))
    spent = told.first(info, "result.seconds")
    if isinstance(spent, int | float):
        out.append(Card("Time", span(spent), "of the last sitting"))
    return out


def final_table(reader: Source) -> Table | None:
    """The finalists with their settings; None where there are none."""
    key, found = key_of(reader), finalists_of(reader)
    rows = []
    for row in found:
        low, high, test_low, test_high = numbers(row.get(k) for k in ("low", "high", "test_low", "test_high"))
        spread = f" ({interval_text(key, low, high)})" if math.isfinite(low) else ""
        test = metric(key, row.get("test_mean"), 2) if row.get("test_mean") is not None else "–"
        test += f" ({interval_text(key, test_low, test_high)})" if math.isfinite(test_low) else ""
        rows.append(
            [
                str(row.get("trial")),
                settings_text({k: v for k, v in {"model": row.get("model"), **(row.get("factors") or {})}.items() if v is not None}),
                (metric(key, row.get("mean"), 2) if row.get("mean") is not None else "–") + spread,
                test,
                metric(key, row.get("searched"), 2),
                f"{row.get('diverged', 0)} of {row.get('seeds', 0)}",
            ]
        )
    heads = ["trial", "settings", f"validation {label(key)} (95 %)", "test (95 %)", "in the search", "diverged"]
    return Table(heads, rows) if rows else None


def space_table(info: Any) -> Table | None:
    """Where was looked; None where that is not told."""
    found = dig(info, "result", "space", default={})
    rows = [[str(k).replace("_", " "), str(v)] for k, v in found.items()] if isinstance(found, dict) else []
    return Table(["setting", "looked for in"], rows) if rows else None


def _panel(figure: Any, charts: dict[str, Any]) -> Panel:
    """A panel with the legend of its groups."""
    made = panel(figure, charts, own_legend=isinstance(figure, Curves))
    if isinstance(figure, Scatter) and len(figure.groups) > 1:
        return made._replace(legend=legend([(group.series, group.name) for group in figure.groups]))
    return made


def _repeat(info: Any) -> told.Repeat:
    """How to repeat it, without what was searched among the settings."""
    made = told.repeat(info, "tune", _SAME)
    searched = {str(k).replace("_", " ") for k in dig(info, "config", "space", default={})} | {*_SEARCHED, "lr"}
    return made._replace(settings=[(k, v) for k, v in made.settings if k not in searched])
