"""A search as pictures: how the best grew, every trial, which settings mattered, each setting by itself, and the finalists."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fallline import record
from fallline.report.figures.intervals import interval_text
from fallline.report.figures.shapes import Curves, Dots, Figure, Interval, Intervals, Line, Scatter, Table, numbers
from fallline.report.figures.source import Source, dig
from fallline.report.words import count, is_percent, label, listed, metric, number

AVERAGES = ("momentum", "beta1", "beta2", "alpha")
_LOG = ("lr", "weight_decay", "eps", *AVERAGES)
_WORDS = {"lr": "learning rate", "batch_size": "batch size", "weight_decay": "weight decay", "eps": "epsilon"}
_MOST = 400  # trials in the table behind a picture
_SLICES = 8


def factor_word(factor: str) -> str:
    """How a setting is called.

    >>> factor_word("lr"), factor_word("dropout")
    ('learning rate', 'dropout')
    """
    return _WORDS.get(factor, factor)


def trials_of(reader: Source) -> list[dict[str, Any]]:
    """The rows of run.json's `result.trials`."""
    found = dig(reader.info, "result", "trials", default=[])
    return [t for t in found if isinstance(t, dict)] if isinstance(found, list) else []


def finalists_of(reader: Source) -> list[dict[str, Any]]:
    """The rows of run.json's `result.table`."""
    found = dig(reader.info, "result", "table", default=[])
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def key_of(reader: Source) -> str:
    """The metric that was judged."""
    return str(dig(reader.info, "config", "metric", default="loss"))


def history(reader: Source) -> Curves | None:
    """The best value up to each trial, beside what so many random trials give on average; None without a finished trial."""
    key, lower = key_of(reader), record.key(key_of(reader)).better == "lower"
    best, so_far, x = math.nan, [], []
    for place, trial in enumerate(trials_of(reader), start=1):
        value = _value(trial) if trial.get("status") == "finished" else math.nan
        if math.isfinite(value) and (math.isnan(best) or (value < best if lower else value > best)):
            best = value
        if math.isfinite(best):
            x.append(float(place))
            so_far.append(best)
    if not x:
        return None
    lines = [Line("best so far", "accent", x, so_far)]
    expected = numbers(dig(reader.info, "result", "expected", default=[]))
    if len(expected) > 1:
        lines.append(Line("random trials, on average", "soft", [float(k) for k in range(1, len(expected) + 1)], expected))
    says = f"The best of {count(len(trials_of(reader)), 'trial')} reached {metric(key, so_far[-1], 2)}; a search's own best flatters."
    note = (
        f"The second line: the mean best of k trials drawn at random, from the {len(expected)} of this search that were. "
        "Dodge et al. 2019, without replacement."
        if len(expected) > 1
        else ""
    )
    cells = [[f"{int(a)}", metric(key, b, 2)] for a, b in zip(x, so_far, strict=True)]
    return Curves(
        "history",
        f"Best validation {label(key)} so far",
        "trials",
        label(key),
        lines,
        [],
        says,
        f"Line chart of the best {label(key)} over trials. {says}",
        Table(["trials", "best so far"], _changes(cells)),
        note,
        can_log=False,
        percent=is_percent(key),
    )


def every_trial(reader: Source) -> Scatter | None:
    """Each trial by its number; None without one that has a value."""
    key, found = key_of(reader), trials_of(reader)
    groups = _by_status(found, lambda t: float(t.get("number", 0)) + 1)
    if not groups:
        return None
    lost = sum(t.get("status") == "diverged" for t in found)
    says = f"{listed([f'{len(g.x)} {g.name}' for g in groups])}{f', {lost} diverged (no dot)' if lost else ''}."
    rows = [_trial_cells(t, key) for t in found[:_MOST]]
    return Scatter(
        "trials",
        "Every trial",
        "trial",
        f"validation {label(key)}",
        groups,
        says,
        f"Dots, one a trial. {says}",
        Table(["trial", f"validation {label(key)}", "ended", "epochs", "settings"], rows),
        "A trial that was stopped early is shown with the value it had reached.",
        percent=is_percent(key),
    )


def mattered(reader: Source) -> Intervals | None:
    """How much of the differences between the trials each setting explains by itself; None where that was not told."""
    found = [row for row in dig(reader.info, "result", "importances", default=[]) if isinstance(row, dict)]
    if not found:
        return None
    shares = numbers(row.get("share") for row in found)
    rows = [Interval(factor_word(str(r.get("factor"))), "accent", s, 0.0, s, []) for r, s in zip(found, shares, strict=True)]
    first = [r.name for r in rows if r.mean >= 0.05]
    says = f"Most is explained by {listed(first[:3])}." if first else "No setting explains as much as 5 % by itself."
    return Intervals(
        "importance",
        "Which settings mattered",
        "share of the differences between trials",
        rows,
        says,
        f"Bars from zero, one row for each setting. {says}",
        Table(
            ["setting", "share", "trials that have it"],
            [[r.name, f"{100 * r.mean:.1f} %", number(f.get("trials"))] for r, f in zip(rows, found, strict=True)],
        ),
        "ω² of the trials' ranks by each setting alone, chance taken off; a learning rate by its place in its optimizer's range. "
        "A sampler looks where it expects good trials, so this tells of the part that was looked at.",
        percent=True,
    )


def slices(reader: Source) -> list[Figure]:
    """The metric against each setting that varied, the most important first."""
    found = [t for t in trials_of(reader) if math.isfinite(_value(t))]
    told = [str(row.get("factor")) for row in dig(reader.info, "result", "importances", default=[]) if isinstance(row, dict)]
    names = list(dict.fromkeys([*told, *(f for t in found for f in _factors(t))]))
    out = [made for name in names if (made := _slice(name, [t for t in found if name in _factors(t)], key_of(reader))) is not None]
    return out[:_SLICES]


def _slice(factor: str, found: Sequence[Mapping[str, Any]], key: str) -> Figure | None:
    values = [_factors(t)[factor] for t in found]
    if len({str(v) for v in values}) < 2:
        return None
    word = factor_word(factor)
    title = f"{word[0].upper()}{word[1:]}"
    if factor not in _LOG or any(isinstance(v, str) for v in values):
        return _choices(factor, title, found, key)
    by_optimizer = factor == "lr"

    def x(trial: Mapping[str, Any]) -> float:
        value = float(_factors(trial)[factor])
        return 1 - value if factor in AVERAGES else value

    groups = (
        [_dots(name, name, [t for t in found if _factors(t).get("optimizer") == name], x) for name in _names(found, "optimizer")]
        if by_optimizer
        else _by_status(found, x)
    )
    best = max(found, key=lambda t: _standing(t, key))
    says = f"The best trial had {metric_free(_factors(best)[factor])}."
    shown = f"1 − {word}" if factor in AVERAGES else word
    cells = [[number(_factors(t)[factor], 4), *_trial_cells(t, key)] for t in sorted(found, key=lambda t: float(_factors(t)[factor]))]
    return Scatter(
        f"by-{factor}",
        title,
        shown,
        f"validation {label(key)}",
        groups,
        says,
        f"Dots of validation {label(key)} against {shown}. {says}",
        Table([word, "trial", label(key), "ended", "epochs", "settings"], cells[:_MOST]),
        "One colour for each optimizer." if by_optimizer else "",
        log_x=True,
        percent=is_percent(key),
    )


def _choices(factor: str, title: str, found: Sequence[Mapping[str, Any]], key: str) -> Intervals:
    rows = []
    for name in _names(found, factor):
        mine = [t for t in found if str(_factors(t)[factor]) == name]
        done = [_value(t) for t in mine if t.get("status") == "finished"]
        mean = sum(done) / len(done) if done else math.nan
        shown = name if factor == "optimizer" or not name.replace(".", "").isdigit() else f"{factor_word(factor)} {name}"
        rows.append(Interval(shown, shown if factor == "optimizer" else "accent", mean, math.nan, math.nan, [_value(t) for t in mine]))
    known = [r for r in rows if math.isfinite(r.mean)]
    lower = record.key(key).better == "lower"
    best = (min if lower else max)(known, key=lambda r: r.mean) if known else None
    says = f"{best.name} has the best mean of its finished trials, {metric(key, best.mean, 2)}." if best else "No trial was finished."
    cells = [[r.name, metric(key, r.mean, 2), number(len(r.dots))] for r in rows]
    return Intervals(
        f"by-{factor}",
        title,
        f"validation {label(key)}",
        rows,
        says[:1].upper() + says[1:],
        f"Dots, one row for each choice. {says}",
        Table([factor_word(factor), "mean of the finished", "trials"], cells),
        "Small dots: trials. Large dot: the mean of those that finished.",
        percent=is_percent(key),
    )


def finalists(reader: Source) -> Intervals | None:
    """The finalists with the value of every fresh seed; None where none were trained."""
    key = key_of(reader)
    rows = []
    for row in finalists_of(reader):
        mean, low, high = numbers([row.get("mean"), row.get("low"), row.get("high")])
        name = str(row.get("cell"))
        rows.append(Interval(name, name, mean, low, high, [v for v in numbers(row.get("values") or []) if math.isfinite(v)]))
    if not rows:
        return None
    known = [r for r in rows if math.isfinite(r.mean)]
    says = f"{known[0].name[:1].upper()}{known[0].name[1:]} has the best mean, {metric(key, known[0].mean, 2)}." if known else ""
    seeds = max(len(r.dots) for r in rows)
    return Intervals(
        "finalists",
        f"The best trials with fresh seeds, validation {label(key)}",
        label(key),
        rows,
        says,
        f"Dots with whiskers, one row for each finalist. {says}",
        Table(
            ["trial", "mean", "95 % interval", "seeds"],
            [
                [r.name, metric(key, r.mean, 2), interval_text(key, r.low, r.high), ", ".join(metric(key, d, 2) for d in r.dots)]
                for r in rows
            ],
        ),
        f"Small dots: the {count(seeds, 'seed')}. Large dot: their mean. Whisker: 95 % interval of the mean." if seeds > 1 else "",
        percent=is_percent(key),
    )


def metric_free(value: Any) -> str:
    """A setting's value.

    >>> metric_free(0.00312), metric_free("adam")
    ('0.00312', 'adam')
    """
    return number(value, 3) if isinstance(value, int | float) else str(value)


def settings_text(factors: Mapping[str, Any], leave_out: Sequence[str] = ()) -> str:
    """Settings in one line.

    >>> settings_text({"optimizer": "adam", "lr": 0.01, "dropout": 0.0})
    'adam, learning rate 0.01, dropout 0'
    """
    words = []
    for name, value in factors.items():
        if name in leave_out or (name == "loss" and value == "auto"):
            continue
        words.append(str(value) if isinstance(value, str) else f"{factor_word(name)} {metric_free(value)}")
    return ", ".join(words)


def _by_status(found: Sequence[Mapping[str, Any]], x: Any) -> list[Dots]:
    out = []
    for status, name, series in (("finished", "finished", "accent"), ("stopped", "stopped early", "faint")):
        mine = [t for t in found if t.get("status") == status and math.isfinite(_value(t))]
        if mine:
            out.append(_dots(name, series, mine, x))
    return out


def _dots(name: str, series: str, mine: Sequence[Mapping[str, Any]], x: Any) -> Dots:
    return Dots(name, series, [x(t) for t in mine], [_value(t) for t in mine], [f"trial {t.get('number')}" for t in mine])


def _value(trial: Mapping[str, Any]) -> float:
    return numbers([trial.get("value")])[0]


def _factors(trial: Mapping[str, Any]) -> dict[str, Any]:
    found = trial.get("factors")
    return found if isinstance(found, dict) else {}


def _names(found: Sequence[Mapping[str, Any]], factor: str) -> list[str]:
    values = {_factors(t)[factor] for t in found if factor in _factors(t)}
    plain = sorted((v for v in values if isinstance(v, int | float)), key=float)
    return [str(v) for v in (*plain, *sorted(v for v in values if isinstance(v, str)))]


def _standing(trial: Mapping[str, Any], key: str) -> tuple[bool, float]:
    return (trial.get("status") == "finished", -_value(trial) if record.key(key).better == "lower" else _value(trial))


def _trial_cells(trial: Mapping[str, Any], key: str) -> list[str]:
    ended = {"stopped": "stopped early"}.get(str(trial.get("status")), str(trial.get("status")))
    value = metric(key, _value(trial), 2) if math.isfinite(_value(trial)) else "–"
    return [number(trial.get("number")), value, ended, number(trial.get("epochs")), settings_text(_factors(trial))]


def _changes(cells: list[list[str]]) -> list[list[str]]:
    """The first row, and those that differ from the one before."""
    return [row for i, row in enumerate(cells) if i == 0 or row[1] != cells[i - 1][1]]
