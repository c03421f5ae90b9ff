"""`fallline compare`: optimizers, learning rates and batch sizes against one another, over seeds, on rows none of them saw."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from fallline._core.errors import FalllineError
from fallline._core.number import Number
from fallline.cli import options as o
from fallline.cli.place import claimed, default_folder
from fallline.cli.terminal import Voice, number

_ALL = "sgd,momentum,nesterov,adagrad,adadelta,rmsprop,adam,nadam,adamax"


def compare(
    data: Annotated[str | None, Parameter(help="CSV, Parquet or npz file, folder of pictures by class, or a named set")] = None,
    /,
    *,
    target: o.Target = None,
    task: o.Task = None,
    scale: o.Scale = "zscore",
    model: o.Model = "mlp:128",
    loss: o.Loss = "auto",
    optimizers: Annotated[str, o.text("names with commas between", o.DESCENT)] = _ALL,
    lrs: Annotated[str, o.text("auto finds one for each optimizer; or a list, as 0.1,0.01", o.DESCENT)] = "auto",
    batch_sizes: Annotated[str, o.text("a list, as 32,128,full", o.DESCENT)] = "32",
    epochs: o.Epochs = 10,
    schedule: o.Schedule = "constant",
    seeds: Annotated[str, o.text("how many seeds, or a list, as 0,1,2", o.RUN)] = "3",
    goal: Annotated[str, o.text("validation metric to reach, for the count of steps; auto takes it from the runs", o.RUN)] = "auto",
    device: o.Device = "cpu",
    out: o.RunFolder = None,
    resume: o.Resume = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> int:
    """Compare optimizers over seeds: a ranking with intervals, time, steps to a goal, diverged runs, and a page with the curves."""
    voice = Voice(quiet=quiet, as_json=json)
    if resume is None and data is None:
        raise FalllineError("there is nothing to compare on; name a file, a folder or a set, as in `fallline compare digits`.")
    from fallline.api.compare import compare as compare_settings
    from fallline.data import load

    if resume is not None:
        return _finish(compare_settings(resume=resume), voice)
    settings: dict[str, Any] = {
        "optimizers": _names(optimizers),
        "lrs": "auto" if lrs == "auto" else [_positive("lrs", item) for item in _names(lrs)],
        "batch_sizes": [item if item == "full" else int(_positive("batch_sizes", item)) for item in _names(batch_sizes)],
        "seeds": int(seeds) if seeds.isdigit() else [int(_positive("seeds", item, zero=True)) for item in _names(seeds)],
        "epochs": epochs,
        "schedule": schedule,
        "target": goal,
        "loss": loss,
        "device": device,
    }
    with claimed(Path(out) if out else default_folder(str(data))) as folder:
        loaded = load(data, target, seed=0, task=task, scale=scale)
        voice.head(f"{loaded.name}: {loaded.task}, {len(loaded.train)} training rows")
        for note in loaded.notes:
            voice.say(f"  {note}")
        return _finish(compare_settings(model, loaded, out=folder, **settings), voice)


def _names(text: str) -> list[str]:
    """`"a, b"` as `["a", "b"]`."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _positive(option: str, text: str, *, zero: bool = False) -> float:
    """One number of a list."""
    return Number(option, 0, open_low=not zero).check(text)  # type: ignore[arg-type]


def _finish(study: Any, voice: Voice) -> int:
    """The ranking in words, and where the page is."""
    head = ["optimizer", "lr", "batch", "mean", "95 % interval", "seconds", "steps to target", "diverged"]
    rows = [
        [
            str(row["optimizer"]),
            number(row["lr"]),
            str(row["batch_size"]),
            number(row["mean"]),
            f"{number(row['low'])} to {number(row['high'])}",
            number(row["seconds"], 3),
            number(row["steps_to_target"]),
            str(row["diverged"]),
        ]
        for row in study.table
    ]
    voice.table(head, rows)
    page = study.report()
    voice.say()
    voice.say(f"report: {page}")
    voice.json({"folder": str(study.folder), "report": str(page), "table": study.table})
    return 0
