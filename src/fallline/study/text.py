"""A study in words: the ranking for a terminal, and the call that repeats it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fallline import optim, record
from fallline._core.columns import Column, columns_text
from fallline.study.models import spoken
from fallline.study.plan import Plan
from fallline.training import Settings

if TYPE_CHECKING:
    from fallline.study.compare import Result


_SHARES = ", common parts divided by the members that train then: who trains on after others stopped early carries more of it."


def ranking_text(result: "Result", plan: Plan) -> str:
    """Headline, table and what must be known to read it."""
    if not result.table:
        kept = f"; {len(result.trials)} trainings of the search for learning rates are kept" if result.trials else ""
        return f"No training that is compared was finished{kept}."
    key, table = record.key(plan.metric), result.table
    return "\n".join(
        [
            *columns_text(
                [
                    Column("", ["-" if row["rank"] is None else str(row["rank"]) for row in table]),
                    *_names(table),
                    Column("lr", [f"{row['lr']:.3g}" for row in table]),
                    Column(f"{key.label} [95 %]", [f"{_number(row['mean'])}{_spread(row)}" for row in table]),
                    Column("test", [_number(row["test_mean"]) for row in table], spare=1),
                    Column("differs", [row["differs_from_best"] for row in table], left=True),
                    Column("time", [f"{row['seconds']:.2f} s" for row in table], spare=2),
                    Column("steps", [_steps(row, result.target) for row in table], spare=3),
                    Column("epochs", [_epochs(row) for row in table] if len(plan.batch_sizes) > 1 else [""] * len(table), spare=4),
                    Column("diverged", [f"{row['diverged']} of {row['seeds']}" if row["diverged"] else "" for row in table]),
                    Column("note", [row["note"] if row["rank"] is None else "" for row in table], left=True, spare=5),
                ]
            ),
            "",
            f"{result.headline}.",
            *(f"- {line}." for line in result.shown),
            *legend(result, plan),
        ]
    )


def _names(table: Sequence[dict[str, Any]]) -> list[Column]:
    """What tells the rows apart: the optimizer, and every other factor of which there are several."""
    heads = {"batch_size": "batch", "loss": "loss", "schedule": "schedule"}
    more = [name for name in heads if len({str(row[name]) for row in table}) > 1]
    return [
        Column("optimizer", [row["optimizer"] for row in table], left=True),
        *(Column(heads[name], [str(row[name]) for row in table], left=name != "batch_size") for name in more),
    ]


def _spread(row: dict[str, Any]) -> str:
    return "" if row["low"] is None else f" [{_number(row['low'])}, {_number(row['high'])}]"


def _steps(row: dict[str, Any], target: float) -> str:
    text = "-" if not math.isfinite(target) else "never" if row["steps_to_target"] is None else f"{row['steps_to_target']:,}"
    return f"{text} ({row['missed']} missed)" if 0 < row["missed"] < row["seeds"] else text


def _epochs(row: dict[str, Any]) -> str:
    return "-" if row["epochs_to_target"] is None else f"{row['epochs_to_target']:.3g}"


def legend(result: "Result", plan: Plan) -> list[str]:
    """How the numbers came about."""
    key = record.key(plan.metric)
    kept = "best validation loss" if plan.settings.keep == "best" else "last epoch"
    out = [f"{result.basis[0].upper()}{result.basis[1:]}."] if result.basis else []
    out += [f"Ranked by {key.label} on validation rows, at the weights of the {kept}; test rows decided nothing."]
    if math.isfinite(result.target):
        how = "what all runs of three in four rows reached" if plan.target == "auto" else "as given"
        out.append(f"Steps: until validation {key.label} {_number(result.target)} ({how}); a run that never reached it counts as infinity.")
        if len(plan.batch_sizes) > 1:
            out.append("A step costs more at a larger batch: across batch sizes compare the epochs, that is passes over the training rows.")
    if any(member.block > 1 for member in result.members):
        out.append("Time: a member's share of the time of its block" + _SHARES)
    return [*out, *(f"{note[0].upper()}{note[1:]}." for note in result.notes)]


def python_call(model: Any, source: dict[str, Any], plan: Plan, *, loss_in_memory: bool = False) -> str:
    """The Python call that repeats the study; where model, loss or data were in memory, names stand for them."""
    load = (
        ", ".join([repr(source["source"]), *(f"{k}={v!r}" for k, v in source.items() if k != "source" and v is not None)]) if source else ""
    )
    usual = {field.name: field.default for field in dataclasses.fields(Settings)}
    several = {name for name, given in (("loss", plan.losses), ("schedule", plan.schedules)) if len(given) > 1}
    several |= {"loss"} if loss_in_memory else set()
    changed = {
        name: value
        for name, value in plan.settings.to_json().items()
        if name not in {"optimizer", "lr", "batch_size", "seed", "epochs", *several} and value != usual[name]
    }
    lrs: Any = "auto"
    free = [name for name in plan.optimizers if optim.split_rate(name)[1] is None]
    if not all(plan.auto[name] for name in free):
        lrs = {name: "auto" if plan.auto[name] else list(plan.rates[name]) for name in free}
    options = {
        "lrs": lrs,
        "batch_sizes": list(plan.batch_sizes),
        **({"losses": list(plan.losses)} if len(plan.losses) > 1 else {}),
        **({"schedules": list(plan.schedules)} if len(plan.schedules) > 1 else {}),
        "seeds": list(plan.seeds),
        "epochs": plan.settings.epochs,
        "target": plan.target,
        "metric": plan.metric,
        **changed,
    }
    name = repr(model) if isinstance(model, str) else spoken(model)
    said = [f"{key}={value!r}" for key, value in options.items()] + (["loss=loss"] if loss_in_memory else [])
    words = ",\n    ".join([f"optimizers={list(plan.optimizers)!r}", *said])
    data = f"data = fl.data.load({load})" if load else "data = ...  # the rows were given in memory"
    loss = f"loss = ...  # {plan.settings.loss}, given in memory\n" if loss_in_memory else ""
    return f"import fallline as fl\n\n{data}\n{loss}study = fl.compare(\n    {name},\n    data,\n    {words},\n)"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"
