"""Records made by hand for the tests of the report: the numbers are formulas, so that figures can be checked."""

import math
from typing import Any

from fallline import record

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "nadam", "adamax")
EVIL = "</script><script>alert(1)</script>"


def wobble(i: int, seed: int = 0) -> float:
    return math.sin(12.9898 * (i + 1) + 78.233 * (seed + 1)) * 0.5


def info(**result: Any) -> dict[str, Any]:
    return {
        "status": "finished",
        "command": "fallline train digits --model mlp:128 --epochs 20 --out runs/digits",
        "config": {"model": "mlp:128", "optimizer": "adam", "lr": 0.003, "batch_size": 32, "epochs": 20, "seed": 0, "keep": "best"},
        "data": {
            "name": "digits",
            "task": "multiclass",
            "classes": [str(i) for i in range(10)],
            "input_shape": [64],
            "target": "digit",
            "notes": ["left out `id`: an identifier (a different value in each row)"],
            "source": {"source": "digits", "seed": 0},
            "fingerprint": "ab" * 32,
            "summary": {
                "rows": {"train": 1257, "validation": 270, "test": 270},
                "class_counts": {str(i): 170 + (i * 7) % 13 for i in range(10)},
            },
        },
        "model": {
            "spec": "mlp:128",
            "parameters": 9610,
            "layers": [
                {"name": "1", "type": "Linear", "output": [128], "parameters": 8320},
                {"name": "2", "type": "ReLU", "output": [128], "parameters": 0},
                {"name": "3", "type": "Linear", "output": [10], "parameters": 1290},
            ],
        },
        "environment": {"fallline": "0.1.0", "python": "3.12.3", "torch": "2.13.0", "platform": "Linux", "cpus": 2},
        "result": result,
    }


def run_record(epochs: int = 20, diverged: bool = False, classes: list[str] | None = None, **more: Any) -> record.Reader:
    w = record.Writer(None)
    counts = [[26 if i == j else (1 if (i * 3 + j) % 11 == 0 else 0) for j in range(10)] for i in range(10)]
    told = info(
        metrics={
            "train": {"loss": 0.012, "accuracy": 0.998},
            "validation": {"loss": 0.081, "accuracy": 0.974},
            "test": {"loss": 0.094, "accuracy": 0.9704, "precision": 0.971, "recall": 0.9698, "f1": 0.9701, "roc_auc": 0.9991},
        },
        best_epoch=13,
        epochs_done=epochs,
        steps=epochs * 40,
        seconds=6.4,
        confusion={"split": "test", "counts": counts},
    )
    if classes:
        told["data"]["classes"] = classes
        told["data"]["summary"]["class_counts"] = dict.fromkeys(classes, 17)
        told["result"]["confusion"] = [[5 if i == j else 1 for j in range(len(classes))] for i in range(len(classes))]
    told.update(more)
    w.info.update(told)
    for e in range(1, epochs + 1):
        gone = diverged and e > epochs // 2
        nan = math.nan
        at: dict[str, Any] = {"step": 40 * e, "epoch": float(e), "seconds": 0.3 * e}
        w.scalar("loss", nan if gone else 1.9 * math.exp(-e / 4) + 0.02, split="train", **at)
        w.scalar("loss", nan if gone else 1.8 * math.exp(-e / 4) + 0.05 + 0.0006 * (e - 13) ** 2 * (e > 13), split="validation", **at)
        w.scalar("accuracy", nan if gone else 1 - 0.7 * math.exp(-e / 3), split="train", **at)
        w.scalar("accuracy", nan if gone else 0.975 - 0.7 * math.exp(-e / 3) + 0.004 * wobble(e), split="validation", **at)
    for step in range(1, epochs * 40 + 1, 2):
        at = {"step": step, "epoch": step / 40, "seconds": 0.3 * step / 40}
        w.scalar("loss", (1.9 * math.exp(-step / 160) + 0.02) * (1.2 + wobble(step)), split="batch", **at)
        w.scalar("lr", 0.003 * 0.5 * (1 + math.cos(math.pi * step / (epochs * 40))), **at)
        w.scalar("grad_norm", 2 * math.exp(-step / 300) * (1.2 + wobble(step)), **at)
    return record.Reader(w)


def study_record(
    optimizers: tuple[str, ...] = OPTIMIZERS, seeds: int = 3, epochs: int = 15, lost: str | None = "adadelta", **more: Any
) -> record.Reader:
    w = record.Writer(None, kind="study")
    table, search = [], {}
    for i, name in enumerate(optimizers):
        level = 0.978 - 0.004 * abs(6 - i) ** 1.3
        lr = [0.3, 0.1, 0.1, 0.03, 1.0, 0.003, 0.003, 0.003, 0.01][i % 9]
        values = []
        for seed in range(seeds):
            gone = name == lost and seed == 0
            for e in range(1, epochs + 1):
                nan = gone and e > epochs // 2
                at: dict[str, Any] = {
                    "step": 40 * e,
                    "epoch": float(e),
                    "seconds": (0.10 + 0.013 * i) * e,
                    "run": f"{name}/lr={lr}/seed={seed}",
                }
                fall = math.exp(-e / (2 + 0.6 * abs(6 - i))) * (1 + 0.16 * wobble(e, seed))
                for split, gap in (("train", 0.0), ("validation", 0.04)):
                    w.scalar("loss", math.nan if nan else 2.2 * fall + 0.02 + gap + 0.008 * abs(6 - i), split=split, **at)
                    w.scalar(
                        "accuracy",
                        math.nan if nan else level + 0.02 - gap / 2 - 0.8 * fall + 0.004 * wobble(e, seed + i),
                        split=split,
                        **at,
                    )
            if not gone:
                values.append(level - 0.002 * wobble(i, seed))
        for j, rate in enumerate((0.0001, 0.001, 0.01, 0.1, 1.0)):
            loss = math.nan if rate > 30 * lr else 0.1 + 0.3 * abs(math.log10(rate / lr)) ** 1.4
            search.setdefault(name, []).append([rate, None if math.isnan(loss) else loss])
            w.scalar("loss", loss, step=j, epoch=1.0, split="validation", run=f"{name}/search/lr={rate}")
        search[name].append([lr, 0.1])
        mean = sum(values) / max(1, len(values))
        table.append(
            {
                "optimizer": name,
                "lr": lr,
                "batch_size": 32,
                "seeds": seeds,
                "diverged": int(name == lost),
                "metric": "accuracy",
                "mean": mean,
                "low": mean - 0.003 if seeds > 1 else None,
                "high": mean + 0.003 if seeds > 1 else None,
                "test_mean": mean - 0.006,
                "seconds": (0.10 + 0.013 * i) * epochs,
                "steps_to_target": None if name == "adadelta" else 120 + 60 * abs(6 - i),
                "missed": 3 if name == "adadelta" else int(i == 0),
                "lr_at_edge": name == "adadelta",
                "values": values,
            }
        )
    table.sort(key=lambda row: -row["mean"])
    for n, row in enumerate(table):
        row["differs_from_best"] = "not shown" if n < 3 or seeds < 2 else "yes"
    told = info(table=table, search=search, metric="accuracy", seconds=131.0, target=0.95)
    told["command"] = f"fallline compare digits --optimizers {','.join(optimizers)} --seeds {seeds} --epochs {epochs}"
    told["config"] = {
        "optimizers": list(optimizers),
        "seeds": list(range(seeds)),
        "epochs": epochs,
        "lrs": "auto",
        "batch_sizes": [32],
        "model": "mlp:128",
    }
    w.info.update({**told, **more})
    return record.Reader(w)


def regression_record(rows: int = 400) -> record.Reader:
    w = record.Writer(None)
    true = [10 + 8 * math.sin(i) for i in range(rows)]
    predicted = [t + wobble(i) * 2 for i, t in enumerate(true)]
    told = info(
        metrics={s: {"loss": 0.2, "r2": 0.78, "mae": 0.63, "rmse": 0.71} for s in ("train", "validation", "test")},
        best_epoch=10,
        epochs_done=10,
        steps=400,
        seconds=65.0,
        predictions={"split": "test", "true": true, "predicted": predicted},
    )
    told["data"] |= {"name": "houses", "task": "regression", "target": "price", "classes": [], "input_shape": [8]}
    told["data"]["summary"] = {
        "rows": {"train": 2000, "validation": 400, "test": rows},
        "target_quantiles": {"5 %": 2.1, "50 %": 9.7, "95 %": 17.9},
    }
    told["model"]["layers"] = ["Sequential(", "  (0): Linear(in_features=8, out_features=64, bias=True)", "  (1): ReLU()", ")"]
    w.info.update(told)
    for e in range(11):
        at: dict[str, Any] = {"step": 40 * e, "epoch": float(e), "seconds": 6.5 * e}
        for split in ("train", "validation"):
            w.scalar("loss", math.exp(-e / 3) + 0.2, split=split, **at)
            w.scalar("r2", 0.8 - math.exp(-e / 3), split=split, **at)
    return record.Reader(w)
