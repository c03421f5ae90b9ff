"""What a study has shown, in words for a reader: one sentence that comes first, then a line for each further thing, then how it was judged.

Every number is an interval of its own mean or pair alone; every "beats" holds after the correction over all questions that the study asks
(`pairs.judged`). Both are said once, in `Verdict.basis`, wherever an interval and a verdict stand side by side.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fallline import record
from fallline._core.asked import corrected, questions
from fallline.study.factor_sentence import best_cell, factor_lines, factor_steps
from fallline.study.factor_sentence import compared as levels_compared
from fallline.study.pairs import LEVEL, judged
from fallline.study.sentence import facts, in_units, sentence, steps_sentence

Row = Mapping[str, Any]
USUAL = 5  # seeds


class Verdict(NamedTuple):
    """The result in words: the sentence that comes first, the lines below it, and how it was judged ("" where nothing was)."""

    headline: str
    shown: list[str]
    basis: str


def verdict(rows: Sequence[Row], metric: str) -> Verdict:
    """What the rows show.

    Args:
        rows: of `ranking.table`.
        metric: that ranks.

    >>> verdict([], "accuracy")
    Verdict(headline='no member was finished', shown=[], basis='')
    """
    pairs, found = judged(rows)
    asked = [pair for pair in pairs if pair["p"] is not None and pair["n"] > 1]
    target = math.nan if not rows or rows[0]["target"] is None else rows[0]["target"]
    several = any(row["mean"] is not None for row in rows) and any(levels_compared(factor) for factor in found)
    if several:
        first, shown = best_cell(rows, pairs), [*factor_lines(found, metric), *facts(rows)]
        first, shown = (first, shown) if first else ("nothing is ranked", shown)
    else:
        first, shown = sentence(rows, pairs), []
    if not asked or all(row["mean"] is None for row in rows):
        return Verdict(first, shown, "")
    steps = factor_steps(found, metric, target) if several else [steps_sentence(rows, pairs, target)]
    shown += [f"steps: {line}" for line in steps if line]
    return Verdict(first, shown, _basis(rows, metric, asked, questions(pairs, found)))


def _basis(rows: Sequence[Row], metric: str, asked: Sequence[Row], count: int) -> str:
    seeds = max(pair["n"] for pair in asked)
    said = [f"validation {record.key(metric).label}, compared seed by seed; {corrected(count)}"]
    visible = rows[0]["visible"]
    if visible and any(pair["p"] > LEVEL for pair in asked):
        if record.key(metric).unit != "fraction" or visible < 1:
            said.append(f"{seeds} seeds show differences between two cells from about {in_units(visible, metric)} on")
        elif all(pair["p"] > LEVEL for pair in asked):
            more = f"; take {USUAL} or more" if seeds < USUAL else "; take more seeds, or fewer cells"
            said.append(f"of two cells alone nothing could be shown with these {seeds} seeds{more}")
    return "; ".join(said)


def warning_of_few(seeds: int, cells: int) -> str:
    """What is said before a study whose seeds can show almost nothing is trained; "" where there is nothing to say.

    >>> warning_of_few(3, 9)
    '3 seeds over 36 pairs of cells can show only large differences; 5 or more are usual'
    >>> warning_of_few(1, 2), warning_of_few(5, 9), warning_of_few(3, 1)
    ('one seed can show no difference; 5 or more are usual', '', '')
    """
    pairs = math.comb(cells, 2)
    if seeds >= USUAL or not pairs:
        return ""
    if seeds == 1:
        return f"one seed can show no difference; {USUAL} or more are usual"
    over = f" over {pairs} pairs of cells" if pairs > 1 else ""
    return f"{seeds} seeds{over} can show only large differences; {USUAL} or more are usual"
