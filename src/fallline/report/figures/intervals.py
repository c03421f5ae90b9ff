"""The optimizers ranked: the value of every seed as a dot, their mean, and the 95 % interval of the mean as a whisker."""

import math
from typing import Any

from fallline import record
from fallline.report.figures.members import cells, members, ranked, rows
from fallline.report.figures.shapes import Interval, Intervals, Table, numbers
from fallline.report.figures.source import Source, dig, points
from fallline.report.words import count, is_percent, label, metric, split_key

MOST = 40  # rows that a picture shows


def main_metric(reader: Source) -> tuple[str, str]:
    """The metric that ranks the study, as (split, key)."""
    table = rows(reader)
    said = next((str(row["metric"]) for row in table if row.get("metric")), "") or str(dig(reader.info, "result", "metric", default="loss"))
    split, key = split_key(said)
    return split or "validation", key


def seed_values(reader: Source, name: str, row: dict[str, Any], split: str, key: str) -> list[float]:
    """The value of each seed: what the table holds under "values", else the best one of each member's curve."""
    given = row.get("values") or row.get("per_seed")
    if isinstance(given, dict):
        given = list(given.values())
    if isinstance(given, list):
        return [v for v in numbers(given) if math.isfinite(v)]
    best = max if record.key(key).better == "higher" else min
    out = []
    for member in members(reader).get(name, []):
        found = points(reader, key, split, member.run)
        finite = [v for v in found.value if math.isfinite(v)] if found else []
        if finite:
            out.append(best(finite))
    return out


def ranking(reader: Source) -> Intervals | None:
    """One row for each row of the study's table, in its order, at most `MOST`; None without a table."""
    table = rows(reader)
    if not table:
        return None
    split, key = main_metric(reader)
    out = []
    for name, series, _, row, short in cells(reader):
        mean, low, high = numbers([row.get("mean"), row.get("low"), row.get("high")])
        aside = "" if ranked(row) else "not ranked"
        out.append(Interval(short, series, mean, low, high, seed_values(reader, name, row, split, key), aside, not ranked(row)))
    known = [r for r in out if math.isfinite(r.mean) and not r.quiet] or [r for r in out if math.isfinite(r.mean)]
    most = max((len(r.dots) for r in out), default=0)
    says = f"{known[0].name} has the best mean, {metric(key, known[0].mean, 2)}." if known else "No member reached a finite value."
    if most < 2:
        note = "One seed only: no interval can be given, so no difference is shown."
    else:
        note = f"Small dots: the {count(most, 'seed')}. Large dot: their mean. Whisker: 95 % interval of the mean."
    numbered = [
        [r.name, metric(key, r.mean, 2), interval_text(key, r.low, r.high), ", ".join(metric(key, d, 2) for d in r.dots)] for r in out
    ]
    if len(out) > MOST:
        note += f" The best {MOST} of {len(out)} are drawn."
    title = f"{label(key)[0].upper()}{label(key)[1:]} on {split} rows"
    return Intervals(
        "ranking",
        title,
        label(key),
        out[:MOST],
        says,
        f"Dots with whiskers, one row for each cell of the table. {says}",
        Table(["cell", "mean", "95 % interval", "seeds"], numbered[:MOST]),
        note,
        percent=is_percent(key),
    )


def interval_text(key: str, low: float, high: float) -> str:
    """An interval as text, or a dash where there is none.

    >>> interval_text("loss", 0.1, 0.2), interval_text("loss", float("nan"), 0.2)
    ('0.1 to 0.2', '–')
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return "–"
    first = metric(key, low, 2)
    return f"{first.split()[0] if is_percent(key) else first} to {metric(key, high, 2)}"
