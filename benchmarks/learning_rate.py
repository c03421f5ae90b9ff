"""How near `fl.find_lr` comes to the best learning rate of a grid, beside fastai's `valley` and Lightning's steepest slope.

    FALLLINE_DATA=... python benchmarks/learning_rate.py [--half report|develop|both] [--only WORD] [--truth FILE] [--rows FILE]
    python benchmarks/learning_rate.py --merge FILE ...        one report of several such files

Truth: for each case, 25 rates over four decades or more each train for the whole budget, from three seeds that no finder sees; the best
rate is the one of the lowest mean loss at the end (on validation rows; for quadratics, the exact excess loss).
A suggestion is *near* where it lies within a factor of 3 of that rate; *good* where training at it ends within 5 % of the best loss. Cases
fall into two halves: the finder was developed on one ("develop"), the other ("report") was looked at afterwards.

Cases: noisy quadratics with known edge (2 / largest curvature for sgd, 2 (1 + 0.9) / largest curvature for heavy ball as torch writes it):
dimension 5 to 100, condition 1 to 10,000, 100 to 1000 mini-batches, loss scale 0.001 to 1000, distance of the start 0.1 to 10, in a random
basis; digits, California housing and Fashion-MNIST (fewer rows, and all) with linear models and networks of one hidden layer.

The two peers see one ramp of 100 mini-batches each, from the same start, smoothed and stopped as they do; their rules are written here from
their descriptions (`learning_rate_peers.py`), in their own range of rates and, marked "wide", in the range that fallline looks through.
"""

import argparse
import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import save
from learning_rate_peers import PEERS, suggest
from torch import nn

import fallline as fl
from fallline import optim
from fallline.data import Data, batches
from fallline.study.models import fresh
from fallline.training import Settings, aim, outputs
from fallline.training.evaluate import mean_loss

POINTS, TRUTH_SEEDS = 25, (1, 2, 3)
BETA = {"sgd": 0.0, "momentum": 0.9}


class Case(NamedTuple):
    """One problem: `train(seed, rate, steps)` gives the loss at the end, `ramp(seed)` a step and its loss, `find` what fallline says."""

    name: str
    family: str
    half: str
    steps: int
    grid: list[float]
    wide: tuple[float, float]
    ends: Callable[[int, list[float]], list[float]]
    ramp: Callable[[int], Callable[[float], float]]
    find: Callable[[], Any]
    start: float
    edge: float | None = None


def quadratic(index: int, half: str) -> Case:
    """f(x) = x'Hx / 2 with gradients whose noise comes from the rows of a mini-batch."""
    rng = np.random.default_rng([5, index])
    d, name = int(rng.integers(5, 101)), ("sgd", "momentum", "adam", "rmsprop")[index % 4]
    condition, scale, far = 10 ** rng.uniform(0, 4), 10 ** rng.uniform(-3, 3), 10 ** rng.uniform(-1, 1)
    curvature = scale * condition ** -np.sort(np.concatenate([[0.0, 1.0], rng.uniform(0, 1, d - 2)]))
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    hessian = (basis * curvature) @ basis.T
    x0 = far * rng.normal(size=d)
    spread = np.sqrt(curvature * scale) if rng.random() < 0.5 else np.full(d, scale)  # noise as of a regression, or alike in all directions
    spread *= 10 ** rng.uniform(-2, 0.5) * np.linalg.norm(hessian @ x0) / np.linalg.norm(spread)
    steps, rows = round(100 * 10 ** rng.random()), 16
    epochs = int(rng.integers(1, max(2, min(4, steps // 100 + 1))))
    count = steps // epochs
    noise = (rng.normal(size=(count * rows, d)) * spread * 4) @ basis.T
    steps, means = count * epochs, noise.reshape(count, rows, d).mean(1)
    edge = 2 * (1 + BETA[name]) / curvature[0] if name in BETA else None
    top = 3 * edge if edge else 10 * far
    grid = np.geomspace(top / 1e5, top, POINTS)
    h, y = torch.tensor(hessian, dtype=torch.float32), torch.tensor(noise, dtype=torch.float32)
    makers = {
        "sgd": torch.optim.SGD,
        "momentum": lambda p: torch.optim.SGD(p, momentum=0.9),
        "adam": torch.optim.Adam,
        "rmsprop": torch.optim.RMSprop,
    }

    class Point(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(torch.tensor(x0, dtype=torch.float32))

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return self.x.expand(len(batch), -1)

    def loss(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return ((x @ h) * x).sum(1).mean() / 2 - (rows * x).sum(1).mean()

    data = [(part, part) for part in y.split(rows)]

    def ends(seed: int, rates: list[float]) -> list[float]:
        order = np.random.default_rng([seed, index])
        gradients = (means[place] for _ in range(epochs) for place in order.permutation(count))
        x = descend(name, np.tile(x0, (len(rates), 1)), hessian, gradients, np.array(rates)[:, None])
        with np.errstate(all="ignore"):
            return np.einsum("id,de,ie->i", x, hessian, x).tolist()

    def ramp(seed: int) -> Callable[[float], float]:
        point, order = Point(), np.random.default_rng([seed, index, 7])
        optimizer = makers[name](point.parameters())
        places = iter([p for _ in range(20) for p in order.permutation(count)])
        return lambda lr: _step(optimizer, lr, lambda: loss(point(data[p := next(places)][0]), data[p][1]))

    def find() -> Any:
        return fl.find_lr(Point(), data, loss, makers[name], epochs=epochs)

    title = f"quadratic {index}: {name}, {d} dimensions, condition {condition:.3g}, scale {scale:.2g}, {steps} steps"
    start = float(x0 @ hessian @ x0)
    usual = makers[name](Point().parameters()).param_groups[0]["lr"]
    return Case(title, "quadratic", half, steps, grid.tolist(), (usual / 1e4, usual * 1e4), ends, ramp, find, start, edge)


def descend(name: str, x: np.ndarray, hessian: np.ndarray, noise: Any, lr: np.ndarray) -> np.ndarray:
    """The four rules in their papers' form, one row of `x` a rate: the oracle, which shares no code with what is measured."""
    m, v = np.zeros_like(x), np.zeros_like(x)
    with np.errstate(all="ignore"):
        for t, wind in enumerate(noise, 1):
            g = x @ hessian - wind
            if name in BETA:
                m = BETA[name] * m + g
                x = x - lr * m
            elif name == "adam":
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                x = x - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            else:
                v = 0.99 * v + 0.01 * g * g
                x = x - lr * g / (np.sqrt(v) + 1e-8)
    return x


def network(data: Data, short: str, model: str, name: str, batch: Any, epochs: int, half: str) -> Case:
    """A network on real rows."""
    settings = Settings(optimizer=name, batch_size=batch, epochs=epochs)
    goal, rows = aim(data, settings), len(data.train)
    size = rows if batch == "full" else batch
    x, target = data.train.x, goal.targets(data.train.y)
    held = goal.targets(data.validation.y)
    low, high = optim.OPTIMIZERS[name].lr_range

    def begin(seed: int) -> tuple[nn.Module, Any]:
        network_ = fresh(model, data.input_shape, goal.outputs, seed=seed)
        return network_, optim.build(name, network_.named_parameters(), nonfinite="allow")

    def order(seed: int, epochs: int) -> Any:
        return (rows_ for epoch in range(epochs) for rows_ in batches(rows, size, seed=seed, epoch=epoch))

    def cost(network_: nn.Module, chosen: torch.Tensor) -> torch.Tensor:
        return goal.loss(goal.squeeze(network_(x[chosen])), target[chosen])

    def one(seed: int, rate: float) -> float:
        network_, optimizer = begin(seed)
        for chosen in order(seed, epochs):
            if not math.isfinite(
                _step(optimizer, rate, lambda chosen=chosen: goal.loss(goal.squeeze(network_(x[chosen])), target[chosen]))
            ):
                return math.inf
        return mean_loss(outputs(network_, data.validation.x), held, goal)

    def ramp(seed: int) -> Callable[[float], float]:
        network_, optimizer = begin(seed)
        places = order(seed, 200)
        return lambda lr: _step(optimizer, lr, functools.partial(cost, network_, next(places)))

    start = mean_loss(outputs(begin(1)[0], data.validation.x), held, goal)
    title = f"{short}: {model}, {name}, batch {batch}, {epochs} epochs"
    return Case(
        title,
        short,
        half,
        epochs * -(-rows // size),
        np.geomspace(low, high * 3, POINTS).tolist(),
        (low / 10, high * 10),
        lambda seed, rates: [one(seed, rate) for rate in rates],
        ramp,
        lambda: fl.find_lr(model, data, "auto", name, batch_size=batch, epochs=epochs),
        start,
    )


def _step(optimizer: Any, lr: float, value: Callable[[], torch.Tensor]) -> float:
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    loss = value()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def fewer(data: Data, rows: int, held: int) -> Data:
    """The first rows of a set: a grid of 25 whole trainings a case is dear."""
    cut = lambda split, n: dataclasses.replace(split, x=split.x[:n], y=split.y[:n])  # noqa: E731
    return dataclasses.replace(data, train=cut(data.train, rows), validation=cut(data.validation, held))


def cases(half: str, only: str) -> list[Case]:
    """All cases of that half."""
    found = [quadratic(i, "report") for i in range(40)] + [quadratic(i, "develop") for i in range(100, 140)]
    nets: list[tuple[Any, ...]] = []
    if any(only in word for word in ("digits", "")) or only == "digits":
        digits = fl.data.load("digits")
        nets += [(digits, "digits", m, b, 5 if b != "full" else 40) for m in ("linear", "mlp:64", "mlp:128") for b in (32, 128, "full")]
    if only in ("", "california"):
        houses = fewer(fl.data.load("california_housing"), 4000, 1500)
        nets += [(houses, "california", m, b, 3) for m in ("linear", "mlp:64") for b in (32, 128)]
    if only in ("", "fashion"):
        clothes = fl.data.load("fashion_mnist")
        nets += [(fewer(clothes, 6000, 2000), "fashion", m, b, 3) for m in ("linear", "mlp:128") for b in (32, 128)]
        nets += [(clothes, "fashion, all rows", m, 32, 1) for m in ("linear", "mlp:64")]
    for i, (data, short, model, batch, epochs) in enumerate(nets):
        for j, name in enumerate(("sgd", "momentum", "adam", "rmsprop")):
            found.append(network(data, short, model, name, batch, epochs, ("report", "develop")[(i + j) % 2]))
    return [case for case in found if half in ("both", case.half) and only in case.name]


def truth(case: Case, rates: list[float], cache: dict[str, float]) -> list[float]:
    """The mean loss at the end for each rate; infinity where any seed was lost."""
    keys = [f"{case.name} @ {rate:.6g}" for rate in rates]
    missing = [rate for key, rate in zip(keys, rates, strict=True) if key not in cache]
    if missing:
        runs = np.array([case.ends(seed, missing) for seed in TRUTH_SEEDS], dtype=float)
        mean = np.where(np.isfinite(runs).all(0), runs.mean(0), math.inf)
        cache.update({f"{case.name} @ {rate:.6g}": float(f"{v:.6g}") for rate, v in zip(missing, mean, strict=True)})
    return [cache[key] for key in keys]


def judge(case: Case, losses: list[float], rate: float | None, cache: dict[str, float]) -> dict[str, Any]:
    """How far a suggestion is from the best of the grid, in ratio and in loss."""
    best = int(np.argmin(losses))
    if rate is None or not rate > 0:
        return {"rate": None, "ratio": None, "near": False, "good": False, "lost": 1.0}
    ratio = rate / case.grid[best]
    at = truth(case, [rate], cache)[0]
    low = losses[best]
    lost = min(1.0, max(0.0, (at - low) / (case.start - low))) if case.start > low else 1.0
    return {"rate": rate, "ratio": ratio, "near": 1 / 3 <= ratio <= 3, "good": at - low <= 0.05 * abs(low), "lost": lost}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--half", default="both")
    parser.add_argument("--only", default="")
    parser.add_argument("--truth", help="a file that keeps the losses of the grids between runs")
    parser.add_argument("--rows", help="write what was found into this file")
    parser.add_argument("--merge", nargs="*", help="read such files, and report on them together")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--peers", type=int, default=1)
    given = parser.parse_args()
    if given.merge:
        report([row for name in given.merge for row in json.loads(Path(name).read_text())])
        return
    torch.set_num_threads(1)
    kept = Path(given.truth) if given.truth else None
    cache = json.loads(kept.read_text()) if kept and kept.exists() else {}
    table = []
    for case in cases(given.half, given.only)[:: given.every]:
        losses = truth(case, case.grid, cache)
        if kept:
            kept.write_text(json.dumps(cache))
        began = time.perf_counter()
        found = case.find()
        seconds = time.perf_counter() - began
        best = int(np.argmin(losses))
        row: dict[str, Any] = {
            "case": case.name,
            "family": case.family,
            "half": case.half,
            "best": case.grid[best],
            "best loss": losses[best],
            "found": found.found,
            "confidence": found.confidence,
            "useful": found.useful,
            "edge": found.edge,
            "true edge": case.edge,
            "mini-batches": found.steps,
            "budget": case.steps,
            "seconds": seconds,
            "fallline": judge(case, losses, found.suggested if found.found else None, cache),
        }
        for peer in PEERS if given.peers else ():
            row[peer.name] = judge(case, losses, suggest(peer, case.ramp(0), None), cache)
            row[f"{peer.name}, wide"] = judge(case, losses, suggest(peer, case.ramp(0), case.wide), cache)
        table.append(row)
        ours = row["fallline"]
        ratio = "none" if ours["ratio"] is None else f"{ours['ratio']:.2f}"
        flags = ("near" if ours["near"] else "FAR ") + (" good" if ours["good"] else "     ")
        print(
            f"{flags} ratio {ratio:>6} lost {ours['lost']:.3f} conf {found.confidence:.2f} {found.steps:5d} steps {seconds:5.2f} s "
            f" best {case.grid[best]:.3g}"
            f" edge {found.edge and round(found.edge, 5)}/{case.edge and round(case.edge, 5)}  {case.name}",
            flush=True,
        )
        if given.rows:
            Path(given.rows).write_text(json.dumps(table))
    report(table)


METHODS = ("fallline", *(name for peer in PEERS for name in (peer.name, f"{peer.name}, wide")))


def report(table: list[dict[str, Any]]) -> None:
    """The shares, by half and by family; written where all cases ran."""
    summary: dict[str, Any] = {}
    groups = {"all": table} | {f"half {h}": [r for r in table if r["half"] == h] for h in ("report", "develop")}
    families = dict.fromkeys(row["family"] for row in table)
    groups |= {f"{f}, {h}": [r for r in table if (r["family"], r["half"]) == (f, h)] for f in families for h in ("report", "develop")}
    for title, rows in groups.items():
        if not rows:
            continue
        print(f"\n{title}: {len(rows)} cases")
        summary[title] = {"cases": len(rows)}
        for method in METHODS:
            if method in rows[0]:
                shares = {key: float(np.mean([row[method][key] for row in rows])) for key in ("near", "good")}
                shares["median share of the fall lost"] = float(np.median([row[method]["lost"] for row in rows]))
                summary[title][method] = shares
                lost = shares["median share of the fall lost"]
                print(f"  {method:32} near {shares['near']:.1%}  good {shares['good']:.1%}  lost {lost:.4f}")
    for title, sure in (("confidence >= 0.75", True), ("confidence < 0.75", False)):
        rows = [row for row in table if (row["confidence"] >= 0.75) is sure]
        if rows:
            right = float(np.mean([r["fallline"]["near"] for r in rows]))
            summary[title] = {"cases": len(rows), "near": right}
            print(f"{title}: {len(rows)} cases, near {right:.1%}")
    edges = [r["edge"] / r["true edge"] for r in table if r["true edge"] and r["edge"]]
    if edges:
        summary["edge found / known edge"] = [float(q) for q in np.quantile(edges, (0, 0.1, 0.5, 0.9, 1))]
        print("edge found / known edge, quantiles 0 10 50 90 100:", [round(q, 2) for q in summary["edge found / known edge"]])
    for key in ("mini-batches", "seconds"):
        summary[key] = [float(q) for q in np.quantile([r[key] for r in table], (0.5, 0.9, 1))]
        print(f"{key}, median, 90 %, most:", [round(q, 2) for q in summary[key]])
    if {"quadratic", "digits"} <= set(families):
        print(save("learning_rate", {"summary": summary, "cases": table}))


if __name__ == "__main__":
    main()
