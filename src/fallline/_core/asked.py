"""How many questions a study answers together, and how an interval and a verdict that stand side by side are to be read.

Read from the rows of a study as run.json holds them, so that the page and the terminal say the same; whatever a row lacks is not counted.
"""

from collections.abc import Iterable
from typing import Any


def questions(pairs: Any, factors: Any) -> int:
    """How many questions a study answers together: of every two cells and every two levels the metric and the steps, and every turn.

    Args:
        pairs: of `pairs.differences`.
        factors: of `pairs.factors`.

    >>> questions([{"p": 0.1, "ratio_p": None}, {"p": 0.1, "ratio_p": 1.0}], [])
    3
    """
    found = list(_rows(factors))
    every = [*_rows(pairs), *(pair for factor in found for pair in _rows(factor.get("pairs")))]
    turns = sum(turn.get("p") is not None for factor in found for turn in _rows(factor.get("turns")))
    return sum((pair.get("p") is not None) + (pair.get("ratio_p") is not None) for pair in every) + turns


def corrected(count: int) -> str:
    """How an interval and a verdict that stand side by side are to be read.

    >>> corrected(1)
    'each 95 % interval is of its own mean or difference alone'
    """
    alone = "each 95 % interval is of its own mean or difference alone"
    over = "both questions" if count == 2 else f"all {count} questions"
    return f"{alone}; a difference is called shown where it holds at 5 % over {over} of the study together" if count > 1 else alone


def _rows(raw: Any) -> Iterable[dict[str, Any]]:
    return [row for row in raw if isinstance(row, dict)] if isinstance(raw, (list, tuple)) else []
