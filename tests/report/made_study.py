"""Records of large studies made by formulas, without any training: 24 cells of 5 seeds, with the statistics of `study` on them."""

import json
import math
from typing import Any

from fallline import record
from fallline.study.pairs import LEVEL, differences, factors
from fallline.study.profiles import study_profiles
from fallline.study.statistics import mean_interval
from fallline.study.steps import first_crossing
from fallline.study.verdict import verdict
from tests.report import made

OPTIMIZERS = ("sgd", "momentum", "rmsprop", "adam")
RATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 0.5, 0.2)
TARGET = 0.9
BEST = dict(zip(made.OPTIMIZERS, (0.3, 0.1, 0.1, 0.03, 1.0, 0.003, 0.003, 0.003, 0.01), strict=True))


def wide_record(
    optimizers: tuple[str, ...] = OPTIMIZERS,
    batches: tuple[Any, ...] = (32, 128, "full"),
    losses: tuple[str, ...] = ("cross_entropy", "focal"),
    seeds: int = 5,
    epochs: int = 12,
    at_edge: tuple[str, ...] = ("sgd at full batch",),
) -> record.Reader:
    """A study of every optimizer at every batch size with every loss; `at_edge`: beginnings of the names of cells that are not ranked."""
    w = record.Writer(None, kind="study")
    table, search = [], {}
    for i, name in enumerate(optimizers):
        for b, batch in enumerate(batches):
            for k, loss in enumerate(losses):
                row, tried = _cell(w, (i, b, k), (name, batch, loss), (len(batches) > 1, len(losses) > 1), seeds, epochs, at_edge)
                table.append(row)
                search[row["cell"]] = tried
    table.sort(key=lambda row: (row["lr_at_edge"], row["diverged"], -row["mean"]))
    for place, row in enumerate(table, start=1):
        row["rank"] = None if row["lr_at_edge"] else place
    pairs = differences(table)
    first = next((row["cell"] for row in table if row["rank"]), "")
    against = {pair["b"]: pair for pair in pairs if pair["a"] == first}
    for row in table:
        pair = against.get(row["cell"])
        row["visible"] = None
        row["differs_from_best"] = "not ranked" if row["rank"] is None else "best" if pair is None else "not shown"
        if row["rank"] is not None and pair is not None:
            gap = {"difference": pair["difference"], "difference_low": pair["low"], "difference_high": pair["high"]}
            turned = {key: None if value is None else -value for key, value in gap.items()}
            row |= {
                "difference": turned["difference"],
                "difference_low": turned["difference_high"],
                "difference_high": turned["difference_low"],
            }
            row |= {"p": pair["p"], "differs_from_best": "yes" if pair["p"] <= LEVEL else "not shown"}
    told = made.info(
        table=table,
        search=search,
        target=TARGET,
        seconds=412.0,
        members=len(table) * seeds,
        differences=pairs,
        factors=factors(table),
        profiles=study_profiles(table),
        **verdict(table, "accuracy")._asdict(),
        notes=[
            f"every cell had {len(RATES)} trainings to find its learning rate, all with seed {seeds}, which is not compared",
            f"{len(table) * (seeds + len(RATES))} trainings were run, up to 64 of them together in one program",
            "12 trainings were run one by one: the layer BatchNorm1d keeps running sums in place",
        ],
    )
    told["command"] = (
        "fallline compare digits --optimizers sgd,momentum,rmsprop,adam --batch-sizes 32,128,full --losses cross_entropy,focal"
    )
    told["config"] = {
        "optimizers": list(optimizers),
        "batch_sizes": list(batches),
        "losses": list(losses),
        "schedules": ["constant"],
        "seeds": list(range(seeds)),
        "search_seed": seeds,
        "auto": dict.fromkeys(optimizers, True),
        "epochs": epochs,
        "target": "auto",
        "budget": 600.0,
        "notes": ["batch size 32 was named more than once and is run once"],
        "settings": {"epochs": epochs, "keep": "best"},
    }
    w.info.update(told)
    return record.Reader(w)


def _cell(
    w: record.Writer,
    at: tuple[int, int, int],
    asked: tuple[str, Any, str],
    varied: tuple[bool, bool],
    seeds: int,
    epochs: int,
    at_edge: Any,
) -> tuple[dict[str, Any], list[list[float | None]]]:
    (i, b, k), (name, batch, loss) = at, asked
    size = f" at {'full batch' if batch == 'full' else f'batch size {batch}'}" if varied[0] else ""
    cell = f"{name}{size}{f' with {loss}' if varied[1] else ''}"
    start = (f"{name}" + (f"/batch={batch}" if varied[0] else "") + (f"/loss={loss}" if varied[1] else "")).strip("/")
    lr = BEST[name]
    quick = 1.5 + 1.1 * b + 0.5 * abs(6 - list(BEST).index(name))
    level = 0.975 - 0.012 * b - 0.004 * k - 0.005 * abs(6 - list(BEST).index(name))
    per_epoch = {32: 40, 128: 10}.get(batch, 1)
    values, steps, gone = [], [], 0
    for seed in range(seeds):
        lost = name == "momentum" and batch == 32 and k == 1 and seed == 2
        curve = []
        for e in range(epochs + 1):
            nan = lost and e > epochs // 2
            place: dict[str, Any] = {"step": per_epoch * e, "epoch": float(e), "seconds": 0.02 * (1 + i / 4) * e * (3 - b)}
            place["run"] = f"{start}/lr={lr}/seed={seed}"
            fall = math.exp(-e / quick) * (1 + 0.2 * made.wobble(i + 3, seed) + 0.05 * made.wobble(5 * e + b, seed + i))
            for split, gap in (("train", 0.0), ("validation", 0.03)):
                height = (0.5 if k else 2.2) * fall + 0.02 + gap
                right = (
                    level
                    + 0.02 * made.wobble(7 * i + 3 * b + k, seed)
                    + 0.01
                    - gap / 3
                    - 0.85 * fall
                    + 0.006 * made.wobble(3 * e + i, seed)
                )
                w.scalar("loss", math.nan if nan else height, split=split, **place)
                w.scalar("accuracy", math.nan if nan else right, split=split, **place)
                if split == "validation":
                    curve.append(right)
        gone += lost
        values.append(None if lost else max(curve))
        reached = first_crossing([per_epoch * e for e in range(epochs + 1)], curve, TARGET, lower=False)
        steps.append(None if lost or math.isinf(reached) else reached)
    whole = [v for v in values if v is not None]
    mean, low, high = mean_interval(whole)[:3]
    tried = [_trial(w, f"{start}/search/lr={rate:g}", rate, lr, (0.5 if k else 2.2), epochs) for rate in sorted({*RATES, lr})]
    reached_ = sorted(math.inf if s is None else s for s in steps)
    middle = reached_[len(reached_) // 2]
    edge = any(cell.startswith(name_) for name_ in at_edge)
    row = {
        "cell": cell, "optimizer": name, "batch_size": batch, "loss": loss, "schedule": "constant", "lr": lr, "seeds": seeds,
        "diverged": gone, "metric": "accuracy", "mean": mean, "low": low, "high": high, "at_seeds": list(range(seeds)), "values": values,
        "test_mean": mean - 0.004,
        "test_low": None, "test_high": None, "seconds": 0.02 * (1 + i / 4) * epochs * (3 - b), "target": TARGET, "steps": steps,
        "ran": [per_epoch * epochs] * seeds, "steps_to_target": middle if math.isfinite(middle) else None,
        "missed": sum(s is None for s in steps),
        "step": 0.0, "every": 0.0, "lr_at_edge": edge, "trials": len(tried),
        "note": "not ranked: its best learning rate stands at the edge of what was tried" if edge else "1 of 5 diverged" if gone else "",
    }  # fmt: skip
    return row, tried


def _trial(w: record.Writer, run: str, rate: float, best: float, start: float, epochs: int) -> list[float | None]:
    off = math.log10(rate / best)
    loss = math.nan if off > 1.2 else start * 1.2 if off > 0.9 else start * min(1.0, 0.05 + 0.25 * abs(off) ** 1.5)
    w.scalar("loss", start, step=0, epoch=0.0, split="validation", run=run)
    w.scalar("loss", loss, step=epochs, epoch=float(epochs), split="validation", run=run)
    validation = {"loss": loss, "accuracy": 0.97 - 0.8 * min(1.0, 0.3 * abs(off) ** 1.5)} if math.isfinite(loss) else {}
    w.text("outcome", json.dumps({"validation": validation}), run=run)
    return [rate, loss if math.isfinite(loss) else None]
