"""The levels of factors: averages by hand, what takes no part, the words, and how often anything false is claimed over the whole study.

Margins are binomial: of N studies whose true rate is q, the share that is found lies within 3·√(q(1 − q)/N) of q in 99.7 % of cases.
"""

import json
import math
import re
from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats

from fallline._core.errors import FalllineError
from fallline.study.factor_sentence import factor_lines, factor_steps
from fallline.study.factors import average, compared, make_grid
from fallline.study.pairs import SHARES, differences, factors, judged
from fallline.study.ranking import common_level
from fallline.study.statistics import holm, paired
from fallline.study.steps import steps_ratio
from fallline.study.verdict import verdict

INF = math.inf
WORDS = {"batch_size": "at batch size {}", "loss": "with {}", "schedule": "under {}"}


def study(optimizers, batches=(32,), losses=("mse",), *, draw, steps=None, step=0.0, metric="accuracy", unranked=()):
    """Rows of a study, ranked by their means; `draw` and `steps` give the values of a cell's runs by seed."""
    rows = []
    for at in product(optimizers, batches, losses):
        values = [float(v) for v in draw(*at)]
        taken = None if steps is None else [float(s) for s in steps(*at)]
        words = [at[0]] + [WORDS[k].format(v) for k, v, n in (("batch_size", at[1], batches), ("loss", at[2], losses)) if len(n) > 1]
        whole = [v for v in values if math.isfinite(v)]
        rows.append(
            {
                "cell": " ".join(words),
                **dict(zip(("optimizer", "batch_size", "loss"), at, strict=True)),
                "schedule": "constant",
                "at_seeds": list(range(len(values))),
                "values": [v if math.isfinite(v) else None for v in values],
                "steps": None if taken is None else [s if math.isfinite(s) else None for s in taken],
                "ran": [400.0] * len(values),
                "step": step,
                "every": 0.0,
                "metric": metric,
                "mean": float(np.mean(whole)) if whole else None,
                "low": None,
                "high": None,
                "seeds": len(values),
                "diverged": len(values) - len(whole),
                "target": None if taken is None else 0.9,
                "visible": None,
                "unranked": at in unranked,
            }
        )
    lower = metric == "loss"
    rows.sort(key=lambda r: (r["unranked"], r["diverged"], INF if r["mean"] is None else r["mean"] if lower else -r["mean"]))
    return [{**row, "rank": None if row["unranked"] else i} for i, row in enumerate(rows, start=1)]


def drawn(seed=0, n=5, shift=None, noise=0.01):
    """Values around 0.9 with a part of the seed in common; `shift` by level or cell."""
    rng = np.random.default_rng(seed)
    common = noise * rng.normal(size=n)
    return lambda *at: 0.9 + common + noise * rng.normal(size=n) + (shift(*at) if shift else 0.0)


# ---- weights


def test_holm_with_weights_by_hand():
    """Levels 0.8·0.05 and 0.1·0.05 twice; each claim leaves its share to the rest."""
    ps = [0.03, 0.008, 0.02]
    assert holm(ps, [8, 1, 1]) == pytest.approx([0.03 / 0.8, max(0.0375, 0.008 / 0.5), max(0.0375, 0.02)])
    assert holm(ps, [1, 1, 1]) == holm(ps) == pytest.approx(holm(ps, [0.2] * 3))
    with pytest.raises(FalllineError, match="as many weights"):
        holm(ps, [1.0])
    with pytest.raises(FalllineError, match="above 0"):
        holm(ps, [1.0, 0.0, 1.0])


def closed(ps, weights):
    """The definition: a question is shown where every set of questions that holds it is refused by weighted Bonferroni."""
    m = len(ps)
    out = [0.0] * m
    for size in range(1, m + 1):
        for some in combinations(range(m), size):
            p = float(np.min([1.0, *(ps[i] * sum(weights[j] for j in some) / weights[i] for i in some)]))
            for i in some:
                out[i] = max(out[i], p)
    return out


def test_holm_with_weights_is_closed_testing():
    rng = np.random.default_rng(1)
    for _ in range(50):
        m = int(rng.integers(1, 8))
        ps, weights = rng.random(m) ** 3, rng.random(m) + 0.05
        assert holm(list(ps), list(weights)) == pytest.approx(closed(ps, weights))


# ---- averages and the family


def test_a_level_is_the_average_of_its_cells_seed_by_seed():
    held = {}
    rng = np.random.default_rng(2)
    rows = study(
        ["adam", "sgd"],
        [32, 128],
        draw=lambda *at: held.setdefault(at, rng.normal(size=5)),
        steps=lambda *at: held.setdefault((*at, "steps"), rng.integers(1, 300, size=5)),
    )
    optimizer, batch = factors(rows)
    assert [f["factor"] for f in (optimizer, batch)] == ["optimizer", "batch_size"]
    assert optimizer["over"] == ["batch_size"]
    adam, sgd = (np.mean([held[name, b, "mse"] for b in (32, 128)], axis=0) for name in ("adam", "sgd"))
    log_adam, log_sgd = (np.mean([np.log(held[name, b, "mse", "steps"]) for b in (32, 128)], axis=0) for name in ("adam", "sgd"))
    (pair,) = optimizer["pairs"]
    sign = 1 if pair["a"] == "adam" else -1
    gap = paired(list(adam), list(sgd))
    assert sign * pair["difference"] == pytest.approx(gap.mean)
    assert gap.low is not None
    assert gap.high is not None
    assert sorted([sign * pair["low"], sign * pair["high"]]) == pytest.approx([gap.low, gap.high])
    ratio = steps_ratio(list(np.exp(log_adam)), list(np.exp(log_sgd)))
    assert pair["ratio"] ** sign == pytest.approx(ratio.ratio)
    assert {level["level"]: level["mean"] for level in optimizer["levels"]} == pytest.approx({"adam": adam.mean(), "sgd": sgd.mean()})
    assert {level["level"]: level["steps"] for level in optimizer["levels"]}["sgd"] == pytest.approx(np.exp(log_sgd.mean()))
    json.dumps(factors(rows))


def test_all_questions_are_one_family():
    """Every corrected p-value is Holm's with the shares of its kind, over levels, turns and cells together."""
    rows = study(
        ["a", "b", "c"],
        [32, 64],
        draw=drawn(3, shift=lambda o, *_: 0.02 * (o == "a")),
        steps=lambda *at: [50 + len(at[0]) * i for i in range(1, 6)],
    )
    pairs, found = judged(rows)
    alone = [(p, "cells") for one, two in combinations(rows, 2) for p in questions(one, two)]
    _, levels, turns = compared(rows)
    assert (len(levels), len(turns), len(alone)) == (2 * (3 + 1), 3 + 1, 2 * 15)
    every = [*alone, *((q[2], "levels") for q in levels), *((q[2], "turns") for q in turns)]
    counts = {"cells": len(alone), "levels": len(levels), "turns": len(turns)}
    right = holm([p for p, _ in every], [SHARES[kind] / counts[kind] for _, kind in every])
    got = [p for pair in pairs for p in (pair["p"], pair["ratio_p"])]
    got += [p for f in found for pair in f["pairs"] for p in (pair["p"], pair["ratio_p"])]
    got += [turn["p"] for f in found for turn in f["turns"]]
    assert sorted(got) == pytest.approx(sorted(right))
    assert got[: len(alone)] == pytest.approx(right[: len(alone)])


def questions(one, two):
    values = paired(one["values"], two["values"]).p
    return values, steps_ratio(one["steps"], two["steps"]).p


def test_a_study_of_one_factor_is_judged_as_before():
    rows = study(["a", "b", "c"], draw=drawn(4))
    assert factors(rows) == []
    alone = holm([paired(one["values"], two["values"]).p for one, two in combinations(rows, 2)])
    assert [pair["p"] for pair in differences(rows)] == alone
    assert factors([]) == []


def test_levels_are_easier_to_tell_apart_than_cells():
    """4 optimizers, 2 batch sizes, 2 losses and 5 seeds; one optimizer is 2 points behind: found over all cells, hardly in any one."""
    hits = cells = 0
    for seed in range(60):
        pairs, found = judged(study("abcd", [32, 128], ["mse", "huber"], draw=drawn(seed, shift=lambda o, *_: -0.02 * (o == "d"))))
        hits += sum(pair["p"] <= 0.05 for pair in found[0]["pairs"] if "d" in (pair["a"], pair["b"])) / 3
        wanted = [pair for pair in pairs if (pair["a"][0] == "d") != (pair["b"][0] == "d")]
        cells += sum(pair["p"] <= 0.05 for pair in wanted) / len(wanted)
    assert hits / 60 > 0.5
    assert cells / 60 < 0.1


def test_the_rounding_of_an_average():
    """Accuracy that moves by 1/270 in each of four cells moves by less in their average."""
    rows = study("ab", [32, 64, 128, 256], draw=lambda o, *_: [0.9 + 0.01 * (o == "a")] * 5, step=1 / 270)
    (pair,) = factors(rows)[0]["pairs"]
    half = stats.t.ppf(0.975, 4) * (1 / 270 / math.sqrt(4)) / math.sqrt(6) / math.sqrt(5)
    assert pair["high"] - pair["low"] == pytest.approx(2 * half)


# ---- what takes no part


def test_a_diverged_run_takes_its_seed_from_its_level():
    def draw(optimizer, batch, loss):
        del loss
        values = np.array([0.9, 0.91, 0.89, 0.92, 0.9]) + (0.05 if optimizer == "a" else 0.0)
        return np.where((optimizer == "b") & (batch == 128) & (np.arange(5) == 2), math.nan, values)

    optimizer, _ = factors(study("ab", [32, 128], draw=draw))
    (pair,) = optimizer["pairs"]
    assert (pair["by"], pair["diverged"], pair["a"], pair["b"]) == ("whole", [0, 1], "a", "b")
    assert [level["diverged"] for level in optimizer["levels"]] == [0, 1]
    assert pair["difference"] == pytest.approx(0.05)
    optimizer, _ = factors(study("ab", [32, 128], draw=lambda o, *_: [0.9 if o == "a" else math.nan] * 5))
    assert optimizer["pairs"][0]["by"] == "diverged"
    assert optimizer["levels"][1]["mean"] is None


def test_a_missed_target_leaves_out_the_steps_of_its_combination_and_keeps_the_weight():
    def steps(optimizer, batch, loss):
        del loss
        return [50, 60, INF if (optimizer, batch) == ("b", 128) else 55 + len(f"{batch}"), 52, 58 - 3 * (optimizer == "c")]

    rows = study("abc", [32, 64, 128], draw=drawn(5), steps=steps)
    optimizer, batch = factors(rows)
    assert (optimizer["steps_over"], batch["steps_over"]) == (2, 2)  # batch sizes 32 and 64, optimizers a and c
    assert optimizer["left_out"] == "steps are compared over the 2 of 3 combinations in which no run missed the target"
    ratio = steps_ratio(steps("a", 32, ""), steps("c", 32, "")).ratio
    assert {(p["a"], p["b"]): p["ratio"] for p in optimizer["pairs"]}.get(("a", "c"), 1 / ratio) == pytest.approx(ratio, rel=1e-9)
    assert len(compared(rows)[1]) == 2 * (3 + 3)
    assert factor_steps([optimizer, batch], "accuracy", 0.9)[-1] == "combinations in which a run never reached it are left out of this"


def test_a_level_that_always_misses_has_no_steps_and_keeps_its_questions():
    rows = study("abc", [32, 128], draw=drawn(5), steps=lambda o, *_: [INF if o == "b" else 50 + i for i in range(5)])
    optimizer, batch = factors(rows)
    assert {(p["a"], p["b"]) for p in optimizer["pairs"] if p["ratio_p"] is not None} <= {("a", "c"), ("c", "a")}
    assert {level["level"]: level["steps"] is None for level in optimizer["levels"]} == {"a": False, "b": True, "c": False}
    assert optimizer["left_out"] == "steps of b are not compared, as a run missed the target"
    assert batch["steps_over"] == 2
    assert len(compared(rows)[1]) == 2 * (3 + 1)
    none = study("ab", [32, 128], draw=drawn(5), steps=lambda *_: [INF, 1, 2, 3, 4])
    assert {f["left_out"] for f in factors(none)} == {"steps are not compared, as runs missed the target"}
    assert [p["ratio_p"] for f in factors(none) for p in f["pairs"]] == [None, None]


def test_a_combination_that_is_not_ranked_everywhere_is_left_out():
    rows = study("abc", [32, 128], ["mse", "huber"], draw=drawn(6), unranked={("a", 32, "mse")})
    optimizer, batch, loss = factors(rows)
    assert [len(level["cells"]) for level in optimizer["levels"]] == [3, 3, 3]
    assert optimizer["left_out"] == "batch size 32 with mse left out, where not all of them are ranked"
    assert not optimizer["whole"]
    assert optimizer["turns"] == []  # neither batch size nor loss stands over the same remaining cells
    assert [len(level["cells"]) for level in batch["levels"]] == [5, 5]
    assert batch["left_out"] == loss["left_out"].replace("batch size 32", "mse") or "a with mse" in batch["left_out"]
    assert not any("a at batch size 32 with mse" in level["cells"] for f in (optimizer, batch, loss) for level in f["levels"])


def test_a_level_without_ranked_cells_is_left_out():
    rows = study("abc", [32, 128], draw=drawn(7), unranked={("a", 32, "mse"), ("a", 128, "mse")})
    optimizer, batch = factors(rows)
    assert {level["level"] for level in optimizer["levels"]} == {"b", "c"}
    assert optimizer["left_out"] == "a left out, without a ranked cell in every combination"
    assert optimizer["whole"]
    assert [len(level["cells"]) for level in batch["levels"]] == [2, 2]
    lone = study("ab", [32, 128], draw=drawn(7), unranked={("a", 32, "mse"), ("a", 128, "mse")})
    assert factors(lone)[0]["pairs"] == factors(lone)[0]["levels"] == []
    assert factors(lone)[0]["left_out"] == "there are no two of them with the same ranked cells"
    none = study("ab", [32, 128], draw=drawn(7), unranked=set(product("ab", [32, 128], ["mse"])))
    assert [f["pairs"] for f in factors(none)] == [[], []]


def test_the_grid_is_whole():
    rng = np.random.default_rng(8)
    for _ in range(60):
        every = list(product("abcd", [32, 64, 128], ["mse", "huber"]))
        gone = {at for at in every if rng.random() < 0.3}
        rows = study("abcd", [32, 64, 128], ["mse", "huber"], draw=lambda *_: [0.9, 0.8], unranked=gone)
        for factor, others in (("optimizer", ["batch_size", "loss"]), ("loss", ["optimizer", "batch_size"])):
            grid = make_grid(rows, factor, others)
            assert all((level, rest) in grid.cells for level in grid.levels for rest in grid.rests)
            assert bool(grid.levels) == bool(grid.rests)


def test_an_average_needs_the_seeds_of_all_its_cells():
    cell = {"steps": None, "ran": [1.0, 1.0], "step": 0.0, "every": 0.0}
    row = average("x", [{**cell, "at_seeds": [0, 1], "values": [1.0, 2.0]}, {**cell, "at_seeds": [1, 2], "values": [4.0, 5.0]}], [])
    assert (row["at_seeds"], row["values"]) == ([1], [3.0])
    row = average("x", [{**cell, "at_seeds": [0, 1], "values": [1.0, 2.0]}, {**cell, "at_seeds": [2, 3], "values": [4.0, 5.0]}], [])
    assert row["values"] == []


# ---- turns


def test_a_turn_by_hand():
    def t(gap):
        return gap.mean() / gap.std(ddof=1) * math.sqrt(5)

    rng = np.random.default_rng(9)
    gaps = {32: rng.normal(0.02, 0.01, 5), 64: rng.normal(0, 0.01, 5), 128: rng.normal(-0.02, 0.01, 5)}
    rows = study("ab", [32, 64, 128], draw=lambda o, b, _: 0.9 + gaps[b] * (o == "a"))
    turns = [q for q in compared(rows)[2] if q[0]["factor"] == "batch_size"]
    ((turn, _, p),) = turns
    up, down = (min(float(stats.t.sf(sign * t(g), 4)) for g in gaps.values()) for sign in (1, -1))
    assert p == pytest.approx(min(1.0, 3 * max(up, down)))
    leads = {turn["a"]: turn["a_leads_at"], turn["b"]: turn["b_leads_at"]}
    assert leads == {"a": "batch size 32", "b": "batch size 128"}
    same = study("ab", [32, 64], draw=lambda o, *_: rng.normal(0.95 if o == "a" else 0.9, 0.001, 5))
    (turn, _, p), _ = compared(same)[2]
    assert p > 0.99
    assert turn["b_leads_at"] is None


def test_a_loss_leads_where_it_is_lower():
    rows = study(
        "ab", [32, 128], draw=lambda o, b, _: [0.5 + (0.1 if (o == "a") == (b == 32) else 0.0) + 0.001 * i for i in range(5)], metric="loss"
    )
    (turn, _, p), _ = compared(rows)[2]
    assert {turn["a"]: turn["a_leads_at"], turn["b"]: turn["b_leads_at"]} == {"a": "batch size 128", "b": "batch size 32"}
    assert p < 1e-9


# ---- words


def told(rows, **changes):
    return verdict(rows, changes.get("metric", "accuracy"))


def test_the_words_of_a_study_with_two_factors():
    wobble = {"adam": [0, 1, 0, -1, 0], "momentum": [0, -1, 1, 0, 0], "sgd": [1, 0, -1, 0, 0]}

    def draw(optimizer, batch, loss):
        del loss
        level = {"adam": 0.95, "momentum": 0.95, "sgd": 0.91}[optimizer]
        return [level + 0.0005 * w + (0.0003 * (-1) ** i if batch == 32 else 0) for i, w in enumerate(wobble[optimizer])]

    rows = study(["adam", "momentum", "sgd"], [32, 128], draw=draw)
    first, shown, basis = told(rows)
    assert first.endswith(
        "is the best of 6 cells at 0.9501: it beats 2 others by 3.9 to 4.1 points and 3 others cannot be told apart from it at 5 seeds"
    )
    assert shown == [
        "optimizers, over all batch sizes: adam and momentum cannot be told apart at 5 seeds; both beat sgd by 3.9 to 4.1 points",
        "batch sizes, over all optimizers: batch sizes 32 and 128 cannot be told apart at 5 seeds",
    ]
    assert "each 95 % interval is of its own mean or difference alone" in basis
    assert f"over all {15 + 3 + 1 + 4} questions of the study together" in basis  # pairs of cells, of optimizers, of batch sizes; turns


def test_sixteen_cells_are_not_listed():
    rows = study("abcd", [32, 128], ["mse", "huber"], draw=drawn(11), steps=lambda *_: np.random.default_rng(1).integers(40, 60, 5))
    first, shown, _ = told(rows)
    assert "none of the other 15 can be told apart from it at 5 seeds" in first
    assert "steps: no difference in the steps to accuracy 0.9 is shown of any factor" in shown
    assert max(len(part.split(", ")) for line in [first, *shown] for part in line.split("; ")) <= 6


def test_the_words_of_a_turn_and_of_steps():
    rng = np.random.default_rng(12)
    rows = study(
        ["adam", "sgd"],
        [32, 128],
        draw=lambda o, b, _: 0.9 + (0.05 if (o == "adam") == (b == 32) else 0.0) + 0.0005 * rng.normal(size=5),
        steps=lambda o, *_: 100 * (1.5 if o == "sgd" else 1.0) * np.exp(0.01 * rng.normal(size=5)),
    )
    text = "; ".join(told(rows).shown)
    assert re.search("but who leads, (adam or sgd|sgd or adam), depends on the batch size: ", text)
    assert "adam leads at batch size 32" in text or "adam at batch size 32" in text
    assert "steps: to reach accuracy 0.9, over all batch sizes, sgd needs 1." in text


def test_one_seed_or_none_ranked_falls_back_to_the_cells():
    assert told(study("ab", [32, 128], draw=lambda *_: [0.9])).headline == "one seed shows no difference, take three or more"
    assert told(study("ab", [32, 128], draw=lambda *_: [math.nan] * 3)).headline.startswith("every run diverged")


def test_what_was_left_out_is_said():
    rows = study("ab", [32, 128], ["mse", "huber"], draw=drawn(13), unranked={("a", 32, "mse")})
    shown = told(rows).shown
    assert any(line.startswith("optimizers, over 3 combinations of batch size and loss: ") for line in shown)
    assert "a at batch size 32 with mse is not ranked: its best learning rate stands at the edge of what was tried" in shown
    lone = study("ab", [32, 128, 256], draw=drawn(13), unranked={("a", 32, "mse"), ("a", 128, "mse"), ("a", 256, "mse")})
    assert factor_lines(judged(lone)[1], "accuracy")[0].startswith("optimizers are not compared: there are no two of them")


# ---- the target


def test_every_run_of_three_in_four_reaches_the_level():
    rng = np.random.default_rng(14)
    for _ in range(50):
        reached = [list(rng.random(5)) for _ in range(int(rng.integers(1, 17)))]
        for lower in (True, False):
            level = common_level(reached, lower=lower)
            whole = [all(v <= level if lower else v >= level for v in cell) for cell in reached]
            assert sum(whole) >= 0.75 * len(whole)
            better = np.nextafter(level, -INF if lower else INF)  # and any better one would not be
            assert sum(all(v <= better if lower else v >= better for v in cell) for cell in reached) < 0.75 * len(whole)


def test_diverged_runs_do_not_set_the_level():
    assert common_level([[0.9, math.nan], [0.8, 0.85]], lower=False) == 0.8
    assert common_level([[math.nan], [0.8, 0.85]], lower=False) == 0.8
    assert math.isnan(common_level([[math.nan]], lower=False))
    assert math.isnan(common_level([], lower=True))


# ---- how often anything false is claimed, over all questions of a study


def margin(rate, repeats):
    return 3 * math.sqrt(rate * (1 - rate) / repeats)


def simulated(rng, n, shift=lambda *_: 0.0, slow=lambda *_: 1.0, optimizers="abcd", batches=(32, 128), losses=("mse",), lost=0.0):
    """Metric and steps of every cell with parts that seed, level and run share, the differences of cells known."""
    common, paces = rng.normal(size=n), rng.normal(size=n)
    by_level = {level: 0.5 * rng.normal(size=n) for level in (*optimizers, *batches, *losses)}  # runs of a level lean alike at a seed

    def draw(*at):
        values = 0.9 + 0.01 * (common + sum(by_level[level] for level in at) + rng.normal(size=n)) + shift(*at)
        return np.where(rng.random(n) < lost, math.nan, values)

    def steps(*at):
        pace = 0.1 * (paces + sum(by_level[level] for level in at) + rng.normal(size=n))
        return np.where(rng.random(n) < lost, INF, 100 * slow(*at) * np.exp(pace))

    return study(optimizers, batches, losses, draw=draw, steps=steps)


def false_claims(rows, shift, slow):
    """Whether anything is claimed that is not so, of cells, levels or turns, of metric or steps; the wrong sign is false as well."""
    pairs, found = judged(rows)
    cells = {row["cell"]: (row["optimizer"], row["batch_size"], row["loss"]) for row in rows}
    sets = [({name: [at] for name, at in cells.items()}, pairs)]
    sets += [({level["level"]: [cells[c] for c in level["cells"]] for level in f["levels"]}, f["pairs"]) for f in found]
    for members, mine in sets:
        for pair in mine:
            a, b = members[pair["a"]], members[pair["b"]]
            truth = np.mean([shift(*at) for at in a]) - np.mean([shift(*at) for at in b])
            ratio = np.mean([math.log(slow(*at)) for at in a]) - np.mean([math.log(slow(*at)) for at in b])
            if pair["p"] is not None and pair["p"] <= 0.05:
                said = np.sign(pair["diverged"][1] - pair["diverged"][0]) if pair["by"] == "diverged" else np.sign(pair["difference"])
                if pair["by"] == "diverged" or abs(truth) < 1e-12 or np.sign(truth) != said:
                    return True
            wrong = abs(ratio) < 1e-12 or (pair["faster"] == pair["a"]) != (ratio < 0)
            if wrong and pair["ratio_p"] is not None and pair["ratio_p"] <= 0.05:
                return True
    return any(turn["p"] <= 0.05 for f in found for turn in f["turns"])  # no order turns in what is simulated here


NOTHING = (lambda *_: 0.0, lambda *_: 1.0)
ONE_FACTOR = (lambda o, *_: 0.02 * (o == "a") + 0.01 * (o == "b"), lambda o, *_: 1.3 if o == "d" else 1.0)
ONE_CELL = (lambda o, b, _: -0.3 * ((o, b) == ("d", 32)), lambda o, b, _: 5.0 if (o, b) == ("d", 32) else 1.0)
TRUTHS = {"nothing differs": NOTHING, "one factor matters": ONE_FACTOR, "one cell differs": ONE_CELL}


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("n", [5, 10])
def test_a_study_of_two_factors_claims_nothing_false(truth, n):
    """Three optimizers at two batch sizes; the slow test has more of everything."""
    shift, slow = TRUTHS[truth]
    rng = np.random.default_rng(15)
    repeats = 120
    found = [false_claims(simulated(rng, n, shift, slow, "abd"), shift, slow) for _ in range(repeats)]
    assert np.mean(found) <= 0.05 + margin(0.05, repeats)


@pytest.mark.slow
@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("n", [5, 10])
def test_many_studies_of_three_factors_claim_nothing_false(truth, n):
    shift, slow = TRUTHS[truth]
    rng = np.random.default_rng(16)
    repeats = 500
    found = [false_claims(simulated(rng, n, shift, slow, losses=("mse", "huber")), shift, slow) for _ in range(repeats)]
    assert np.mean(found) <= 0.05 + margin(0.05, repeats)


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 10])
def test_many_studies_with_diverged_runs_claim_nothing_false(n):
    rng = np.random.default_rng(17)
    repeats = 600
    found = [false_claims(simulated(rng, n, lost=0.05), *NOTHING) for _ in range(repeats)]
    assert np.mean(found) <= 0.05 + margin(0.05, repeats)


def test_the_range_test_holds_its_level_where_it_is_hardest():
    """One level far ahead, the others alike: the bound is K·α/K; and all alike, with gaps that go against each other."""
    rng = np.random.default_rng(18)
    repeats, far, against = 1500, 0, 0
    for _ in range(repeats):
        g = rng.normal(size=(2, 5))
        far += turn_p({32: 50 + g[0], 64: g[1]}) <= 0.05
        against += turn_p({32: g[0], 64: -g[0]}) <= 0.05
    assert far / repeats <= 0.05 + margin(0.05, repeats)
    assert against / repeats <= 0.05 + margin(0.05, repeats)
    assert against / repeats > 0.05 - margin(0.05, repeats)  # the bound is reached


def turn_p(gaps):
    rows = study("ab", list(gaps), draw=lambda o, b, _: gaps[b] * (o == "a"))
    return next(p for turn, _, p in compared(rows)[2] if turn["factor"] == "batch_size")
