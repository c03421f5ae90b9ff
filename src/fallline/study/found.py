"""Run a search from its first trial to the ranked finalists, and say what it found, in numbers and in words."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fallline import record
from fallline._core.columns import Column, columns_text
from fallline._core.errors import must
from fallline._core.progress import Progress
from fallline.record import Writer
from fallline.study.expected_best import budget_curve
from fallline.study.finalists import count, headline, ranked, train_finalists, value_text
from fallline.study.importance import importances
from fallline.study.models import ModelLike
from fallline.study.pairs import differences
from fallline.study.sampling import need_optuna, rungs
from fallline.study.search import Search, SearchPlan, Shop, Trial
from fallline.study.space import AVERAGES, OWN, Range
from fallline.study.trials_db import TrialsFile
from fallline.training.checks import batch_rows

if TYPE_CHECKING:
    from fallline.data import Data
    from fallline.losses import Loss

_NEAR_EDGE = 0.03  # of a range, in the scale in which it is searched


@dataclass
class Found:
    """What a search found.

    Attributes:
        status: "finished" or "interrupted".
        trials: every whole trial, by number.
        table: the finalists ranked, see `finalists.ranked`; empty where the search did not come so far.
        headline: the result in words.
        counts: trials by how they ended, and epochs: `trials`, `finished`, `stopped`, `diverged`, `epochs`, `epochs_in_full`.
        importances: see `importance.importances`.
        expected: the mean best of 1, 2, ... random trials, from those of this search; empty where one of them was stopped.
        notes: what must be known of it, in sentences.
        seconds: wall-clock time of this sitting.
    """

    status: str
    trials: list[Trial]
    table: list[dict[str, Any]]
    headline: str
    counts: dict[str, int]
    importances: list[dict[str, Any]]
    expected: list[float]
    notes: list[str]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """What `run.json` holds of it."""
        kept = {k: v for k, v in vars(self).items() if k not in ("status", "trials")}
        return {**kept, "differences": differences(self.table), "trials": [trial_row(trial) for trial in self.trials]}


def run_search(
    models: Mapping[str, ModelLike],
    data: "Data",
    plan: SearchPlan,
    writer: Writer,
    *,
    loss: "Loss | None" = None,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
) -> Found:
    """Run what the plan asks for and the record does not hold yet.

    Args:
        models: spec, function or module, by the names that the space knows.
        data: rows; the validation rows judge.
        plan: what is asked.
        writer: the record, new or continued; its folder is held (`trials_db.held`) where several processes could come to it.
        loss: a loss object in place of the settings' name.
        stop: asked after every few steps; True ends the search with what is whole so far.
        quiet: no progress bar.

    Raises:
        FalllineError: Optuna is not installed, or the trials are damaged.
    """
    need_optuna()
    began = time.monotonic()
    units = plan.asked + min(plan.best, plan.asked) * len(plan.seeds)
    with Progress("tune", units, quiet=quiet) as bar:
        file = TrialsFile(writer.folder, "minimize" if plan.lower else "maximize")
        try:
            shop = Shop(models, data, plan, writer, loss, stop, lambda steps, value: None)
            search = Search(shop, plan, file)
            at = 0
            for done in search.run():
                bar.advance(done - at, note=f"{done} of {plan.asked} trials")
                at = done
            bar.advance(0, note="the best again, with fresh seeds")
            finals = [] if shop.interrupted else train_finalists(search)
            file.flush()
        finally:
            file.close()
    status = "interrupted" if shop.interrupted else "finished"
    table = ranked(plan, search.trials, finals, data)
    if status == "interrupted":
        table = [row for row in table if row["seeds"] == len(plan.seeds)]
    words = headline(plan, table) if status == "finished" or table else "interrupted before the best trials were trained with fresh seeds"
    return Found(
        status,
        search.trials,
        table,
        words,
        counts_of(search.trials, plan),
        importances(search.trials, plan.space, lower=plan.lower),
        expected_curve(search.trials, lower=plan.lower),
        notes_of(search.trials, plan, table),
        time.monotonic() - began,
    )


def check_rows(data: "Data", plan: SearchPlan) -> None:
    """Refuse before anything is written what could not be run."""
    must(len(data.validation) > 0, "there are validation rows", "none", "give the data a validation share", where="tune")
    for batch in plan.space.choices("batch_size"):
        batch_rows(dataclasses.replace(plan.settings, batch_size=batch), len(data.train))


def trial_row(trial: Trial) -> dict[str, Any]:
    """A trial as plain values."""
    return asdict(trial)


def counts_of(trials: list[Trial], plan: SearchPlan) -> dict[str, int]:
    """How many trials ended how, and the epochs that were trained."""
    ends = {name: sum(t.status == name for t in trials) for name in ("finished", "stopped", "diverged")}
    return {"trials": len(trials), **ends, "epochs": sum(t.epochs for t in trials), "epochs_in_full": len(trials) * plan.settings.epochs}


def best_so_far(trials: list[Trial], *, lower: bool) -> list[float]:
    """The best value of the finished trials up to each one; NaN before the first."""
    out, best = [], math.nan
    for trial in trials:
        if trial.status == "finished" and trial.value is not None:
            better = math.isnan(best) or (trial.value < best if lower else trial.value > best)
            best = trial.value if better else best
        out.append(best)
    return out


def expected_curve(trials: list[Trial], *, lower: bool) -> list[float]:
    """The mean best of k random trials, from the random trials of a search; one that diverged counts as the worst value seen.

    None where one of them was stopped: its value is not that of a whole trial, and whether it was stopped hung on the other trials.
    """
    if any(t.by == "random" and t.status == "stopped" for t in trials):
        return []
    drawn = [t.value for t in trials if t.by == "random"]
    known = [v for v in drawn if v is not None]
    if not known:
        return []
    worst = max(known) if lower else min(known)
    return budget_curve([worst if v is None else v for v in drawn], lower=lower)


def notes_of(trials: list[Trial], plan: SearchPlan, table: list[dict[str, Any]]) -> list[str]:
    """What must be known of a search before it is trusted."""
    n = counts_of(trials, plan)
    label = record.key(plan.metric).label
    if not trials:
        return []
    how = plan.sampler if plan.sampler != "tpe" else f"tpe, {plan.batch} asked for at once"
    if plan.sampler == "tpe" and all(t.by == "random" for t in trials):
        how = "drawn at random: tpe begins to learn once the first ones have ended"
    out = [
        f"{count(n['trials'], 'trial')} ({how}): {n['finished']} finished, {n['stopped']} stopped early, "
        f"{n['diverged']} diverged; {n['epochs']:,} of {n['epochs_in_full']:,} epochs were trained."
    ]
    if plan.pruner == "halving" and n["stopped"]:
        judged = {epoch: [t for t in trials if epoch in t.reports] for epoch in rungs(plan.settings.epochs)}
        places = [f"{sum(t.epochs > e for t in held)} of {len(held)} after epoch {e}" for e, held in judged.items() if held]
        words = "a trial that starts slowly may have been left behind there"
        out.append(f"Of the trials so far the best third goes on, equal ones by their loss: {', '.join(places)}; {words}.")
    out.append(
        f"Chosen by {label} on validation rows with fresh seeds (the search used seed {plan.search_seed}); test rows decided nothing."
    )
    if 0 < len(table) < plan.best:
        few = "only one trial was" if len(table) == 1 else f"only {len(table)} different trials were"
        out.append(f"{few[:1].upper()}{few[1:]} trained to the end, so no more could be trained again (asked for: {plan.best}).")
    if table:
        out += _at_edges(plan, table[0])
    for why in dict.fromkeys(t.alone for t in trials if t.alone):
        out.append(f"{count(sum(t.alone == why for t in trials), 'trial')} trained one by one: {why}.")
    return out


def _at_edges(plan: SearchPlan, row: dict[str, Any]) -> list[str]:
    """Where the best settings stand at an end of what was searched."""
    out = []
    for factor, value in row["factors"].items():
        place = plan.space.position(factor, row["factors"])
        wanted = plan.space.values.get(factor)
        if not isinstance(place, float) or (factor != "lr" and not (isinstance(wanted, Range) and wanted.log)):
            continue
        low, high = (wanted.low, wanted.high) if isinstance(wanted, Range) else (0.0, 1.0)
        if isinstance(wanted, Range) and wanted.log:
            low, high = math.log(low), math.log(high)
        share = (place - low) / (high - low)
        if not _NEAR_EDGE < share < 1 - _NEAR_EDGE and factor not in ("weight_decay", "eps"):
            small = (share < 0.5) != (factor in AVERAGES)
            word = factor.replace("_", " ") if factor != "lr" else "learning rate"
            out.append(f"The best {word}, {value:g}, stands at the {'low' if small else 'high'} end of what was searched: look beyond it.")
    return out


def found_text(found: Found, plan: SearchPlan) -> str:
    """The finalists, the result and its notes, for a terminal."""
    label, shown, table = record.key(plan.metric).label, varied(found.table), found.table

    def cells(name: str) -> list[str]:
        return [factor_text(row["settings" if name == "optimizer" else "factors"].get(name)) for row in table]

    def spread(row: dict[str, Any]) -> str:
        return f" [{value_text(row['low'])}, {value_text(row['high'])}]" if row["low"] is not None else ""

    text = ("model", "optimizer", "schedule", "loss")
    spare = {"optimizer": 0, "lr": 0, "model": 0, "batch_size": 3}  # of the others, the last ones go first
    columns = [
        Column("", [str(row["rank"]) for row in table]),
        Column("trial", [str(row["trial"]) for row in table]),
        *(Column(name.replace("_", " "), cells(name), name in text, spare.get(name, 5 + i)) for i, name in enumerate(shown)),
        Column(f"{label} [95 %]" if any(map(spread, table)) else label, [f"{value_text(row['mean'])}{spread(row)}" for row in table]),
        Column("test", [value_text(row["test_mean"]) for row in table], spare=1),
        Column("in the search", [value_text(row["searched"]) for row in table], spare=2),
        Column("time", [f"{row['seconds']:.2f} s" for row in table], spare=4),
        Column("diverged", [f"{row['diverged']} of {row['seeds']}" if row["diverged"] else "" for row in table]),
    ]
    lines = [*columns_text(columns), ""] if table else []
    return "\n".join([*lines, f"{found.headline[:1].upper()}{found.headline[1:]}.", *found.notes])


def varied(table: list[dict[str, Any]]) -> list[str]:
    """The factors in which the finalists differ, and always optimizer (with options of its own) and learning rate."""
    names = list(dict.fromkeys(name for row in table for name in row["factors"] if name not in OWN))
    return [n for n in names if n in ("optimizer", "lr") or len({str(row["factors"].get(n)) for row in table}) > 1]


def factor_text(value: Any) -> str:
    """A setting as a table shows it.

    >>> factor_text(0.00123), factor_text(None), factor_text("adam")
    ('0.00123', '-', 'adam')
    """
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
