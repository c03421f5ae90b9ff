"""Predicted against true values of a regression, and how large its errors are."""

import math
from typing import Any

from fallline.report.figures.shapes import Bars, Dots, Scatter, Table, numbers
from fallline.report.words import count, number

MOST = 1500
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def quantile(ordered: list[float], share: float) -> float:
    """The value below which a share of sorted values lies, linear between neighbours.

    >>> quantile([1.0, 2.0, 3.0], 0.25)
    1.5
    """
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def pairs(raw: Any) -> tuple[list[float], list[float], str] | None:
    """True and predicted values out of run.json's `result.predictions`, finite ones only."""
    if not isinstance(raw, dict):
        return None
    true, predicted = raw.get("true"), raw.get("predicted")
    if not isinstance(true, list) or not isinstance(predicted, list) or len(true) != len(predicted):
        return None
    both = [(a, b) for a, b in zip(numbers(true), numbers(predicted), strict=True) if math.isfinite(a) and math.isfinite(b)]
    return ([a for a, _ in both], [b for _, b in both], str(raw.get("split", "test"))) if both else None


def predicted_against_true(raw: Any, target: str = "target") -> Scatter | None:
    """A dot for each row; on the diagonal the prediction is right. None where no predictions were stored."""
    found = pairs(raw)
    if found is None:
        return None
    true, predicted, split = found
    every = max(1, -(-len(true) // MOST))
    x, y = true[::every], predicted[::every]
    error = sorted(abs(a - b) for a, b in zip(true, predicted, strict=True))
    says = f"Half of the {count(len(true), f'{split} row')} are predicted to within {number(quantile(error, 0.5), 3)}."
    note = f"One row in {every} is drawn." if every > 1 else ""
    table = Table([f"true {target}", "predicted"], [[number(a), number(b)] for a, b in list(zip(x, y, strict=True))[:50]])
    return Scatter(
        "predicted",
        "Predicted against true",
        f"true {target}",
        "predicted",
        [Dots("rows", "accent", x, y, [])],
        says,
        f"Scatter chart of predicted against true values. {says}",
        table,
        note,
        diagonal=True,
    )


def residual_bars(raw: Any, target: str = "target", bins: int = 31) -> Bars | None:
    """A histogram of predicted minus true, over its central 99 %."""
    found = pairs(raw)
    if found is None:
        return None
    true, predicted, split = found
    errors = sorted(b - a for a, b in zip(true, predicted, strict=True))
    low, high = quantile(errors, 0.005), quantile(errors, 0.995)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    width = (high - low) / bins
    edges = [low + i * width for i in range(bins + 1)]
    heights = [0.0] * bins
    for e in errors:
        if low <= e <= high:
            heights[min(bins - 1, int((e - low) / width))] += 1
    five, ninety_five = quantile(errors, 0.05), quantile(errors, 0.95)
    says = f"Nine of ten errors on {split} rows lie between {number(five, 3)} and {number(ninety_five, 3)}."
    table = Table(["share of rows", "error at most"], [[f"{100 * q:.0f} %", number(quantile(errors, q))] for q in QUANTILES])
    return Bars(
        "residuals", "Errors", f"predicted − true {target}", "rows", edges, heights, says, f"Histogram of the errors. {says}", table
    )
