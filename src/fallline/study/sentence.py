"""What a study has shown, in words: what beats what by how much, and what cannot be told apart.

Every "beats" rests on a corrected p-value of at most 0.05 (`pairs.py`); "cannot be told apart" says only that these seeds do not show a
difference, not that there is none. Rows that stand alike to all other rows are spoken of together. Being told apart is not transitive
(a and b, b and c may be alike while a beats c), so groups are never made larger than that.

The numbers are 95 % intervals of the paired difference, of each pair alone; where several pairs are spoken of at once, from the lowest end
of all their intervals to the highest. Shares (accuracy, F1, ...) are given in points, hundredths; other metrics in their own unit.

More than five names are never listed where a number says the same: "none of the 16", "the other 9", "the first 7" (of the table).
"""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

from fallline import record
from fallline.study.pairs import LEVEL

Row = Mapping[str, Any]
_SIZE = re.compile(r"batch size \S+")
ASIDE = 4  # so many names in a row may be said as "all others" or "and all below it"
MOST = 5  # names that are listed; of more, their number is said


class Edge(NamedTuple):
    """One shown difference: what it rests on (the pair's `by`), and by how much the winner leads; None: not known."""

    by: str
    low: float | None
    high: float | None


class Claim(NamedTuple):
    """Every one of `winners` beats every one of `losers`."""

    by: str
    winners: tuple[str, ...]
    losers: tuple[str, ...]
    low: float | None
    high: float | None


class Tie(NamedTuple):
    """No difference is shown among `names`; nor, where they are `apart`, between them and any other."""

    names: tuple[str, ...]
    apart: bool


class Order(NamedTuple):
    """Every group beats every later one; `leads` are the claims between neighbours."""

    groups: tuple[tuple[str, ...], ...]
    leads: tuple[Claim, ...]


Statement = Claim | Tie | Order


def shown_values(pairs: Sequence[Row], lower: bool) -> dict[tuple[str, str], Edge]:
    """The differences of the metric that are shown, by (winner, loser).

    Args:
        pairs: of `differences`.
        lower: whether a lower value is better.
    """
    out = {}
    for pair in pairs:
        if pair["p"] is None or pair["p"] > LEVEL:
            continue
        a, b = pair["a"], pair["b"]
        if pair["by"] == "diverged":
            out[(a, b) if pair["diverged"][0] < pair["diverged"][1] else (b, a)] = Edge("diverged", None, None)
            continue
        low, high = pair["low"], pair["high"]
        if (pair["difference"] < 0) == lower:
            out[(a, b)] = Edge(pair["by"], -high if lower else low, -low if lower else high)
        else:
            out[(b, a)] = Edge(pair["by"], low if lower else -high, high if lower else -low)
    return out


def shown_ratios(pairs: Sequence[Row]) -> dict[tuple[str, str], Edge]:
    """The differences in steps to the target that are shown, by (faster, slower); the lead is how many times as many steps.

    Args:
        pairs: of `differences`.
    """
    out = {}
    for pair in pairs:
        if pair["ratio_p"] is None or pair["ratio_p"] > LEVEL:
            continue
        low, high = pair["ratio_low"], pair["ratio_high"]
        if pair["faster"] == pair["a"]:
            low, high = (1 / high if high else None), (1 / low if low else None)
        known = pair["ratio_by"] == "steps" and low is not None and low > 1
        slower = pair["b"] if pair["faster"] == pair["a"] else pair["a"]
        out[pair["faster"], slower] = Edge(pair["ratio_by"], low if known else None, high if known else None)
    return out


def statements(names: Sequence[str], edges: Mapping[tuple[str, str], Edge]) -> list[Statement]:
    """What the shown differences say about the names together, each said once.

    Args:
        names: the best first.
        edges: by (winner, loser).
    """
    groups = _groups(names, edges)
    between = [edges.get((a[0], b[0])) for a, b in combinations(groups, 2)]
    if len(groups) > 2 and all(edge is not None and edge.by in ("value", "steps") for edge in between):
        leads = tuple(_claim(a, b, edges) for a, b in pairwise(groups))
        return [Order(tuple(groups), leads), *(Tie(group, False) for group in groups if len(group) > 1)]
    out: list[Statement] = []
    for group in groups:
        first = group[0]
        apart = len(groups) > 1 and not any(first in edge for edge in edges)
        if len(group) > 1 or apart:
            out.append(Tie(group, apart))
        won = {loser: edges[first, loser].by for loser in names if (first, loser) in edges}
        for by in dict.fromkeys(won.values()):
            losers = tuple(loser for loser, kind in won.items() if kind == by)
            out.append(_claim(group, losers, edges))
    return out


def sentence(rows: Sequence[Row], pairs: Sequence[Row], most: int = MOST) -> str:
    """What is shown about the metric.

    Args:
        rows: of `ranking.table`: `cell`, `rank`, `mean`, `low`, `high`, `metric`, `seeds`, `diverged` are read.
        pairs: of `differences`.
        most: names that are listed; of more, their number is said.

    >>> row = {"metric": "accuracy", "seeds": 5, "diverged": 0}
    >>> rows = [{**row, "cell": "adam", "rank": 1, "mean": 0.9}, {**row, "cell": "sgd", "rank": 2, "mean": 0.8}]
    >>> pair = {"a": "adam", "b": "sgd", "n": 5, "difference": 0.1, "low": 0.081, "high": 0.12, "p": 0.001, "by": "value"}
    >>> sentence(rows, [pair])
    'adam beats sgd by 8.1 to 12 points'
    """
    if not rows:
        return "no member was finished"
    if all(row["mean"] is None for row in rows):
        return "every run diverged; smaller learning rates are worth a try"
    return "; ".join([*_ranked_words(rows, pairs, most), *facts(rows, most)])


def steps_sentence(rows: Sequence[Row], pairs: Sequence[Row], target: float) -> str:
    """What is shown about the steps to the target; "" where there is none, or nothing to compare.

    Args:
        rows: of `ranking.table`.
        pairs: of `differences`.
        target: that steps are counted to.
    """
    asked = [pair for pair in pairs if pair["ratio_p"] is not None]
    if not asked or not math.isfinite(target) or max(pair["n"] for pair in asked) < 2:
        return ""
    ranked = [row["cell"] for row in rows if row["rank"] is not None]
    goal = f"{record.key(rows[0]['metric']).label} {target:.4g}"
    found = steps_clauses(ranked, asked)
    return f"to reach {goal}, {'; '.join(found)}" if found else f"no difference in the steps to {goal} is shown"


def steps_clauses(names: Sequence[str], pairs: Sequence[Row]) -> list[str]:
    """The shown differences in steps among names, each as a clause.

    Args:
        names: the best first.
        pairs: of these names, as `differences` gives them.
    """
    found = statements(names, shown_ratios(pairs))
    return [_steps_words(s, names, MOST) for s in found if not isinstance(s, Tie)]


def _ranked_words(rows: Sequence[Row], pairs: Sequence[Row], most: int) -> list[str]:
    ranked = [row for row in rows if row["rank"] is not None]
    key = record.key(rows[0]["metric"])
    if not ranked:
        return ["nothing is ranked"]
    if len(ranked) == 1:
        only = ranked[0]
        if only["mean"] is None:
            return ["there is nothing to compare"]
        spread = f" (95 % interval {only['low']:.4g} to {only['high']:.4g})" if only["low"] is not None else ""
        seeds = f"{only['seeds']} seed{'s' if only['seeds'] > 1 else ''}"
        text = f"{only['cell']} has a mean validation {key.label} of {only['mean']:.4g}{spread} over {seeds}"
        return [text, "there is nothing to compare it with"]
    asked = [pair for pair in pairs if pair["p"] is not None]
    if max(pair["n"] for pair in asked) < 2:
        return ["one seed shows no difference, take three or more" if any(pair["n"] for pair in asked) else "no two rows share a seed"]
    return value_clauses([row["cell"] for row in ranked], asked, rows[0]["metric"], most)


def value_clauses(names: Sequence[str], pairs: Sequence[Row], metric: str, most: int = MOST) -> list[str]:
    """What is shown of the metric among names, and what is not, each as a clause.

    Args:
        names: the best first, two or more.
        pairs: of these names, as `differences` gives them; some with two seeds or more.
        metric: what was compared.
        most: names that are listed; of more, their number is said.
    """
    seeds = seeds_words(pairs)
    edges = shown_values(pairs, record.key(metric).better == "lower")
    found = statements(names, edges)
    out: list[str] = []
    told: set[str] = set()  # names that were spoken of
    for before, now in zip([None, *found], found, strict=False):
        said = before.names if isinstance(before, Tie) else ()
        if isinstance(now, Tie):
            out.append(_tie_words(now, names, told, seeds, most))
            told |= set(now.names)
        else:
            out.append(_value_words(now, names, said, metric, most))
            told |= {name for group in now.groups for name in group} if isinstance(now, Order) else set(now.winners)
    known = {frozenset(edge) for edge in edges}
    for now in found:
        if isinstance(now, Tie):
            known |= {frozenset((a, b)) for a in now.names for b in (names if now.apart else now.names)}
    if any(frozenset(pair) not in known for pair in combinations(names, 2)):
        out.append(f"no other difference is shown at {seeds}")
    return out


def seeds_words(pairs: Sequence[Row]) -> str:
    """On how many seeds the pairs rest.

    >>> seeds_words([{"n": 5}, {"n": 4}])
    '4 to 5 seeds'
    """
    counts = sorted({pair["n"] for pair in pairs})
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def facts(rows: Sequence[Row], most: int = MOST) -> list[str]:
    """Which runs diverged and which rows are not ranked, in words.

    Args:
        rows: of `ranking.table`.
        most: names that are listed; of more, their number is said.
    """
    lost = [row for row in rows if row["diverged"]]
    out = [f"{_all_or(row['diverged'], row['seeds'])} of {row['cell']} diverged" for row in lost]
    if len(lost) > most:
        bad, of = sum(row["diverged"] for row in lost), sum(row["seeds"] for row in lost)
        out = [f"{bad} of {of} runs of {len(lost)} of the {len(rows)} diverged"]
    edge = [row["cell"] for row in rows if row["rank"] is None]
    if edge:
        one = len(edge) == 1
        who = listed(edge) if len(edge) <= most else f"{len(edge)} of the {len(rows)}"
        out.append(
            f"{who} {'is' if one else 'are'} not ranked: "
            f"{'its best learning rate stands' if one else 'their best learning rates stand'} at the edge of what was tried"
        )
    return out


def _all_or(bad: int, of: int) -> str:
    if of == 1:
        return "the only run"
    return f"all {of} runs" if bad == of else f"{bad} of {of} runs"


def _value_words(found: Claim | Order, names: Sequence[str], said: tuple[str, ...], metric: str, most: int) -> str:
    unit, scale = unit_of(metric)
    if isinstance(found, Order):
        behind = [f"{_some(c.losers, names, most)} ({span(c, scale)}{unit} behind)" for c in found.leads]
        return f"in this order, each beats all that follow: {', then '.join([_some(found.groups[0], names, most), *behind])}"
    losers, winners = _others(found.losers, found.winners, names, most), _some(found.winners, names, most)
    if found.by == "diverged":
        return f"{losers} diverge{_s(found.losers, losers)} more often than {winners}"
    who = winners if said != found.winners else "both" if len(said) == 2 else f"all {len(said)}"
    where = " on the seeds where neither diverged" if found.by == "whole" else ""
    return f"{who} beat{_s(found.winners)} {losers} by {span(found, scale)}{unit}{where}"


def _steps_words(found: Claim | Order, names: Sequence[str], most: int) -> str:
    if isinstance(found, Order):
        behind = [f"{_some(c.losers, names, most)} ({_times(c)})" for c in found.leads]
        return f"each needs fewer steps than all that follow: {', then '.join([_some(found.groups[0], names, most), *behind])}"
    losers, winners = _others(found.losers, found.winners, names, most), _some(found.winners, names, most)
    if found.by == "ranks":
        return f"{losers} get{_s(found.losers, losers)} there later or less often than {winners}"
    return f"{losers} need{_s(found.losers, losers)} {_times(found)} {'than' if found.low is None else 'as'} {winners}"


def _times(found: Claim) -> str:
    if found.low is None:
        return "more steps"
    if found.high is None:
        return f"at least {_ratio(found.low)} times as many steps"
    low, high = _ratio(found.low), _ratio(found.high)
    return f"{low} times as many steps" if low == high else f"{low} to {high} times as many steps"


def _tie_words(found: Tie, names: Sequence[str], told: set[str], seeds: str, most: int) -> str:
    if len(found.names) == len(names) > most:
        return f"none of the {len(names)} can be told apart at {seeds}"
    rest = len(found.names) > most and told == set(names) - set(found.names)
    who = f"the other {len(found.names)}" if rest else _some(found.names, names, most)
    if not found.apart:
        return f"{who} cannot be told apart at {seeds}"
    each = "each other or from " if len(found.names) > 1 else ""
    return f"{who} cannot be told apart from {each}any other at {seeds}"


def _groups(names: Sequence[str], edges: Mapping[tuple[str, str], Edge]) -> list[tuple[str, ...]]:
    """Names that stand alike to every other name, in the order of their first one."""
    alike: dict[frozenset, list[str]] = {}
    for name in names:
        wins = {(loser, edge.by, True) for (winner, loser), edge in edges.items() if winner == name}
        losses = {(winner, edge.by, False) for (winner, loser), edge in edges.items() if loser == name}
        alike.setdefault(frozenset(wins | losses), []).append(name)
    return [tuple(group) for group in alike.values()]


def _claim(winners: tuple[str, ...], losers: tuple[str, ...], edges: Mapping[tuple[str, str], Edge]) -> Claim:
    found = [edges[w, loser] for w in winners for loser in losers]
    lows, highs = [e.low for e in found if e.low is not None], [e.high for e in found if e.high is not None]
    whole = len(lows) == len(found)
    return Claim(found[0].by, winners, losers, min(lows) if whole else None, max(highs) if whole and len(highs) == len(found) else None)


def _others(losers: tuple[str, ...], winners: tuple[str, ...], names: Sequence[str], most: int) -> str:
    if len(losers) >= ASIDE:
        if set(losers) | set(winners) == set(names):
            return "all others"
        below = tuple(names[names.index(losers[0]) :])
        if losers == below:
            return f"{losers[0]} and all below it"
    return _some(losers, names, most)


def _some(some: Sequence[str], names: Sequence[str], most: int) -> str:
    """Names as a list; more than `most` by their number: the first or the last of the table, or the two best and how many more."""
    n = len(some)
    if n <= most:
        return listed(some)
    places = "first" if tuple(some) == tuple(names[:n]) else "last" if tuple(some) == tuple(names[-n:]) else ""
    return f"the {places} {n}" if places else f"{some[0]}, {some[1]} and {n - 2} more"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    >>> listed(["batch size 32", "batch size 128"])
    'batch sizes 32 and 128'
    """
    if len(names) > 1 and all(_SIZE.fullmatch(name) for name in names):
        return f"batch sizes {listed([name.split(' ')[-1] for name in names])}"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def in_units(value: float, metric: str) -> str:
    """A difference of the metric with its unit, in points where it is a share.

    >>> in_units(0.0312, "accuracy"), in_units(0.25, "loss")
    ('3.1 points', '0.25 in loss')
    """
    unit, scale = unit_of(metric)
    return f"{_two(scale * value)}{unit}"


def _s(names: tuple[str, ...], said: str = "") -> str:
    return "s" if len(names) == 1 and not said.startswith("all") else ""


def span(found: Claim, scale: float) -> str:
    """From where to where the winners lead, times `scale`."""
    low, high = _two(scale * (found.low or 0.0)), _two(scale * (found.high or 0.0))
    return low if low == high else f"{low} to {high}"


def _two(value: float) -> str:
    """The value with two digits that count, all digits before the point kept.

    >>> _two(3.14), _two(0.0312), _two(123.4), _two(4.0)
    ('3.1', '0.031', '123', '4.0')
    """
    digits = 1 - math.floor(math.log10(abs(value))) if value else 1
    return f"{value:.{max(0, digits)}f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else _two(value)


def unit_of(metric: str) -> tuple[str, float]:
    """The metric's unit as it follows a number, and by what its values are multiplied."""
    key = record.key(metric)
    return (" points", 100.0) if key.unit == "fraction" else (f" in {key.label}", 1.0)
