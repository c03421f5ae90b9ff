"""The page of a study: who is ahead and what the seeds can show, then the evidence, then how to repeat it."""

import math
from typing import Any, NamedTuple

from fallline import record
from fallline.report import about as told
from fallline.report import colours
from fallline.report.figures.bands import study_curves
from fallline.report.figures.cost import against_time
from fallline.report.figures.intervals import interval_text, main_metric, ranking
from fallline.report.figures.members import row_names, rows
from fallline.report.figures.search import search_curves
from fallline.report.figures.shapes import Figure, numbers
from fallline.report.figures.source import Source
from fallline.report.page import filled, legend, page, panel, render
from fallline.report.run import Card, Notice, foot
from fallline.report.words import count, is_percent, label, listed, metric, number, seconds

_SAME = "A seed gives every optimizer the same initial weights and order of rows; the same seeds on the same machine give the same table."


class Cell(NamedTuple):
    """A cell of the ranking: what it says, what it sorts by, a small line under it, and a tag with its tone."""

    text: str
    value: str = ""
    small: str = ""
    tag: str = ""
    tone: str = ""


class Rank(NamedTuple):
    """A row of the ranking."""

    place: int
    name: str
    token: str
    dash: str
    cells: list[Cell]


class Column(NamedTuple):
    """A column of the ranking: its words, what they mean, and which way it sorts first."""

    name: str
    meaning: str
    first: str = "ascending"


def study_page(reader: Source) -> str:
    """The report of a comparison as one self-contained HTML page.

    Args:
        reader: the record of a study (`fallline.record.Reader`); whatever it lacks is left out of the page.

    >>> from fallline import record
    >>> w = record.Writer(None, kind="study")
    >>> w.info["result"] = {"table": [{"optimizer": "adam", "mean": 0.97, "metric": "accuracy", "seeds": 3}]}
    >>> "<h1>adam on the data: nothing to compare it with</h1>" in study_page(record.Reader(w))
    True
    """
    info = reader.info
    charts: dict[str, Any] = {}
    found = figures(reader)
    first = [panel(f, charts, own_legend=False) for f in found["first"]]
    curves = filled([panel(f, charts, own_legend=False) for f in found["curves"]])
    search = [panel(f, charts, own_legend=False, wide=True) for f in found["search"]]
    table = rows(reader)
    names = row_names(table)
    series = list(dict.fromkeys([*names, *(line.series for f in found["curves"] for line in getattr(f, "lines", []))]))
    columns, ranks = ranking_table(reader)
    checked = told.findings(info)
    body = render(
        "study.html.j2",
        notice=notice(info, table),
        cards=cards(reader),
        findings=checked,
        columns=columns,
        ranks=ranks,
        rank_words=rank_words(reader),
        legend=legend([(s, s) for s in series]),
        first=first,
        curves=curves,
        search=search,
        about=told.about(reader),
        repeat=told.repeat(
            info,
            "compare",
            _SAME,
        ),
    )
    contents = [("ranking", "Ranking"), *([("findings", "Findings")] if checked is not None else []), ("curves", "Curves")]
    contents += [("search", "Learning rates")] if search else []
    contents += [("data", "Data and model"), ("repeat", "Repeat it")]
    eyebrow = " · ".join(part for part in ("Comparison of optimizers", told.when(info), told.took(info)) if part)
    return page(headline(reader), body, eyebrow=eyebrow, lead=lead(reader), contents=contents, charts=charts, foot=foot(info))


def figures(reader: Source) -> dict[str, list[Figure]]:
    """All figures of a study: "first" (who is ahead), "curves" over epochs and time, "search" for the learning rate."""
    _, key = main_metric(reader)
    order = [("loss", "train"), ("loss", "validation")]
    order += [(key, "train"), (key, "validation")] if key != "loss" else []
    curves = [study_curves(reader, k, s) for k, s in order]
    return {
        "first": [f for f in (ranking(reader),) if f is not None],
        "curves": [f for f in (*curves, against_time(reader)) if f is not None],
        "search": [f for f in (search_curves(reader),) if f is not None],
    }


def seeds_of(table: list[dict[str, Any]]) -> int:
    """The largest number of seeds that a row has."""
    found = [row.get("seeds") for row in table]
    return max((len(s) if isinstance(s, list) else int(s) for s in found if isinstance(s, list | int | float)), default=0)


def ahead(table: list[dict[str, Any]], names: list[str]) -> list[str]:
    """The best row and the rows that are not shown to differ from it.

    >>> ahead([{"mean": 1}, {"mean": 2, "differs_from_best": "not shown"}, {"mean": 3, "differs_from_best": "yes"}], ["a", "b", "c"])
    ['a', 'b']
    """
    finite = [i for i, row in enumerate(table) if math.isfinite(numbers([row.get("mean")])[0])]
    return [names[i] for i in finite if i == finite[0] or str(table[i].get("differs_from_best", "not shown")) not in ("yes", "True")]


def headline(reader: Source) -> str:
    """Who is ahead, and whether the seeds show it."""
    table = rows(reader)
    names = row_names(table)
    lead_ = ahead(table, names)
    seeds = count(seeds_of(table), "seed")
    data = told.data_name(reader.info)
    if not table:
        return f"A comparison on {data}, without a result so far"
    if not lead_:
        return f"Every optimizer diverged on {data}"
    if len(table) == 1:
        return f"{lead_[0]} on {data}: nothing to compare it with"
    if len(lead_) == 1:
        return f"{lead_[0]} is ahead on {data}, and {seeds} show it"
    if seeds_of(table) < 2:
        return f"{lead_[0]} came first on {data}; one seed cannot show a difference"
    others = lead_[1:]
    others = lead_[1:]
    first = f"{lead_[0]} came first on {data}"
    if len(lead_) < len(table):
        return f"{first}; {seeds} cannot tell it from {listed(others) if len(others) <= 3 else f'{len(others)} of the others'}"
    return f"{first}, but {seeds} cannot tell it from {'the other' if len(others) == 1 else f'any of the other {len(others)}'}"


def lead(reader: Source) -> str:
    """The numbers behind the headline, in two sentences."""
    info, table = reader.info, rows(reader)
    names = row_names(table)
    split, key = main_metric(reader)
    epochs = told.first(info, "config.epochs", "config.settings.epochs")
    text = f"{count(len(table), 'optimizer')} trained {told.model_name(info)} on {told.data_sentence(info)}"
    text += f", {count(seeds_of(table), 'seed')} each" if seeds_of(table) else ""
    text += f", for {count(epochs, 'epoch')}." if isinstance(epochs, int | float) else "."
    best = ahead(table, names)[:1]
    if best:
        row = table[names.index(best[0])]
        mean, low, high = numbers([row.get("mean"), row.get("low"), row.get("high")])
        text += f" {best[0]} reached {metric(key, mean, 2)} {label(key)} on {split} rows on average"
        text += f" (95 % interval {interval_text(key, low, high)})." if math.isfinite(low) else "."
    return text


def notice(info: Any, table: list[dict[str, Any]]) -> Notice | None:
    """What a reader must know first: an unfinished study, or one seed only."""
    status = str(told.first(info, "status", default=""))
    words = {
        "interrupted": "This study was stopped by hand. The table counts what was done until then; the study can be resumed.",
        "running": "This study has not ended: the page shows what is recorded so far.",
        "failed": "This study failed before its end; the page shows what was recorded.",
    }
    if status in words:
        return Notice(words[status], "warn")
    if table and seeds_of(table) == 1:
        return Notice("Each optimizer ran with one seed only, so luck and merit cannot be told apart. Use three seeds or more.", "warn")
    return None


def cards(reader: Source) -> list[Card]:
    """Best, quickest, soonest, lost."""
    table = rows(reader)
    if not table:
        return []
    names = row_names(table)
    _, key = main_metric(reader)
    out: list[Card] = []
    best = ahead(table, names)[:1]
    if best:
        row = table[names.index(best[0])]
        test = numbers([row.get("test_mean")])[0]
        out.append(
            Card(
                "Highest mean" if record.key(key).better != "lower" else "Lowest mean",
                best[0],
                f"{metric(key, row.get('mean'), 2)} {label(key)}",
            )
        )
        if math.isfinite(test):
            out.append(Card(f"Test {label(key)} of {best[0]}", metric(key, test, 2), "test rows, looked at once"))
    reached = [(s, n) for row, n in zip(table, names, strict=True) if math.isfinite(s := numbers([row.get("steps_to_target")])[0])]
    if reached:
        goal = told.first(reader.info, "result.target", "config.target")
        out.append(Card("Fewest steps to target", min(reached)[1], f"{number(min(reached)[0])} steps" + _target(key, goal)))
    timed = [(s, n) for row, n in zip(table, names, strict=True) if math.isfinite(s := numbers([row.get("seconds")])[0])]
    if timed:
        out.append(Card("Shortest training", min(timed)[1], f"{seconds(min(timed)[0])} for one member"))
    lost = sum(int(v) for v in numbers([row.get("diverged") for row in table]) if math.isfinite(v))
    members_ = sum(len(s) if isinstance(s, list) else int(s) for row in table if isinstance(s := row.get("seeds"), list | int | float))
    out.append(Card("Diverged", number(lost), f"of {count(members_, 'member')}" if members_ else ""))
    return out


def _target(key: str, goal: Any) -> str:
    value = goal.get("value") if isinstance(goal, dict) else goal
    return f" to {metric(key, value)}" if isinstance(value, int | float) and not isinstance(value, bool) else ""


def rank_words(reader: Source) -> str:
    """How to read the table."""
    split, key = main_metric(reader)
    better = "higher" if record.key(key).better != "lower" else "lower"
    n = seeds_of(rows(reader))
    text = f"Ranked by mean {label(key)} on {split} rows ({better} is better). Click a head to sort."
    if any(row.get("diverged") for row in rows(reader)):
        text += " A row that lost more members to divergence stands below one that lost fewer."
    if n > 1:
        text += " Differences are taken seed by seed; “worse” holds at the 5 % level after correction for all pairs."
    return text


def ranking_table(reader: Source) -> tuple[list[Column], list[Rank]]:
    """The ranking as cells; columns that no row fills are left out."""
    table = rows(reader)
    names = row_names(table)
    tokens = colours.assign(names)
    _, key = main_metric(reader)
    seeds = seeds_of(table)
    leaders = ahead(table, names)
    high_first = "descending" if record.key(key).better != "lower" else "ascending"
    columns = [
        Column(label(key), "mean over seeds and 95 % interval of the mean", high_first),
        Column("test", "mean on test rows, which took no part in any decision", high_first),
        Column("against the best", "difference to the first row, paired over seeds, with its 95 % interval"),
        Column("learning rate", "found by the search, or given"),
        Column("steps to target", "training steps until the target was reached first"),
        Column("time", "seconds of one member"),
        Column("diverged", "members whose loss stopped being finite"),
    ]
    full = [_cells(row, name, key, seeds, leaders[:1]) for row, name in zip(table, names, strict=True)]
    keep = [i for i in range(len(columns)) if any(cells[i].text not in ("–", "") for cells in full)]
    ranks = [
        Rank(place, name, tokens[name], colours.dash(tokens[name]), [cells[i] for i in keep])
        for place, (name, cells) in enumerate(zip(names, full, strict=True), start=1)
    ]
    return [columns[i] for i in keep], ranks


def _cells(row: dict[str, Any], name: str, key: str, seeds: int, best: list[str]) -> list[Cell]:
    mean, low, high, test, lr, steps, missed, span, diverged = numbers(
        row.get(k) for k in ("mean", "low", "high", "test_mean", "lr", "steps_to_target", "missed", "seconds", "diverged")
    )
    against = _against(row, name in best, seeds, key)
    mine = row.get("seeds")
    n = len(mine) if isinstance(mine, list) else numbers([mine])[0]
    lost = f"of {int(n)}" if math.isfinite(n) else ""
    some = f"{int(missed)}{f' of {int(n)}' if math.isfinite(n) else ''} missed it" if math.isfinite(missed) and missed else ""
    reach = Cell(number(steps), f"{steps:g}", some) if math.isfinite(steps) else Cell("never" if some else "–", "", some)
    return [
        Cell(metric(key, mean, 2), _sort(mean), interval_text(key, low, high) if math.isfinite(low) else ""),
        Cell(metric(key, test, 2) if math.isfinite(test) else "–", _sort(test)),
        against,
        Cell(number(lr, 3) if math.isfinite(lr) else "–", _sort(lr), tag="at the edge" if row.get("lr_at_edge") else "", tone="warn"),
        reach,
        Cell(seconds(span) if math.isfinite(span) else "–", _sort(span)),
        Cell(number(diverged) if math.isfinite(diverged) else "–", _sort(diverged), lost if diverged else "", "", "bad"),
    ]


def _against(row: dict[str, Any], is_best: bool, seeds: int, key: str) -> Cell:
    """How a row stands to the best one: in words, with the paired difference under it."""
    verdict = str(row.get("differs_from_best", ""))
    gap, low, high = numbers(row.get(k) for k in ("difference", "difference_low", "difference_high"))
    small = difference_text(key, gap, low, high) if math.isfinite(gap) else ""
    if is_best:
        return Cell("best", "0", tag="best", tone="good")
    if verdict in ("yes", "True"):
        lower = record.key(key).better == "lower"
        worse = not math.isfinite(gap) or (gap > 0 if lower else gap < 0)
        return Cell("worse", "2", small, "worse" if worse else "diverges more", "" if worse else "bad")
    if seeds < 2 or not math.isfinite(numbers([row.get("mean")])[0]):
        return Cell("–", "3")
    return Cell("not shown", "1", small, "no difference shown", "warn")


def difference_text(key: str, gap: float, low: float, high: float) -> str:
    """A paired difference and its interval; of shares in percentage points.

    >>> difference_text("accuracy", -0.004, -0.009, 0.001)
    '−0.40 (−0.90 to +0.10) points'
    """

    def signed(value: float) -> str:
        text = f"{100 * value:+.2f}" if is_percent(key) else f"{'+' if value >= 0 else ''}{number(value, 3)}"
        return text.replace("-", "−")

    interval = f" ({signed(low)} to {signed(high)})" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{signed(gap)}{interval}" + (" points" if is_percent(key) else "")


def _sort(value: float) -> str:
    return f"{value:.10g}" if math.isfinite(value) else ""
