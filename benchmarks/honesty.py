"""How often a study of real trainings claims a difference where there is none, and finds one that was planted.

    python benchmarks/honesty.py [studies]

Seed s gives every optimizer of a study the same weights and the same order of rows; so one optimizer under two names would give the same
runs to the last bit, and a study of it could claim nothing: that would prove nothing. Two ways around it, both on digits:

1. One optimizer, four names, no seed in common. 20 runs of SGD with momentum, every one with a seed of its own, are dealt out to 4 names,
   5 each; the i-th runs of all names are called a pair. The noise is that of real trainings, and more of it than in a real study, whose
   pairs have much in common. All 6 pairs are asked for metric and steps, under one correction.
2. Two optimizers, paired as studies pair them, their mean difference over ALL seeds taken out: the metric is shifted, the steps are
   multiplied, until both means agree. What is left differs from seed to seed as real pairs do, and not on average. Then 1.2 times as
   many steps are planted in one of them. A study has 10 seeds.

All runs of an optimizer are one study of it, a population of thousands of seeds, and are then dealt out; those of 2 with momentum are the
first ones of 1. Every study is judged by the code that judges `fl.compare`. At most 5 % may claim anything that is not there, and 80 %
should find what was planted. Steps are counted to a validation loss and, for comparison, to an accuracy, whose curve is rougher; they are
read on the line between two epochs (`first_crossing`), and at epochs.
"""

import sys
import time
from typing import Any

import numpy as np
from common import save
from scipy.stats import binomtest

import fallline as fl
from fallline.study.pairs import differences
from fallline.study.sentence import shown_ratios, shown_values
from fallline.study.steps import first_crossing

RATES = {"sgd:momentum=0.9": 0.02, "rmsprop": 0.001}
NAMES, SEEDS, PAIRED_SEEDS, PLANTED, EPOCHS = 4, 5, 10, 1.2, 12
TARGETS = {"loss": 0.3, "accuracy": 0.93}
PARTS = ("values", "line", "epochs", "ran")
Runs = dict[str, np.ndarray]


def trained(data: "fl.data.Data", optimizer: str, seeds: int) -> dict[str, Runs]:
    """For each metric the values of all runs of an optimizer, their steps to the target on the line and at epochs, and all they took."""
    began = time.perf_counter()
    study = fl.compare("mlp:32", data, [optimizer], lrs=RATES[optimizer], seeds=seeds, epochs=EPOCHS, quiet=True)
    found: dict[str, list[list[float]]] = {metric: [] for metric in TARGETS}
    for member in sorted(study.members, key=lambda m: m.seed):
        for metric, target in TARGETS.items():
            curve = study.reader.series(metric, "validation", member.run)
            lower = metric == "loss"
            line = first_crossing(curve.step.tolist(), curve.value.tolist(), target, lower=lower)
            hits = curve.step[curve.value <= target if lower else curve.value >= target]
            found[metric].append([member.value(metric), line, float(hits[0]) if len(hits) else np.inf, member.steps])
    print(f"{seeds} runs of {optimizer} in {time.perf_counter() - began:.1f} s", flush=True)
    return {metric: dict(zip(PARTS, np.array(runs).T, strict=True)) for metric, runs in found.items()}


def row(name: str, runs: Runs, which: slice, read: str, step: float) -> dict[str, Any]:
    """What `differences` reads, of some of the runs."""
    steps = runs[read][which]
    return {
        "cell": name,
        "rank": 1,
        "at_seeds": list(range(len(steps))),
        "values": [float(v) for v in runs["values"][which]],
        "steps": [float(s) if np.isfinite(s) else None for s in steps],
        "ran": [float(s) for s in runs["ran"][which]],
        "step": step,
        "every": float(runs["ran"][0] / EPOCHS) if read == "epochs" else 0.0,
    }


def levelled(one: Runs, two: Runs, read: str, factor: float = 1.0) -> Runs:
    """The first runs, with the mean of the second; but `factor` times as many steps."""
    both = np.isfinite(one[read]) & np.isfinite(two[read])
    times = factor * float(np.exp(np.mean(np.log(two[read][both]) - np.log(one[read][both]))))
    return {"values": one["values"] + np.mean(two["values"] - one["values"]), read: times * one[read], "ran": times * one["ran"]}


def rate(found: list[bool]) -> dict[str, Any]:
    """How many studies, their share, and its exact interval."""
    span = binomtest(sum(found), len(found)).proportion_ci()
    return {"studies": len(found), "claimed": sum(found), "share": sum(found) / len(found), "95 % interval": [span.low, span.high]}


def claims(pairs: list[dict[str, Any]]) -> bool:
    """Whether a study claims anything."""
    return bool(shown_values(pairs, lower=False) or shown_ratios(pairs))


def judged(alone: Runs, one: Runs, two: Runs, read: str, step: float) -> dict[str, Any]:
    """All studies of both kinds, with the steps read in one way."""
    size = NAMES * SEEDS
    names = [
        claims(differences([row(f"name {i}", alone, slice(first + i, first + size, NAMES), read, step) for i in range(NAMES)]))
        for first in range(0, len(alone["values"]), size)
    ]
    parts = [slice(first, first + PAIRED_SEEDS) for first in range(0, len(one["values"]), PAIRED_SEEDS)]
    level, slow = (levelled(one, two, read, factor) for factor in (1.0, PLANTED))
    equal = [claims(differences([row("a", level, part, read, step), row("b", two, part, read, step)])) for part in parts]
    found = [set(shown_ratios(differences([row("a", slow, part, read, step), row("b", two, part, read, step)]))) for part in parts]
    whole = np.isfinite(one[read]) & np.isfinite(two[read])
    return {
        f"{NAMES} names of one optimizer, {SEEDS} seeds: something is claimed": rate(names),
        f"2 optimizers made equal, {PAIRED_SEEDS} paired seeds: something is claimed": rate(equal),
        f"{PLANTED} times as many steps planted, {PAIRED_SEEDS} paired seeds: found": rate([pair == {("b", "a")} for pair in found]),
        "deviation of paired log ratios": float(np.std(np.log(one[read][whole] / two[read][whole]), ddof=1)),
        "pairs in which one missed the target": int((~whole).sum()),
    }


def main(studies: int = 200) -> None:
    data = fl.data.load("digits")
    began = time.perf_counter()
    paired = studies * PAIRED_SEEDS
    alone, two = trained(data, "sgd:momentum=0.9", studies * NAMES * SEEDS), trained(data, "rmsprop", paired)
    one = {metric: {part: found[:paired] for part, found in runs.items()} for metric, runs in alone.items()}
    result: dict[str, Any] = {"task": f"digits, mlp:32, {EPOCHS} epochs", "rates": RATES, "targets": TARGETS}
    for metric in TARGETS:
        step = 1 / len(data.validation) if metric == "accuracy" else 0.0
        for read in ("line", "epochs"):
            found = judged(alone[metric], one[metric], two[metric], read, step)
            result[f"{metric}, steps read {'between' if read == 'line' else 'at'} epochs"] = found
            print(metric, read, found)
    result["seconds"] = time.perf_counter() - began
    print(save("honesty", result))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
