"""The sentence is read back: it must say every difference that is shown, with the right sign and span, and no other."""

import math
import re
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallline.study.sentence import sentence, shown_ratios, steps_sentence

# ---- what the tests build: rows in the order of the table, and the pairs that are shown


def row(cell, rank=1, mean=0.9, metric="accuracy", seeds=5, diverged=0):
    return {"cell": cell, "rank": rank, "mean": mean, "low": 0.89, "high": 0.91, "metric": metric, "seeds": seeds, "diverged": diverged}


def pair(a, b, low=None, high=None, *, by="value", n=5, diverged=(0, 0), p=None):
    """A pair; with an interval of a - b it is shown."""
    shown = low is not None or by == "diverged"
    p = p if p is not None else 0.01 if shown else 0.3
    low, high = (-0.5, 0.5) if low is None else (low, high)
    steps = {"ratio": None, "ratio_low": None, "ratio_high": None, "ratio_p": None, "ratio_by": None, "faster": None, "missed": [0, 0]}
    return {
        "a": a,
        "b": b,
        "n": n,
        "difference": (low + high) / 2,
        "low": low,
        "high": high,
        "p": p,
        "by": by,
        "diverged": diverged,
        **steps,
    }


def said(names, *shown, metric="accuracy", **rows):
    """The sentence about the names, the best first, where only `shown` pairs are shown."""
    given_ = {(p["a"], p["b"]): p for p in shown}
    pairs = [given_.get((a, b), pair(a, b)) for a, b in combinations(names, 2)]
    return sentence([row(name, metric=metric, **rows.get(name, {})) for name in names], pairs)


# ---- exact words


def test_the_example_of_the_manual():
    text = said(["rmsprop", "adam", "sgd"], pair("rmsprop", "sgd", 0.033, 0.04), pair("adam", "sgd", 0.031, 0.038))
    assert text == "rmsprop and adam cannot be told apart at 5 seeds; both beat sgd by 3.1 to 4.0 points"


def test_nothing_is_shown():
    assert said(["a", "b"]) == "a and b cannot be told apart at 5 seeds"
    assert said(["a", "b", "c"]) == "a, b and c cannot be told apart at 5 seeds"


def test_all_three_beat_one():
    shown = [pair(x, "d", 0.01, 0.02) for x in "abc"]
    assert said("abcd", *shown) == "a, b and c cannot be told apart at 5 seeds; all 3 beat d by 1.0 to 2.0 points"


def test_one_beats_two_that_are_alike():
    shown = [pair("a", "b", 0.01, 0.02), pair("a", "c", 0.012, 0.03)]
    assert said("abc", *shown) == "a beats b and c by 1.0 to 3.0 points; b and c cannot be told apart at 5 seeds"


def test_alike_is_not_transitive():
    text = said("abc", pair("a", "c", 0.01, 0.02))
    assert text == "a beats c by 1.0 to 2.0 points; b cannot be told apart from any other at 5 seeds"


def test_a_longer_chain_of_neighbours_that_are_alike():
    text = said("abcd", pair("a", "c", 0.01, 0.02), pair("a", "d", 0.03, 0.04), pair("b", "d", 0.02, 0.03))
    assert text == "a beats c and d by 1.0 to 4.0 points; b beats d by 2.0 to 3.0 points; no other difference is shown at 5 seeds"


def test_two_that_stand_apart():
    text = said("abcd", pair("a", "d", 0.01, 0.02))
    assert text == "a beats d by 1.0 to 2.0 points; b and c cannot be told apart from each other or from any other at 5 seeds"


def test_a_whole_order():
    shown = [pair(x, y, 0.01, 0.02) for x, y in combinations("abcd", 2) if (x, y) != ("b", "c")]
    text = said("abcd", *shown)
    assert text == (
        "in this order, each beats all that follow: a, then b and c (1.0 to 2.0 points behind), then d (1.0 to 2.0 points behind); "
        "b and c cannot be told apart at 5 seeds"
    )


def test_an_order_is_of_values_only():
    lost = {"diverged": 4}
    shown = [pair("a", "b", 0.01, 0.02), pair("a", "c", 0.03, 0.04), pair("b", "c", by="diverged", diverged=[0, 4])]
    assert said("abc", *shown, c=lost) == ("a beats b and c by 1.0 to 4.0 points; c diverges more often than b; 4 of 5 runs of c diverged")


def test_many_losers_are_named_together():
    names = ["a", "b", "c", "d", "e", "f"]
    text = said(names, *[pair("a", x, 0.01, 0.02) for x in names[1:]])
    assert text == "a beats all others by 1.0 to 2.0 points; b, c, d, e and f cannot be told apart at 5 seeds"  # five are still listed
    text = said(names, *[pair("a", x, 0.01, 0.02) for x in names[2:]])
    assert text.startswith("a beats c and all below it by 1.0 to 2.0 points; b cannot be told apart from any other at 5 seeds")


SIXTEEN = [f"o{i}" for i in range(16)]


def test_sixteen_that_are_alike():
    assert said(SIXTEEN) == "none of the 16 can be told apart at 5 seeds"
    assert said(SIXTEEN[:6]) == "none of the 6 can be told apart at 5 seeds"


def test_one_that_beats_fifteen():
    shown = [pair("o0", x, 0.01, 0.02) for x in SIXTEEN[1:]]
    assert said(SIXTEEN, *shown) == "o0 beats all others by 1.0 to 2.0 points; the other 15 cannot be told apart at 5 seeds"


def test_many_that_beat_one_or_two():
    shown = [pair(x, "o15", 0.01, 0.02) for x in SIXTEEN[:15]]
    assert said(SIXTEEN, *shown) == "the first 15 cannot be told apart at 5 seeds; all 15 beat o15 by 1.0 to 2.0 points"
    shown += [pair(x, "o14", 0.01, 0.02) for x in SIXTEEN[:14]]
    assert said(SIXTEEN, *shown) == (
        "in this order, each beats all that follow: the first 14, then o14 (1.0 to 2.0 points behind), then o15 (1.0 to 2.0 points "
        "behind); the first 14 cannot be told apart at 5 seeds"
    )
    assert said(SIXTEEN, *[pair(x, y, 0.01, 0.02) for x in SIXTEEN[:14] for y in ("o14", "o15")]) == (
        "the first 14 cannot be told apart at 5 seeds; all 14 beat o14 and o15 by 1.0 to 2.0 points; "
        "o14 and o15 cannot be told apart at 5 seeds"
    )


def test_an_order_of_many():
    level = [0] * 2 + [1] * 7 + [2] * 7
    shown = [pair(x, y, 0.01, 0.02) for (i, x), (j, y) in combinations(enumerate(SIXTEEN), 2) if level[i] < level[j]]
    assert said(SIXTEEN, *shown) == (
        "in this order, each beats all that follow: o0 and o1, then o2, o3 and 5 more (1.0 to 2.0 points behind), then the last 7 "
        "(1.0 to 2.0 points behind); o0 and o1 cannot be told apart at 5 seeds; o2, o3 and 5 more cannot be told apart at 5 seeds; "
        "the last 7 cannot be told apart at 5 seeds"
    )


def test_many_that_are_alike_but_stand_apart():
    text = said(SIXTEEN, pair("o0", "o15", 0.01, 0.02))
    assert text == (
        "o0 beats o15 by 1.0 to 2.0 points; o1, o2 and 12 more cannot be told apart from each other or from any other at 5 seeds"
    )


def test_many_that_diverged_or_stand_at_the_edge():
    rows = [row(x, diverged=2) for x in SIXTEEN[:6]] + [row(x, rank=None) for x in SIXTEEN[6:]]
    pairs = [pair(a, b) for a, b in combinations(SIXTEEN[:6], 2)]
    assert sentence(rows, pairs) == (
        "none of the 6 can be told apart at 5 seeds; 12 of 30 runs of 6 of the 16 diverged; "
        "10 of the 16 are not ranked: their best learning rates stand at the edge of what was tried"
    )


@given(st.integers(7, 16), st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_no_list_is_longer_than_five(count, steps_, random):
    """Levels with ties, all neighbours shown or only those further apart."""
    names = [f"o{i}" for i in range(count)]
    level = sorted(random.randrange(4) for _ in names)
    shown = [pair(x, y, 0.01, 0.02) for (i, x), (j, y) in combinations(enumerate(names), 2) if level[j] - level[i] >= steps_]
    for words in re.findall(r"o\d+(?:, o\d+)*(?: and o\d+)?", said(names, *shown)):
        assert len(split(words)) <= 5


def test_a_loss_is_better_when_it_is_lower():
    text = said(["a", "b"], pair("a", "b", -0.25, -0.125), metric="loss")
    assert text == "a beats b by 0.12 to 0.25 in loss"
    assert said(["a", "b"], pair("a", "b", 0.125, 0.25), metric="rmse") == "b beats a by 0.12 to 0.25 in root mean squared error"


def test_a_row_may_stand_below_one_that_it_beats():
    """Ranked by divergence first: the sign comes from the difference, not from the rank."""
    assert said(["a", "b"], pair("a", "b", -0.02, -0.01)) == "b beats a by 1.0 to 2.0 points"


def test_one_row():
    assert (
        said(["a"])
        == "a has a mean validation accuracy of 0.9 (95 % interval 0.89 to 0.91) over 5 seeds; there is nothing to compare it with"
    )
    assert sentence([], []) == "no member was finished"


def test_one_seed():
    pairs = [pair("a", "b", n=1)]
    assert sentence([row("a", seeds=1), row("b", seeds=1)], pairs) == "one seed shows no difference, take three or more"
    assert sentence([row("a"), row("b")], [pair("a", "b", n=0)]) == "no two rows share a seed"


def test_seeds_that_differ():
    assert sentence([row(c) for c in "abc"], [pair("a", "b", n=3), pair("a", "c", n=2), pair("b", "c", n=2)]) == (
        "a, b and c cannot be told apart at 2 to 3 seeds"
    )


def test_diverged_runs():
    lost = {"diverged": 5, "mean": None}
    assert said(["a", "b"], a=lost, b=lost) == "every run diverged; smaller learning rates are worth a try"
    text = said(["a", "b"], pair("a", "b", by="diverged", diverged=[0, 5]), b=lost)
    assert text == "b diverges more often than a; all 5 runs of b diverged"
    text = said(["a", "b"], pair("a", "b", 0.01, 0.02, by="whole", diverged=[0, 1]), b={"diverged": 1})
    assert text == "a beats b by 1.0 to 2.0 points on the seeds where neither diverged; 1 of 5 runs of b diverged"
    text = said(["a", "b", "c"], *[pair(x, "c", by="diverged", diverged=[0, 5]) for x in "ab"], c=lost)
    assert text == "a and b cannot be told apart at 5 seeds; c diverges more often than a and b; all 5 runs of c diverged"


def test_a_row_at_the_edge_is_not_ranked():
    rows = [row("a"), row("b"), row("c", rank=None)]
    pairs = [pair("a", "b", 0.01, 0.02), {**pair("a", "c", 0.1, 0.2), "p": None}, {**pair("b", "c", 0.1, 0.2), "p": None}]
    tail = "is not ranked: its best learning rate stands at the edge of what was tried"
    assert sentence(rows, pairs) == f"a beats b by 1.0 to 2.0 points; c {tail}"
    assert sentence([rows[0], rows[2]], pairs[1:2]).endswith(f"there is nothing to compare it with; c {tail}")
    none = [row("a", rank=None), row("b", rank=None)]
    assert sentence(none, [{**pairs[0], "p": None}]) == (
        "nothing is ranked; a and b are not ranked: their best learning rates stand at the edge of what was tried"
    )


def test_names_with_batch_sizes():
    names = ["adam at batch size 32", "adam at full batch"]
    assert said(names, pair(*names, 0.2, 0.25)) == "adam at batch size 32 beats adam at full batch by 20 to 25 points"


# ---- steps


def steps(a, b, low, high, faster, *, by="steps", p=0.01, missed=(0, 0)):
    ratio = None if low is None or high is None else math.sqrt(low * high)
    found = {"ratio": ratio, "ratio_low": low, "ratio_high": high, "ratio_p": p, "ratio_by": by, "faster": faster, "missed": list(missed)}
    return {**pair(a, b), **found}


def test_steps_in_words():
    rows = [row("a"), row("b")]
    goal = "to reach accuracy 0.95, "
    for found, words in [
        (steps("a", "b", 1.1, 1.3, "b"), goal + "a needs 1.10 to 1.30 times as many steps as b"),
        (steps("a", "b", 0.5, 0.8, "a"), goal + "b needs 1.25 to 2.00 times as many steps as a"),
        (steps("a", "b", 1.5, None, "b", missed=(2, 0)), goal + "a needs at least 1.50 times as many steps as b"),
        (steps("a", "b", None, 0.5, "a", missed=(0, 2)), goal + "b needs at least 2.00 times as many steps as a"),
        (steps("a", "b", 0.9, None, "b", missed=(2, 0)), goal + "a needs more steps than b"),
        (steps("a", "b", None, None, "a", by="ranks", missed=(0, 5)), goal + "b gets there later or less often than a"),
        (steps("a", "b", 0.9, 1.1, "b", p=0.2), "no difference in the steps to accuracy 0.95 is shown"),
    ]:
        assert steps_sentence(rows, [found], 0.95) == words
    assert steps_sentence(rows, [found], math.nan) == ""
    assert steps_sentence(rows, [pair("a", "b")], 0.95) == ""
    assert steps_sentence(rows, [{**found, "n": 1}], 0.95) == ""


def test_an_order_of_steps():
    pairs = [steps(a, b, 0.5, 0.8, a) for a, b in combinations("abc", 2)]
    assert steps_sentence([row(c) for c in "abc"], pairs, 0.95) == (
        "to reach accuracy 0.95, each needs fewer steps than all that follow: a, then b (1.25 to 2.00 times as many steps), "
        "then c (1.25 to 2.00 times as many steps)"
    )


def test_the_faster_one_leads_whatever_the_place_in_the_table():
    assert set(shown_ratios([steps("a", "b", 1.1, 1.3, "b"), steps("a", "c", 0.5, 0.8, "a")])) == {("b", "a"), ("a", "c")}


# ---- the sentence read back


def split(words):
    return re.split(r", | and ", words)


def readers(names):
    """The patterns of the clauses, over names like o3."""

    def losers(words, winners):
        if words == "all others":
            return [n for n in names if n not in winners]
        if words.endswith(" and all below it"):
            return names[names.index(words.split(" ")[0]) :]
        return split(words)

    return losers


def read(text, names):
    """Differences {(winner, loser): (kind, low, high)}, pairs said to be alike, and whether the rest is said to be not shown."""
    told, alike, rest, before = {}, set(), False, []
    losers_of = readers(names)
    number = r"(-?[\d.]+)(?: to (-?[\d.]+))?"

    def tell(winners, losers, kind, low, high):
        for w in winners:
            for x in losers:
                assert (w, x) not in told
                told[w, x] = (kind, low, high)

    for clause in text.split("; "):
        if m := re.fullmatch(r"in this order, each beats all that follow: (.*)", clause):
            groups = [split(re.sub(r" \(.*\)", "", part)) for part in m[1].split(", then ")]
            spans = [re.search(rf"\({number} points behind\)", part) for part in m[1].split(", then ")]
            for i, j in combinations(range(len(groups)), 2):
                known = spans[j] if j == i + 1 else None
                tell(groups[i], groups[j], "value", *((float(known[1]), float(known[2] or known[1])) if known else (None, None)))
        elif m := re.fullmatch(rf"(.*?) beats? (.*) by {number} points( on the seeds where neither diverged)?", clause):
            winners = before if m[1] in ("both", f"all {len(before)}") else split(m[1])
            tell(winners, losers_of(m[2], winners), "whole" if m[5] else "value", float(m[3]), float(m[4] or m[3]))
        elif m := re.fullmatch(r"(.*?) diverges? more often than (.*)", clause):
            winners = split(m[2])
            tell(winners, losers_of(m[1], winners), "diverged", None, None)
        elif m := re.fullmatch(r"(.*?) cannot be told apart( from (each other or from )?any other)? at 5 seeds", clause):
            before = split(m[1])
            against = names if m[2] else before
            alike |= {frozenset((a, b)) for a in before for b in against if a != b}
            continue
        elif clause == "no other difference is shown at 5 seeds":
            rest = True
        else:
            raise AssertionError(clause)
        before = []
    return told, alike, rest


@st.composite
def patterns(draw):
    """Up to 12 rows and any pattern of shown differences: a strict order with ties, or anything at all."""
    names = [f"o{i}" for i in range(draw(st.integers(2, 12)))]
    style = draw(st.sampled_from(["levels", "near", "any"]))
    level = sorted(draw(st.lists(st.integers(0, 4), min_size=len(names), max_size=len(names))))
    out = []
    for i, j in combinations(range(len(names)), 2):
        a, b = names[i], names[j]
        shown = level[i] < level[j] if style == "levels" else level[j] - level[i] > 1 if style == "near" else draw(st.booleans())
        if not shown:
            out.append(pair(a, b, p=draw(st.floats(0.0501, 1.0))))
            continue
        by = "value" if style != "any" else draw(st.sampled_from(["value", "value", "whole", "diverged"]))
        low = draw(st.integers(1, 90)) / 1000
        sign = 1 if style != "any" else draw(st.sampled_from([1, 1, 1, -1]))
        ends = sorted((sign * low, sign * (low + 0.01)))
        first_lost = sign < 0
        out.append(pair(a, b, *ends, by=by, diverged=[5, 0] if first_lost else [0, 5], p=draw(st.floats(0, 0.05))))
    return names, out


@settings(max_examples=400, deadline=None)
@given(patterns())
def test_the_sentence_says_what_is_shown_and_nothing_else(pattern):
    names, pairs = pattern
    told, alike, rest = read(sentence([row(name) for name in names], pairs, most=len(names)), names)
    shown = {}
    for p in pairs:
        if p["p"] <= 0.05:
            a_wins = p["diverged"][0] < p["diverged"][1] if p["by"] == "diverged" else p["difference"] > 0
            low, high = sorted((abs(p["low"]), abs(p["high"])))
            shown[(p["a"], p["b"]) if a_wins else (p["b"], p["a"])] = (p["by"], 100 * low, 100 * high)
    assert set(told) == set(shown)
    for who, (kind, low, high) in told.items():
        assert kind == shown[who][0]
        if low is not None:
            assert low <= shown[who][1] * 1.06
            assert high >= shown[who][2] * 0.94
    every = {frozenset(c) for c in combinations(names, 2)}
    open_ = every - {frozenset(who) for who in shown}
    assert alike <= open_
    assert rest == (alike != open_)


@pytest.mark.parametrize("p", [0.05, 0.0500001])
def test_the_level_is_five_percent(p):
    assert ("beats" in said(["a", "b"], pair("a", "b", 0.01, 0.02, p=p))) == (p <= 0.05)
