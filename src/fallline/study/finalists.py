"""The honest end of a search: its best trials are trained again with fresh seeds, and only these trainings are ranked.

The best of many trials is also the luckiest of them: its own value flatters it, the more the more trials there were. So the k best are
trained again, each with the same fresh seeds; their means on validation rows choose, with the intervals and corrected differences of a
comparison (`pairs.py`), and test rows report. By how much the search had flattered is said.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline import record
from fallline.population import Job
from fallline.study.pairs import differences
from fallline.study.search import Search, SearchPlan, Trial
from fallline.study.sentence import in_units, listed, sentence
from fallline.study.statistics import mean_interval, smallest_move
from fallline.study.versus import plain
from fallline.training import Settings

if TYPE_CHECKING:
    from fallline.data import Data


@dataclass(frozen=True)
class Final:
    """One training of a finalist with a fresh seed; `value` and `test` are None where it diverged."""

    number: int
    seed: int
    status: str
    value: float | None
    test: float | None
    seconds: float
    steps: int
    epochs: int

    @property
    def run(self) -> str:
        """Its name in the record."""
        return f"trial={self.number}/seed={self.seed}"


def best_trials(trials: Sequence[Trial], count: int, *, lower: bool) -> list[Trial]:
    """The best finished trials, settings that were tried twice once."""
    out: dict[str, Trial] = {}
    for trial in sorted((t for t in trials if t.status == "finished"), key=lambda t: t.rank_key(lower)):
        out.setdefault(repr((trial.model, sorted(trial.settings.items()))), trial)
    return list(out.values())[:count]


def train_finalists(search: Search) -> list[Final]:
    """Train the best trials with every seed of the plan; those that the record holds whole are read."""
    shop, plan = search.shop, search.plan
    chosen = best_trials(search.trials, plan.best, lower=plan.lower)
    jobs, numbers = [], {}
    for trial in chosen:
        for seed in plan.seeds:
            run = f"trial={trial.number}/seed={seed}"
            numbers[run] = (trial.number, seed)
            jobs.append((trial.model, Job(run, plan.settings_of(trial.point, seed))))
    out: list[Final] = []
    for name, block in shop.blocks(jobs):
        known = [shop.known(job.run) for job in block.jobs]
        if all(found is not None for found in known):
            out += [Final(**found) for found in known if found is not None]
            continue
        results = shop.train(name, block)
        if results is None:
            break
        mine = []
        for result in results:
            outcome = result.outcome
            value, test = (plain(outcome.metrics.get(split, {}).get(plan.metric, math.nan)) for split in ("validation", "test"))
            lost = outcome.status == "diverged" or value is None
            number, seed = numbers[result.job.run]
            status = "diverged" if lost else outcome.status
            values = (None, None) if lost else (value, test)
            mine.append(Final(number, seed, status, *values, outcome.seconds, outcome.steps, outcome.epochs_done))
        shop.keep([(final.run, final) for final in mine])
        out += mine
    return out


def ranked(plan: SearchPlan, trials: Sequence[Trial], finals: Sequence[Final], data: "Data") -> list[dict[str, Any]]:
    """The finalists as rows of a table, the best mean over fresh seeds first; rows that lost more members stand below.

    A row holds `cell` (its name), `trial`, `model`, `settings`, `factors`, `searched` (its value in the search), `at_seeds`, `values`
    (None: diverged), `mean`, `low`, `high`, `test_mean`, `test_low`, `test_high`, `seconds` (of the middle training), `diverged`,
    `seeds`, `rank`, and what `differences` reads besides.

    Args:
        plan: what was asked.
        trials: of the search.
        finals: their trainings with fresh seeds.
        data: whose validation and test rows tell the steps in which the metric moves.
    """
    step, test_step = (smallest_move(plan.metric, np.asarray(part.y)) for part in (data.validation, data.test))
    by_number = {trial.number: trial for trial in trials}
    made = []
    for number in dict.fromkeys(final.number for final in finals):
        mine = sorted((f for f in finals if f.number == number), key=lambda f: plan.seeds.index(f.seed))
        trial = by_number[number]
        whole = [f.value for f in mine if f.value is not None]
        mean, low, high = _within(plan.metric, whole, step)
        test_mean, test_low, test_high = _within(plan.metric, [f.test for f in mine if f.test is not None], test_step)
        made.append(
            {
                "cell": f"trial {number}",
                "trial": number,
                "model": trial.model,
                "settings": trial.settings,
                "factors": trial.factors,
                "searched": trial.value,
                "metric": plan.metric,
                "at_seeds": [f.seed for f in mine],
                "values": [f.value for f in mine],
                "mean": mean,
                "low": low,
                "high": high,
                "test_mean": test_mean,
                "test_low": test_low,
                "test_high": test_high,
                "seconds": sorted(f.seconds for f in mine)[len(mine) // 2],
                "diverged": sum(f.value is None for f in mine),
                "seeds": len(mine),
                "steps": None,
                "ran": [f.steps for f in mine],
                "step": step,
                "every": 0.0,
            }
        )
    made.sort(key=lambda row: _order(row, plan.lower))
    return [{"rank": place, **row} for place, row in enumerate(made, start=1)]


def headline(plan: SearchPlan, table: Sequence[dict[str, Any]]) -> str:
    """What the fresh seeds show, and by how much the search had flattered.

    >>> headline(None, [])
    'no trial was finished, so there is nothing to recommend'
    """
    if not table or table[0]["mean"] is None:
        return "no trial was finished, so there is nothing to recommend" if not table else "every finalist diverged with fresh seeds"
    label, best = record.key(plan.metric).label, table[0]
    spread = f" [{value_text(best['low'])}, {value_text(best['high'])}]" if best["low"] is not None else ""
    test = "" if best["test_mean"] is None else f", test {value_text(best['test_mean'])}"
    if best["test_low"] is not None:
        test += f" [{value_text(best['test_low'])}, {value_text(best['test_high'])}]"
    words = f"{best['cell']} has the highest" if not plan.lower else f"{best['cell']} has the lowest"
    alike = [row["cell"] for row in table[1:] if row["mean"] == best["mean"]]
    same = f", as {'low' if plan.lower else 'high'} as {listed(alike)}" if alike else ""
    words += f" mean{same}: validation {label} {value_text(best['mean'])}{spread} over {count(best['seeds'], 'fresh seed')}{test}"
    if len(table) > 1 and best["seeds"] > 1:
        words += f". {_capital(sentence(table, differences(table)))}"
    return words + flattered(plan, table)


def flattered(plan: SearchPlan, table: Sequence[dict[str, Any]]) -> str:
    """By how much the finalists' values in the search were better than their means over fresh seeds, in words."""
    gaps = [row["searched"] - row["mean"] for row in table if row["mean"] is not None and row["searched"] is not None]
    if not gaps:
        return ""
    gap = sum(gaps) / len(gaps) * (-1 if plan.lower else 1)
    one = len(gaps) == 1
    if gap <= 0:
        return f". The search had not flattered {'it: it is' if one else 'them: they are'} as good with fresh seeds as in the search"
    mean = "" if one else " on average"
    them = "it" if one else "them"
    return f". The search had flattered {them} by {in_units(gap, plan.metric)}{mean}: the best of many trials is also the luckiest"


def chosen_settings(plan: SearchPlan, row: dict[str, Any]) -> Settings:
    """The settings of a row, without the seed's."""
    return dataclasses.replace(plan.settings, **row["settings"])


def count(n: int, one: str) -> str:
    """A number of things.

    >>> count(1, "seed"), count(2, "seed")
    ('1 seed', '2 seeds')
    """
    return f"{n:,} {one}{'' if n == 1 else 's'}"


def value_text(value: float | None) -> str:
    """A value of the metric, as text.

    >>> value_text(0.98123), value_text(None), value_text(1234.5)
    ('0.9812', '-', '1234')
    """
    return "-" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def _within(metric: str, values: Sequence[float], step: float) -> tuple[float | None, float | None, float | None]:
    found = mean_interval(list(values), step=step)
    if record.key(metric).unit != "fraction" or found.low is None or found.high is None:
        return plain(found.mean), found.low, found.high
    return plain(found.mean), max(found.low, 0.0), min(found.high, 1.0)


def _order(row: dict[str, Any], lower: bool) -> tuple[float, float, float]:
    mean = math.inf if row["mean"] is None else (row["mean"] if lower else -row["mean"])
    return (row["diverged"] / row["seeds"], mean, row["trial"])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
