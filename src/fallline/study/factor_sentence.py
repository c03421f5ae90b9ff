"""What a study of several factors has shown, in words: the best cell, then a line for each factor, its levels over all the others.

"adam at batch size 32 with mse is the best of 8 cells at 0.9712: it beats 5 others by 1.2 to 9.3 points and 2 others cannot be told apart
from it at 5 seeds"; then "optimizers, over all batch sizes and losses: adam beats sgd by 3.1 to 4.0 points".
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fallline import record
from fallline.study.pairs import LEVEL
from fallline.study.sentence import Claim, listed, seeds_words, shown_values, span, steps_clauses, unit_of, value_clauses

Row = Mapping[str, Any]
PLURAL = {"optimizer": "optimizers", "batch_size": "batch sizes", "loss": "losses", "schedule": "schedules"}
SINGULAR = {"optimizer": "optimizer", "batch_size": "batch size", "loss": "loss", "schedule": "schedule"}


def factor_lines(found: Sequence[Row], metric: str) -> list[str]:
    """What is shown of the metric, a line for every factor.

    Args:
        found: of `factors`, not empty.
        metric: that ranks.
    """
    out = []
    for factor in found:
        if compared(factor):
            clauses = value_clauses([level["level"] for level in factor["levels"]], factor["pairs"], metric)
            out.append(f"{PLURAL[factor['factor']]}, {over(factor)}: {'; '.join([*clauses, *turns_words(factor)])}")
        elif factor["left_out"]:
            out.append(f"{PLURAL[factor['factor']]} are not compared: {factor['left_out']}")
    return out


def factor_steps(found: Sequence[Row], metric: str, target: float) -> list[str]:
    """What is shown of the steps to the target, a line for every factor; none where there is no target.

    Args:
        found: of `factors`.
        metric: that the target is a value of.
        target: that steps are counted to.
    """
    if not math.isfinite(target):
        return []
    goal = f"{record.key(metric).label} {target:.4g}"
    out, missed = [], False
    for factor in found:
        clauses = steps_clauses([level["level"] for level in factor["levels"]], factor["pairs"])
        out += [f"to reach {goal}, {over(factor, steps=True)}, {'; '.join(clauses)}"] if clauses else []
        missed = missed or any(level["steps"] is None or factor["steps_over"] < len(level["cells"]) for level in factor["levels"])
    out = out or [f"no difference in the steps to {goal} is shown of any factor"]
    return [*out, "combinations in which a run never reached it are left out of this"] if missed else out


def compared(factor: Row) -> bool:
    """Whether the levels of a factor could be compared at all: two seeds or more."""
    return any(pair["n"] > 1 for pair in factor["pairs"])


def over(factor: Row, *, steps: bool = False) -> str:
    """Over what the levels of a factor were averaged.

    Args:
        factor: of `factors`.
        steps: whether their steps are spoken of.

    >>> over({"over": ["batch_size", "loss"], "whole": True, "levels": []})
    'over all batch sizes and losses'
    """
    cells = len(factor["levels"][0]["cells"]) if factor["levels"] else 0
    count = factor["steps_over"] if steps else cells
    if factor["whole"] and count == cells:
        return f"over all {listed([PLURAL[name] for name in factor['over']])}"
    what = listed([SINGULAR[name] for name in factor["over"]])
    if len(factor["over"]) == 1:
        return f"over {count} {PLURAL[factor['over'][0]]}" if count > 1 else f"at one {what}"
    return f"over {count} combinations of {what}" if count > 1 else f"at one combination of {what}"


def turns_words(factor: Row) -> list[str]:
    """A clause for every two levels of which another factor is shown to decide who leads."""
    return [
        f"but who leads, {turn['a']} or {turn['b']}, depends on the {SINGULAR[turn['factor']]}: "
        f"{turn['a']} leads at {turn['a_leads_at']}, {turn['b']} at {turn['b_leads_at']}"
        for turn in factor["turns"]
        if turn["p"] <= LEVEL
    ]


def best_cell(rows: Sequence[Row], pairs: Sequence[Row]) -> str:
    """The cell that stands first, and how it stands to the others; "" where none is ranked.

    Args:
        rows: of `ranking.table`.
        pairs: of `differences`.
    """
    ranked = [row for row in rows if row["rank"] is not None]
    if not ranked or ranked[0]["mean"] is None:
        return ""
    best, metric = ranked[0], rows[0]["metric"]
    unit, scale = unit_of(metric)
    text = f"{best['cell']} is the best of {len(rows)} cells at {best['mean']:.4g}"
    asked = [pair for pair in pairs if pair["p"] is not None and best["cell"] in (pair["a"], pair["b"])]
    if not any(pair["n"] > 1 for pair in asked):
        return text
    edges = shown_values(asked, record.key(metric).better == "lower")
    won = {loser: edge for (winner, loser), edge in edges.items() if winner == best["cell"]}
    led = {loser: edge for loser, edge in won.items() if edge.low is not None and edge.high is not None}
    lost, rest = len(edges) - len(won), len(ranked) - 1 - len(edges)
    words = []
    if led:
        lead = Claim("value", (), (), min(e.low for e in led.values() if e.low is not None), max(e.high or 0.0 for e in led.values()))
        words.append(f"it beats {_others(len(led), len(ranked) - 1)} by {span(lead, scale)}{unit}")
    if len(won) > len(led):
        bad = len(won) - len(led)
        words.append(f"{_others(bad, len(ranked) - 1)} diverge{'s' if bad == 1 else ''} more often")
    if lost:
        words.append(f"{_others(lost, len(ranked) - 1)} beat{'s' if lost == 1 else ''} it on the seeds where neither diverged")
    if rest:
        which = f"none of the other {rest} can" if not edges and rest > 1 else f"{_others(rest, len(ranked) - 1)} cannot"
        words.append(f"{which} be told apart from it at {seeds_words(asked)}")
    return f"{text}: {listed(words)}"


def _others(count: int, of: int) -> str:
    return f"all {of} others" if count == of > 1 else "the other one" if count == of else "one other" if count == 1 else f"{count} others"
