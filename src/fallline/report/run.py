"""The page of one run: what was trained on what and how well it does, then the evidence, then how to repeat it."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from fallline.report import about as told
from fallline.report.figures.confusion import class_table, confusion, per_class
from fallline.report.figures.loss import loss_curves
from fallline.report.figures.metrics import metric_curves
from fallline.report.figures.residuals import predicted_against_true, residual_bars
from fallline.report.figures.shapes import Figure, Table
from fallline.report.figures.source import Source, run_name
from fallline.report.figures.steps import step_curve
from fallline.report.page import filled, page, panel, render
from fallline.report.words import count, label, listed, metric, number, seconds

_SPLITS = ("train", "validation", "test")
_SHORT = {"mae": "MAE", "rmse": "RMSE"}


class Card(NamedTuple):
    """One number worth a large letter."""

    label: str
    value: str
    more: str = ""


class Notice(NamedTuple):
    """A sentence that must be read first."""

    words: str
    tone: str


def run_page(reader: Source) -> str:
    """The report of one run as one self-contained HTML page.

    Args:
        reader: the record of a run (`fallline.record.Reader`); whatever it lacks is left out of the page.

    >>> from fallline import record
    >>> w = record.Writer(None)
    >>> w.scalar("loss", 0.5, step=10, epoch=1, split="validation")
    >>> "<h1>a model on the data is still training</h1>" in run_page(record.Reader(w))
    True
    """
    info = reader.info
    charts: dict[str, Any] = {}
    found = figures(reader)
    curves = filled([panel(f, charts, wide=f.name == "loss") for f in found["curves"]])
    result = [panel(f, charts) for f in found["result"]]
    grid = next((f for f in found["result"] if f.name == "confusion"), None)
    per = per_class(grid.counts, grid.labels) if grid is not None and hasattr(grid, "counts") else []  # pyright: ignore[reportAttributeAccessIssue]
    checked = told.findings(info)
    body = render(
        "run.html.j2",
        notice=notice(info),
        cards=cards(info),
        findings=checked,
        curves=curves,
        result=result,
        result_words=result_words(info),
        metrics=metric_table(info),
        classes=class_table(grid) if grid is not None and 2 <= len(per) <= 60 else None,  # pyright: ignore[reportArgumentType]
        classes_words=told.class_words([(c.name, c.recall) for c in per]),
        about=told.about(reader),
        repeat=told.repeat(info, "fit", "The same seed on the same machine gives the same numbers, bit for bit."),
    )
    contents = [("findings", "Findings"), ("curves", "Curves"), ("result", "Result"), ("data", "Data and model"), ("repeat", "Repeat it")]
    eyebrow = " · ".join(part for part in ("Training run", told.when(info), told.took(info)) if part)
    if checked is None:
        contents = contents[1:]
    if not (result or metric_table(info)):
        contents = [c for c in contents if c[0] != "result"]
    return page(headline(info), body, eyebrow=eyebrow, lead=lead(info), contents=contents, charts=charts, foot=foot(info))


def figures(reader: Source) -> dict[str, list[Figure]]:
    """All figures of a run: "curves" over epochs and "result" on held-out rows."""
    info, run = reader.info, run_name(reader)
    best = told.first(info, "result.best_epoch")
    best_epoch = float(best) if isinstance(best, int | float) and not isinstance(best, bool) else None
    curves = [loss_curves(reader, run, best_epoch=best_epoch), *metric_curves(reader, run, best_epoch)]
    curves += [step_curve(reader, "lr", run), step_curve(reader, "grad_norm", run)]
    target = str(told.first(info, "data.target", default="target"))
    stored = told.first(info, "result.predictions")
    classes = told.first(info, "data.classes", "data.summary.classes", default=[])
    grid = confusion(told.first(info, "result.confusion"), list(classes) if isinstance(classes, list | tuple | Mapping) else [])
    result = [grid, predicted_against_true(stored, target), residual_bars(stored, target)]
    return {"curves": [f for f in curves if f is not None], "result": [f for f in result if f is not None]}


def metrics_of(info: Any) -> dict[str, dict[str, float]]:
    """Split -> metric -> value, as far as the run has them."""
    raw = told.first(info, "result.metrics", default={})
    if not isinstance(raw, Mapping):
        return {}
    return {s: {str(k): v for k, v in raw[s].items()} for s in _SPLITS if isinstance(raw.get(s), Mapping) and raw[s]}


def main_value(info: Any) -> tuple[str, str, float] | None:
    """The number that the headline tells: (split, metric, value), from the test rows where they were touched."""
    found = metrics_of(info)
    for split in ("test", "validation", "train"):
        for key in (str(told.first(info, "result.metric", default="")), "accuracy", "r2", "rmse", "loss"):
            value = found.get(split, {}).get(key)
            if isinstance(value, int | float):
                return split, key, float(value)
    return None


def headline(info: Any) -> str:
    """What was trained on what, and how well it does, in one sentence."""
    what = f"{told.model_name(info)} on {told.data_name(info)}"
    main = main_value(info)
    if main is None:
        return {"diverged": f"{what} diverged", "running": f"{what} is still training"}.get(str(told.first(info, "status")), what)
    split, key, value = main
    where = "training" if split == "train" else split
    if not math.isfinite(value):
        return f"{what}: {label(key)} on {where} rows is not finite"
    if key == "accuracy":
        return f"{what} is right on {metric(key, value)} of the {where} rows"
    if key == "r2":
        return (
            f"{what} explains {100 * value:.1f}\N{NO-BREAK SPACE}% of the variance on {where} rows"
            if value > 0
            else (f"{what} predicts worse than the mean on {where} rows (R² {number(value, 3)})")
        )
    return f"{what}: {label(key)} {metric(key, value)} on {where} rows"


def lead(info: Any) -> str:
    """How it was trained, in one or two sentences."""
    optimizer = str(told.first(info, "optimizer.spec", "optimizer.name", "optimizer", "config.optimizer", default=""))
    lr = told.first(info, "optimizer.lr", "config.lr", "result.lr")
    done = told.first(info, "result.epochs_done", "result.epochs")
    parts = [f"Trained on {told.data_sentence(info)}"]
    if optimizer and not optimizer.startswith("{"):
        parts.append(f"with {optimizer}" + (f" at learning rate {number(lr, 3)}" if isinstance(lr, int | float) else ""))
    if isinstance(done, int | float):
        parts.append(f"for {count(done, 'epoch')}")
    text = " ".join(parts) + "."
    best = told.first(info, "result.best_epoch")
    keep = str(told.first(info, "config.keep", "config.settings.keep", default="best"))
    if isinstance(best, int | float) and keep == "best":
        text += f" The weights of epoch {number(best)}, the best on validation rows, were kept."
    rows = told.rows_of(info).get("test")
    if rows and "test" in metrics_of(info):
        text += f" The {count(rows, 'test row')} were looked at once, at the end."
    return text


def notice(info: Any) -> Notice | None:
    """What a reader must know before the numbers: the run did not end as planned."""
    status = str(told.first(info, "status", default=""))
    done, planned = told.first(info, "result.epochs_done"), told.first(info, "config.epochs", "config.settings.epochs")
    far = f" after {count(done, 'epoch')}" + (f" of {number(planned)}" if planned else "") if isinstance(done, int | float) else ""
    words = {
        "diverged": f"This run diverged{far}: its loss stopped being finite. A smaller learning rate is the first thing to try.",
        "interrupted": f"This run was stopped by hand{far}. It can be resumed; its numbers are those of the epochs so far.",
        "failed": f"This run failed{far}. Its numbers are those of what was recorded before.",
        "running": "This run has not ended: the page shows what is recorded so far.",
    }
    if status not in words:
        return None
    told_ = str(told.first(info, "result.message", default="")).strip()
    text = words[status] + (f" The run says: {told_.rstrip('.')}." if told_ else "")
    return Notice(text, "bad" if status in ("diverged", "failed") else "warn")


def cards(info: Any) -> list[Card]:
    """The main metric first, then its companions, speed and size."""
    found = metrics_of(info)
    out: list[Card] = []
    split = next((s for s in ("test", "validation", "train") if s in found), "")
    main = main_value(info)
    names = list(found.get(split, {}))
    if main:
        names = [main[1], *(n for n in names if n not in (main[1], "loss")), *(["loss"] if main[1] != "loss" else [])]
    for key in names[:5]:
        value = found[split].get(key)
        if value is None:
            continue
        others = [
            f"{metric(key, found[s][key])} {s if s != 'train' else 'training'}" for s in _SPLITS if s != split and key in found.get(s, {})
        ]
        name = _SHORT.get(key, label(key))
        out.append(Card(f"{split.capitalize()} {name}", metric(key, value), listed(others)))
    span = told.first(info, "result.seconds")
    if isinstance(span, int | float):
        steps = told.first(info, "result.steps")
        out.append(Card("Time", seconds(span), count(steps, "step") if isinstance(steps, int | float) else ""))
    return out


def metric_table(info: Any) -> Table | None:
    """Every metric on every split."""
    found = metrics_of(info)
    if not found:
        return None
    keys = list(dict.fromkeys(key for values in found.values() for key in values))
    keys = [k for k in keys if k != "loss"] + [k for k in keys if k == "loss"]
    heads = ["training" if s == "train" else s for s in found]
    return Table(["metric", *heads], [[label(k), *(metric(k, v[k], 2) if k in v else "" for v in found.values())] for k in keys])


def result_words(info: Any) -> str:
    """What the numbers below were measured on."""
    found = metrics_of(info)
    if "test" in found:
        return "Test rows took no part in any decision. A gap between training and test is what the model learned by heart."
    return "No test rows were measured: the validation rows also chose the epoch, so their numbers flatter a little."


def foot(info: Any) -> str:
    """Who wrote the page, and from which version."""
    version = told.first(info, "environment.fallline", "environment.versions.fallline", "fallline", default="")
    return f"Written by fallline {version}".strip() + ". This page is one file; it asks nothing of any network."
