"""How soon the target was reached: steps of every cell, and how many times as many as the quickest, with the interval of that ratio.

A run that never reached the target is counted and named, never left out: the middle of the seeds counts it as infinitely late. The whisker
of a cell goes from its first seed to its last (without end where one missed); the whisker of a ratio is its 95 % interval over paired seeds
(`study.steps`).
"""

import math
from typing import Any

from fallline.report.figures.intervals import MOST, main_metric
from fallline.report.figures.members import Cell, cells, ranked
from fallline.report.figures.shapes import Interval, Intervals, Table, numbers
from fallline.report.figures.source import Source, dicts, dig
from fallline.report.words import count, label, listed, metric, number

LEVEL = 0.05


def target_words(reader: Source) -> str:
    r"""The target in words; "" where there is none.

    >>> from fallline import record
    >>> w = record.Writer(None, kind="study")
    >>> w.info["result"] = {"target": 0.95, "table": [{"metric": "accuracy"}]}
    >>> target_words(record.Reader(w)).replace("\N{NO-BREAK SPACE}", " ")
    'validation accuracy 95.0 %'
    """
    split, key = main_metric(reader)
    goal = dig(reader.info, "result", "target")
    goal = goal.get("value") if isinstance(goal, dict) else goal
    value = numbers([goal])[0]
    return f"{split} {label(key)} {metric(key, value)}" if math.isfinite(value) else ""


def steps_to_target(reader: Source) -> Intervals | None:
    """One row for each cell, the quickest first; None where no steps were counted."""
    found = [(cell, steps) for cell in cells(reader) if (steps := _steps(cell.row)) is not None]
    if not any(math.isfinite(v) for _, steps in found for v in steps):
        return None
    found.sort(key=lambda f: (_middle(f[1]), len([v for v in f[1] if math.isinf(v)])))
    rows, numbered = [], []
    for cell, steps in found:
        row = _interval(cell, steps)
        rows.append(row)
        span = "–" if math.isnan(row.low) else f"{number(row.low)} to {'never' if math.isinf(row.high) else number(row.high)}"
        numbered.append([cell.name, number(row.mean) if math.isfinite(row.mean) else "never", span, _missed(cell.row, steps) or "0"])
    target = target_words(reader)
    best = rows[0]
    says = f"{best.name} is the quickest: {number(best.mean)} steps, the middle of its seeds." if math.isfinite(best.mean) else ""
    never = [row.name for row in rows if not math.isfinite(row.mean)]
    if never:
        says += f" Most runs of {listed(never) if len(never) <= 4 else count(len(never), 'cell')} never got there."
    note = "Small dots: seeds. Large dot: the middle one; a seed that never got there is infinitely late. Whisker: first to last seed."
    if len({str(cell.row.get("batch_size")) for cell, _ in found}) > 1:
        note += " A step at a large batch size costs more than one at a small."
    note += " Grey: not ranked." if any(row.quiet for row in rows) else ""
    if len(rows) > MOST:
        note += f" The quickest {MOST} of {len(rows)} are drawn."
    return Intervals(
        "target",
        f"Steps to {target or 'the target'}",
        "steps",
        rows[:MOST],
        says.strip(),
        f"Dots with whiskers, one row for each cell, the quickest first. {says}",
        Table(["cell", "middle seed", "first to last seed", "never"], numbered[:MOST]),
        note,
        log_x=_wide([v for row in rows for v in (*row.dots, row.mean)]),
        middle="middle seed",
    )


def _steps(row: dict[str, Any]) -> list[float] | None:
    """Steps of every seed, infinity where it missed; from before these were kept, the middle seed alone. None: no target."""
    given = row.get("steps")
    if isinstance(given, list) and given:
        return [math.inf if math.isnan(v) else v for v in numbers(given)]
    middle = numbers([row.get("steps_to_target")])[0]
    if math.isfinite(middle):
        return [middle]
    return [math.inf] if numbers([row.get("missed")])[0] > 0 else None


def _interval(cell: Cell, steps: list[float]) -> Interval:
    reached = [v for v in steps if math.isfinite(v)]
    low, high = (min(steps), max(steps)) if reached and len(steps) > 1 else (math.nan, math.nan)
    middle = _middle(steps)
    dots = reached if len(steps) > 1 else []
    middle = middle if math.isfinite(middle) else math.nan
    return Interval(cell.short, cell.series, middle, low, high, dots, _missed(cell.row, steps), not ranked(cell.row))


def _missed(row: dict[str, Any], steps: list[float]) -> str:
    """How many never got there.

    >>> _missed({}, [10.0, math.inf])
    '1 of 2 never'
    """
    given = numbers([row.get("missed")])[0]
    missed = int(given) if math.isfinite(given) else sum(map(math.isinf, steps))
    seeds = row.get("seeds")
    of = len(seeds) if isinstance(seeds, list) else numbers([seeds])[0]
    return f"{missed} of {int(of) if math.isfinite(of) else len(steps)} never" if missed else ""


def _middle(steps: list[float]) -> float:
    ordered = sorted(steps)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return low if low == high else (low + high) / 2


def _wide(values: list[float]) -> bool:
    known = [v for v in values if math.isfinite(v) and v > 0]
    return bool(known) and max(known) > 20 * min(known)


def steps_ratios(reader: Source) -> Intervals | None:
    """How many times as many steps each ranked cell needs as the quickest; None where no pairs were compared."""
    pairs = dicts(reader.info, "result", "differences")
    known = [(cell, steps) for cell in cells(reader) if ranked(cell.row) and (steps := _steps(cell.row)) is not None]
    if len(known) < 2 or not any(numbers([p.get("ratio_p")])[0] >= 0 for p in pairs):
        return None
    best = min(known, key=lambda f: (sum(map(math.isinf, f[1])) / max(1, len(f[1])), _middle(f[1])))[0]
    rows, numbered = [], []
    for cell, _ in known:
        found = _ratio(pairs, cell.name, best.name) if cell.name != best.name else (1.0, math.nan, math.nan, math.nan)
        if found is None:
            continue
        middle, low, high, p = found
        shown = p <= LEVEL
        unbounded = low == 0 and math.isinf(high)
        words = "the quickest" if cell.name == best.name else _missed(cell.row, _steps(cell.row) or []) if unbounded else ""
        quiet = not shown and cell.name != best.name
        ends = (math.nan, math.nan) if unbounded else (low, high)
        rows.append(Interval(cell.short, cell.series, middle if math.isfinite(middle) else math.nan, *ends, [], words, quiet))
        span = "–" if math.isnan(low) and math.isnan(high) else f"{_end(low)} to {_end(high)}"
        numbered.append([cell.name, _end(middle) if not math.isnan(middle) else "–", span, f"{p:.2g}" if math.isfinite(p) else "–"])
    if sum(math.isfinite(row.mean) for row in rows) < 2:
        return None
    order = sorted(range(len(rows)), key=lambda i: rows[i].mean if math.isfinite(rows[i].mean) else math.inf)
    rows, numbered = [rows[i] for i in order], [numbered[i] for i in order]
    shown_ = sum(not row.quiet for row in rows) - 1
    says = f"{shown_ or 'None'} of {len(rows) - 1} {'is' if shown_ <= 1 else 'are'} shown to need another number of steps than {best.name}."
    note = "Dot: middle ratio of the paired seeds. Whisker: its 95 % interval; it runs out of the picture where runs that never got there"
    note += " leave it without bound on that side. Grey: no difference shown at the 5 % level, corrected over all pairs."
    return Intervals(
        "ratios",
        f"Times as many steps as {best.name}",
        "times as many steps",
        rows[:MOST],
        says,
        f"Dots with whiskers, one row for each ranked cell. {says}",
        Table(["cell", "times as many", "95 % interval", "p, corrected"], numbered[:MOST]),
        note,
        log_x=True,
        middle="ratio",
        line=1.0,
    )


def _ratio(pairs: list[dict[str, Any]], name: str, best: str) -> tuple[float, float, float, float] | None:
    """Steps of `name` over those of `best`: ratio, low, high, p; infinite ends where the seeds do not bound them."""
    for pair in pairs:
        if {str(pair.get("a")), str(pair.get("b"))} != {name, best} or pair.get("ratio_p") is None:
            continue
        ratio, low, high, p = numbers(pair.get(k) for k in ("ratio", "ratio_low", "ratio_high", "ratio_p"))
        low, high = 0.0 if math.isnan(low) else low, math.inf if math.isnan(high) else high
        if str(pair.get("a")) == name:
            return ratio, low, high, p
        return 1 / ratio if ratio else math.nan, 1 / high, 1 / low if low else math.inf, p
    return None


def _end(value: float) -> str:
    return "without bound" if math.isinf(value) or value == 0 else f"{value:.2f}"
