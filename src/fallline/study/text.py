"""A study in words: the ranking for a terminal, and the call that repeats it."""

import dataclasses
import io
import math
from typing import TYPE_CHECKING, Any

from fallline import record
from fallline.study.models import spoken
from fallline.study.plan import Plan
from fallline.training import Settings

if TYPE_CHECKING:
    from fallline.study.compare import Result


def ranking_text(result: "Result", plan: Plan) -> str:
    """Headline, table and what must be known to read it."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    key = record.key(plan.metric)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    heads = [
        "",
        "optimizer",
        "lr",
        f"{key.label} [95 %]",
        "test",
        "differs",
        "time",
        "steps",
        "diverged",
        "note",
    ]
    for head in heads:
        table.add_column(head, justify="left" if head in ("optimizer", "note", "differs") else "right", no_wrap=head != "note")
    for row in result.table:
        spread = f" [{_number(row['low'])}, {_number(row['high'])}]" if row["low"] is not None else ""
        steps = "-" if not math.isfinite(result.target) else "never" if row["steps_to_target"] is None else f"{row['steps_to_target']:,}"
        if 0 < row["missed"] < row["seeds"]:
            steps += f" ({row['missed']} missed)"
        table.add_row(
            "-" if row["rank"] is None else str(row["rank"]),
            row["cell"],
            f"{row['lr']:.3g}",
            f"{_number(row['mean'])}{spread}",
            _number(row["test_mean"]),
            row["differs_from_best"],
            f"{row['seconds']:.2f} s",
            steps,
            f"{row['diverged']} of {row['seeds']}",
            row["note"],
        )
    stream = io.StringIO()
    Console(file=stream, width=150, no_color=True).print(table)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    return "\n".join([*lines, result.headline + ".", *legend(result, plan)])


def legend(result: "Result", plan: Plan) -> list[str]:
    """How the numbers came about."""
    key = record.key(plan.metric)
    kept = "best validation loss" if plan.settings.keep == "best" else "last epoch"
    out = [f"Ranked by {key.label} on validation rows, at the weights of the {kept}; test rows decided nothing."]
    if math.isfinite(result.target):
        how = "what every run of three in four cells reached" if plan.target == "auto" else "as given"
        out.append(f"Steps: until validation {key.label} {_number(result.target)} ({how}); a run that never reached it counts as infinity.")
    return [*out, *(f"{note[0].upper()}{note[1:]}." for note in result.notes)]


def python_call(model: Any, source: dict[str, Any], plan: Plan) -> str:
    """The Python call that repeats the study; where model or data were in memory, their names stand for them."""
    load = (
        ", ".join([repr(source["source"]), *(f"{k}={v!r}" for k, v in source.items() if k != "source" and v is not None)]) if source else ""
    )
    usual = {field.name: field.default for field in dataclasses.fields(Settings)}
    several = {name for name, given in (("loss", plan.losses), ("schedule", plan.schedules)) if len(given) > 1}
    changed = {
        name: value
        for name, value in plan.settings.to_json().items()
        if name not in {"optimizer", "lr", "batch_size", "seed", "epochs", *several} and value != usual[name]
    }
    lrs: Any = "auto"
    if not all(plan.auto.values()):
        lrs = {name: "auto" if plan.auto[name] else list(plan.rates[name]) for name in plan.optimizers}
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
    words = ",\n    ".join([f"optimizers={list(plan.optimizers)!r}", *(f"{key}={value!r}" for key, value in options.items())])
    data = f"data = fl.data.load({load})" if load else "data = ...  # the rows were given in memory"
    return f"import fallline as fl\n\n{data}\nstudy = fl.compare(\n    {name},\n    data,\n    {words},\n)"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"
