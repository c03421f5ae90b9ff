"""Every pair of cells: how far the row lies above or below the column, with the interval of the paired difference and its corrected p.

Coloured is only what is shown at the 5 % level after correction over all pairs: blue where the row is better, brown where it is worse.
Everything else is grey: not shown to differ, which is not the same as alike.
"""

import math
from typing import Any

from fallline import record
from fallline.report.figures.intervals import main_metric
from fallline.report.figures.members import cells, ranked
from fallline.report.figures.shapes import Entry, Matrix, Table, numbers
from fallline.report.figures.source import Source, dicts
from fallline.report.words import count, is_percent, label, listed, number

MOST = 12
LEVEL = 0.05


def matrix(reader: Source) -> Matrix | None:
    """The differences among the best twelve ranked cells; None without pairs that were compared."""
    held = [cell for cell in cells(reader) if ranked(cell.row)]
    _, key = main_metric(reader)
    names = {cell.name: cell.short for cell in held[:MOST]}
    more = f" The best {MOST} of {len(held)} ranked cells." if len(held) > MOST else ""
    return _matrix("matrix", f"Paired differences of {label(key)}", names, dicts(reader.info, "result", "differences"), key, more)


def factor_matrices(reader: Source) -> list[Matrix]:
    """The differences among the levels of each factor, over all the others; [] where one factor varies, or none."""
    _, key = main_metric(reader)
    out = []
    for factor in dicts(reader.info, "result", "factors"):
        levels = [str(level.get("level")) for level in dicts(factor, "levels")][:MOST]
        over = [str(name).replace("batch_size", "batch size") for name in factor.get("over") or [] if isinstance(name, str)]
        title = f"{label(key)[0].upper()}{label(key)[1:]} by {str(factor.get('factor')).replace('_', ' ')}"
        title += f", over every {listed(over)}" if over else ""
        made = _matrix(f"by-{len(out)}", title, {level: level for level in levels}, dicts(factor, "pairs"), key, "")
        if made is not None:
            out.append(made)
    return out


def _matrix(name: str, title: str, names: dict[str, str], pairs: list[dict[str, Any]], key: str, more: str) -> Matrix | None:
    held = {(str(p.get("a")), str(p.get("b"))): p for p in pairs if p.get("p") is not None}
    if len(names) < 2 or not any(a in names and b in names for a, b in held):
        return None
    gaps = [abs(numbers([p.get("difference")])[0]) for (a, b), p in held.items() if a in names and b in names and shown(p)]
    most = max((g for g in gaps if math.isfinite(g)), default=1.0) or 1.0
    entries = [[_entry(held, a, b, key, most) if a != b else None for b in names] for a in names]
    asked = [(a, b) for a in names for b in names if (a, b) in held]
    apart = sum(shown(held[pair]) for pair in asked)
    says = f"{count(apart, 'pair') if apart else 'No pair'} of {number(len(asked))} {'is' if apart <= 1 else 'are'} shown to differ."
    note = "Row minus column, mean over the seeds they share; blue: the row is better, brown: worse, grey: no difference shown."
    if is_percent(key):
        note += " In percentage points."
    note += f" Intervals: 95 %, of each pair alone. p: corrected over every question that the study asks.{more}"
    rows = [_row(a, b, held[a, b], key) for a, b in asked]
    alt = f"Table of paired differences, row minus column. {says}"
    heads = ["row", "column", "difference", "95 % interval", "p, corrected", "shown"]
    return Matrix(name, title, list(names.values()), entries, says, alt, Table(heads, rows), note)


def shown(pair: dict[str, Any]) -> bool:
    """Whether a pair is shown to differ."""
    return numbers([pair.get("p")])[0] <= LEVEL


def _entry(held: dict[tuple[str, str], dict[str, Any]], a: str, b: str, key: str, most: float) -> Entry | None:
    """The entry of row a, column b, from the pair however it is written down."""
    turned = (a, b) not in held
    pair = held.get((b, a) if turned else (a, b))
    if pair is None:
        return None
    gap, low, high, p = _numbers(pair, turned=turned)
    n = numbers([pair.get("n")])[0]
    words = f"p {p:.2g}" + (f", {count(n, 'seed')}" if math.isfinite(n) else "")
    lean = 0.0
    text = signed(key, gap)
    if shown(pair):
        better = (gap < 0) == (record.key(key).better == "lower")
        lean = max(0.15, min(1.0, abs(gap) / most)) * (1 if better else -1) if math.isfinite(gap) else 0.0
        if pair.get("by") == "diverged":
            told = pair.get("diverged")
            lost = numbers(told) if isinstance(told, list) and len(told) == 2 else [0.0, 0.0]
            more = (lost[0] > lost[1]) != turned
            lean, text = (-1.0 if more else 1.0), "diverges more" if more else "diverges less"
    small = f"{signed(key, low)} to {signed(key, high)}" if math.isfinite(low) and math.isfinite(high) else ""
    return Entry(text, small, words, lean)


def _numbers(pair: dict[str, Any], *, turned: bool) -> tuple[float, float, float, float]:
    gap, low, high, p = numbers(pair.get(k) for k in ("difference", "low", "high", "p"))
    return (-gap, -high, -low, p) if turned else (gap, low, high, p)


def _row(a: str, b: str, pair: dict[str, Any], key: str) -> list[str]:
    gap, low, high, p = _numbers(pair, turned=False)
    span = f"{signed(key, low)} to {signed(key, high)}" if math.isfinite(low) and math.isfinite(high) else "–"
    return [a, b, f"{signed(key, gap)}{_unit(key)}", span, f"{p:.2g}", "yes" if shown(pair) else "no"]


def _unit(key: str) -> str:
    return " points" if is_percent(key) else ""


def signed(key: str, value: float) -> str:
    """A difference with its sign; of shares in percentage points.

    >>> signed("accuracy", -0.004), signed("loss", 0.0312), signed("loss", float("nan"))
    ('−0.40', '+0.0312', '–')
    """
    if not math.isfinite(value):
        return "–"
    text = f"{100 * value:+.2f}" if is_percent(key) else f"{'+' if value >= 0 else ''}{number(value, 3)}"
    return text.replace("-", "−")
