"""The page of a study: who is ahead and what the seeds can show, then the evidence, then how it was run and how to repeat it."""

import math
from typing import Any, TypedDict

from fallline import record
from fallline.report import about as told
from fallline.report import colours
from fallline.report.figures.bands import study_curves
from fallline.report.figures.cost import against_time
from fallline.report.figures.intervals import interval_text, main_metric, ranking
from fallline.report.figures.matrix import factor_matrices, matrix
from fallline.report.figures.members import FACTORS, MOST_FACETS, Cell, cells, ranked, row_names, rows
from fallline.report.figures.profile import profile
from fallline.report.figures.sensitivity import bands, sensitivity
from fallline.report.figures.shapes import Curves, Figure, numbers
from fallline.report.figures.source import Source
from fallline.report.figures.target import steps_ratios, steps_to_target, target_words
from fallline.report.how import how, known, merged
from fallline.report.page import Group, Panel, filled, group, legend, page, panel, render
from fallline.report.run import Card, Notice, foot
from fallline.report.standing import ahead, rank_words, ranking_table, seeds_of
from fallline.report.words import count, label, listed, metric, number, seconds

_SAME = "A seed gives every optimizer the same initial weights and order of rows; the same seeds on the same machine give the same table."
_BAND = (
    "The band of learning rates whose loss stays within a tenth of the way from the best trial back to the start, read between the trials "
    "on a logarithmic scale. The wider it is, the less an optimizer minds which rate it is given."
)
LARGEST = 2 * 1024**2  # bytes; a page that would be larger leaves out what is folded
SHOWN = 6  # series that are drawn at first; the legend brings the others


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
    whole = _page(reader, folded=True)
    return whole if len(whole.encode()) <= LARGEST else _page(reader, folded=False)


def _page(reader: Source, *, folded: bool) -> str:
    info = reader.info
    charts: dict[str, Any] = {}
    found = figures(reader)
    if not folded:
        found["curves"] = {name: fs for name, fs in found["curves"].items() if name.endswith("-validation")}
        found["rates"] = {name: fs for name, fs in found["rates"].items() if name == "loss"}
    table = rows(reader)
    held = cells(reader)
    drawn = [f for name in ("curves", "rates") for group_ in found[name].values() for f in group_]
    series = list(dict.fromkeys([*(c.series for c in held), *(line.series for f in drawn for line in f.lines)]))
    profiled = [line.series for f in found["steps"] if isinstance(f, Curves) for line in f.lines]
    tokens = colours.assign([*series, *profiled])
    keys = legend([(s, s) for s in series], tokens, SHOWN if len(series) > SHOWN + 1 else None)
    first = [panel(f, charts, own_legend=False, tokens=tokens) for f in found["first"]]
    target = [panel(f, charts, wide=True, tokens=tokens) for f in found["steps"]]
    split = max((len(group_) for group_ in found["curves"].values()), default=0) > 1
    curves, groups = _parted(found["curves"], charts, tokens, split=split, titles=_titles(reader))
    names = {"loss": "Validation loss", "metric": f"Validation {label(main_metric(reader)[1])}"}
    search, search_groups = _parted(found["rates"], charts, tokens, split=split, titles=names)
    columns, ranks, aside = ranking_table(reader, tokens)
    checked = told.findings(info)
    pairs = [*factor_matrices(reader), *(found["matrix"])]
    said = how(reader)
    body = render(
        "study.html.j2",
        notice=notice(info, table),
        known=known(info),
        cards=cards(reader),
        notes=merged(info),
        findings=checked,
        first_column="cell" if len({str(row.get("optimizer")) for row in table}) < len(table) else "optimizer",
        columns=columns,
        ranks=ranks,
        aside=aside,
        rank_words=rank_words(reader),
        legend=keys,
        first=first,
        matrices=pairs,
        target=target,
        target_words=_target_words(reader),
        curves=filled(curves),
        left_out=_left_out(held) + ("" if folded else " Training rows and times are left out, to keep the page small."),
        groups=groups,
        open_groups=2,
        search=filled(search),
        search_groups=search_groups,
        bands=bands(reader),
        band_words=_BAND,
        how=said,
        about=told.about(reader),
        repeat=told.repeat(info, "compare", _SAME),
    )
    contents = [("ranking", "Ranking"), *([("pairs", "Pairs")] if pairs else [])]
    contents += [("findings", "Findings")] if checked is not None else []
    contents += [*([("target", "Steps")] if target else []), ("curves", "Curves")]
    contents += [("search", "Learning rates")] if search or search_groups else []
    contents += [*([("how", "How")] if said else []), ("data", "Data and model"), ("repeat", "Repeat it")]
    eyebrow = " · ".join(part for part in ("Comparison of optimizers", told.when(info), told.took(info)) if part)
    return page(headline(reader), body, eyebrow=eyebrow, lead=lead(reader), contents=contents, charts=charts, foot=foot(info))


class Found(TypedDict):
    """All figures of a study, in the order of the page; curves and rates by measure, a figure for each facet."""

    first: list[Figure]
    matrix: list[Figure]
    steps: list[Figure]
    curves: dict[str, list[Curves]]
    rates: dict[str, list[Curves]]


def figures(reader: Source) -> Found:
    """All figures of a study."""
    _, key = main_metric(reader)
    order = [(key, "validation"), ("loss", "validation"), (key, "train"), ("loss", "train")]
    curves = {f"{k}-{s}": study_curves(reader, k, s) for k, s in dict.fromkeys(order)}
    curves["time"] = against_time(reader)
    some: tuple[list[Figure | None], ...] = (
        [ranking(reader)],
        [matrix(reader)],
        [steps_to_target(reader), steps_ratios(reader), profile(reader)],
    )
    first, pairs, steps = ([f for f in found if f is not None] for found in some)
    rates = sensitivity(reader)
    return Found(first=first, matrix=pairs, steps=steps, curves={name: fs for name, fs in curves.items() if fs}, rates=rates)


def _parted(
    found: dict[str, list[Curves]], charts: dict[str, Any], tokens: dict[str, str], *, split: bool, titles: dict[str, str]
) -> tuple[list[Panel], list[Group]]:
    """The figures as panels of their own, or, where the study is spread over facets, as groups of small ones."""
    if not split:
        return [panel(f, charts, own_legend=False, tokens=tokens) for fs in found.values() for f in fs], []
    return [], [group(titles.get(name, name), fs, charts, tokens) for name, fs in found.items()]


def _titles(reader: Source) -> dict[str, str]:
    _, key = main_metric(reader)
    name = f"{label(key)[0].upper()}{label(key)[1:]}"
    parts = {"validation": "validation rows", "train": "training rows"}
    out = {f"{k}-{s}": f"{n}, {words}" for k, n in (("loss", "Loss"), (key, name)) for s, words in parts.items()}
    return {**out, "time": f"{name} against time"}


def _left_out(held: list[Cell]) -> str:
    every = len({cell.facet for cell in held})
    return f" Of {every} combinations, the {MOST_FACETS} in which the best cells stand are drawn." if every > MOST_FACETS else ""


def _target_words(reader: Source) -> str:
    target = target_words(reader)
    given = told.first(reader.info, "config.target", default="auto")
    how_ = " (the level that every run of three in four cells reaches)" if given == "auto" else " (given)"
    return f"Steps are counted until {target}{how_} is reached first." if target else "Steps are counted until the target is reached first."


def headline(reader: Source) -> str:
    """Who is ahead, and whether the seeds show it."""
    table = rows(reader)
    names = row_names(table)
    lead_ = ahead(table, names)
    seeds = count(seeds_of(table), "seed")
    data = told.data_name(reader.info)
    if not table:
        return f"A comparison on {data}, without a result so far"
    if not lead_ and any(not ranked(row) for row in table):
        return f"Nothing is ranked on {data}: no best learning rate stands inside what was tried"
    if not lead_:
        return f"Every optimizer diverged on {data}"
    among = [row for row in table if ranked(row)]
    if len(among) == 1:
        return f"{lead_[0]} on {data}: nothing to compare it with"
    if len(lead_) == 1:
        return f"{lead_[0]} is ahead on {data}, and {seeds} show it"
    if seeds_of(table) < 2:
        return f"{lead_[0]} came first on {data}; one seed cannot show a difference"
    others = lead_[1:]
    first = f"{lead_[0]} came first on {data}"
    if len(lead_) < len(among):
        return f"{first}; {seeds} cannot tell it from {listed(others) if len(others) <= 3 else f'{len(others)} of the others'}"
    return f"{first}, but {seeds} cannot tell it from {'the other' if len(others) == 1 else f'any of the other {len(others)}'}"


def lead(reader: Source) -> str:
    """The numbers behind the headline, in two sentences."""
    info, table = reader.info, rows(reader)
    names = row_names(table)
    split, key = main_metric(reader)
    epochs = told.first(info, "config.epochs", "config.settings.epochs")
    text = f"{_sized(table)} trained {told.model_name(info)} on {told.data_sentence(info)}"
    text += f", {count(seeds_of(table), 'seed')} each" if seeds_of(table) else ""
    text += f", for {count(epochs, 'epoch')}." if isinstance(epochs, int | float) else "."
    best = ahead(table, names)[:1]
    if best:
        row = table[names.index(best[0])]
        mean, low, high = numbers([row.get("mean"), row.get("low"), row.get("high")])
        text += f" {best[0]} reached {metric(key, mean, 2)} {label(key)} on {split} rows on average"
        text += f" (95 % interval {interval_text(key, low, high)})." if math.isfinite(low) else "."
    return text


def _sized(table: list[dict[str, Any]]) -> str:
    """How many optimizers, and how many of what else varies.

    >>> _sized([{"optimizer": o, "batch_size": b} for o in ("adam", "sgd") for b in (32, 64)])
    '2 optimizers at 2 batch sizes (4 cells)'
    """
    many = {name: len({str(row.get(name)) for row in table if row.get(name) is not None}) for name in ("optimizer", *FACTORS)}
    words = [f"at {many['batch_size']} batch sizes"] if many["batch_size"] > 1 else []
    words += [f"with {many['loss']} losses"] if many["loss"] > 1 else []
    words += [f"under {many['schedule']} schedules"] if many["schedule"] > 1 else []
    text = count(many["optimizer"], "optimizer")
    return f"{text} {listed(words)} ({count(len(table), 'cell')})" if words else text


def notice(info: Any, table: list[dict[str, Any]]) -> Notice | None:
    """What a reader must know first: an unfinished study, or one seed only."""
    status = str(told.first(info, "status", default=""))
    words = {
        "out of time": "The budget of time ended before the study did. The table counts what was done until then; it can be resumed.",
        "interrupted": "This study was stopped by hand. The table counts what was done until then; the study can be resumed.",
        "running": "This study has not ended: the page shows what is recorded so far.",
        "failed": "This study failed before its end; the page shows what was recorded.",
    }
    if status in words:
        return Notice(words[status], "warn")
    if table and seeds_of(table) == 1:
        return Notice("Each optimizer ran with one seed only, so luck and merit cannot be told apart. Use five seeds or more.", "warn")
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
        several = len({str(row.get("batch_size")) for row in table}) > 1
        passes = [(s, n) for row, n in zip(table, names, strict=True) if math.isfinite(s := numbers([row.get("epochs_to_target")])[0])]
        if several and passes:  # a step costs more at a larger batch
            out.append(Card("Fewest epochs to target", min(passes)[1], f"{number(min(passes)[0], 2)} epochs" + _target(key, goal)))
        else:
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
