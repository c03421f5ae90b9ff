"""Seconds of one optimizer step on the CPU: fallline against every setting that torch.optim offers, interleaved in one process.

    python benchmarks/optimizer_step.py [rounds]

`copy` is the time to copy as many bytes as the rule must read and write, by torch's own copy on the same threads: the floor that memory
sets. A ratio is the other's time over ours: 4.0 means four times as fast.
"""

import sys

import torch
from common import interleaved, medians, save

from fallline import optim

SHAPES = {"1 x 16.8M": [(4096, 4096)], "200 x 33k": [(33_000,)] * 200, "500 x 64": [(64,)] * 500}
RULES = {
    "SGD": ("SGD", {}, 0),
    "momentum": ("SGD", {"momentum": 0.9}, 1),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}, 1),
    "Adagrad": ("Adagrad", {}, 1),
    "Adadelta": ("Adadelta", {}, 2),
    "RMSprop": ("RMSprop", {}, 1),
    "Adam": ("Adam", {}, 2),
    "AdamW": ("AdamW", {}, 2),
    "NAdam": ("NAdam", {}, 2),
    "Adamax": ("Adamax", {}, 2),
}
FUSED = {"SGD", "momentum", "nesterov", "Adagrad", "Adam", "AdamW"}


def optimizers(name, settings, shapes):
    """One optimizer per contender, each with its own parameters and gradients."""
    torch.manual_seed(0)

    def params():
        out = [torch.nn.Parameter(torch.randn(s)) for s in shapes]
        for p in out:
            p.grad = torch.randn_like(p) * 1e-3
        return out

    theirs = getattr(torch.optim, name)
    made = {
        "fallline": getattr(optim, name)(params(), lr=1e-4, **settings),
        "torch": theirs(params(), lr=1e-4, foreach=False, **settings),
        "torch foreach": theirs(params(), lr=1e-4, foreach=True, **settings),
    }
    if "fused" in theirs.__init__.__code__.co_varnames:
        made["torch fused"] = theirs(params(), lr=1e-4, fused=True, **settings)
    return made


def main(rounds: int = 15) -> None:
    rows = []
    for layout, shapes in SHAPES.items():
        elements = sum(torch.Size(s).numel() for s in shapes)
        inner = 1 if elements > 1e7 else 5
        for rule, (name, settings, states) in RULES.items():
            made = optimizers(name, settings, shapes)
            # reads p, g, state and writes p, state; a copy reads one and writes one
            moved = elements * (3 + 2 * states) // 2
            a, b = torch.ones(moved), torch.zeros(moved)
            calls = {key: opt.step for key, opt in made.items()} | {"copy": lambda a=a, b=b: b.copy_(a)}
            times = medians(interleaved(calls, rounds, inner))
            best = min((k for k in times if k.startswith("torch")), key=times.__getitem__)
            row = {
                "layout": layout,
                "rule": rule,
                "milliseconds": {k: round(v * 1e3, 4) for k, v in times.items()},
                "torch's best": best,
                "times as fast as torch's best": round(times[best] / times["fallline"], 2),
                "times a copy of the same bytes": round(times["fallline"] / times["copy"], 2),
                "torch fuses it": rule in FUSED,
            }
            rows.append(row)
            print(
                f"{layout:10s} {rule:9s} fallline {times['fallline'] * 1e3:8.3f} ms   {best:14s} {times[best] * 1e3:8.3f} ms   "
                f"x{row['times as fast as torch' + chr(39) + 's best']:<6}  {row['times a copy of the same bytes']:.2f} of a copy"
            )
            del made, calls, a, b
    print(save("optimizer_step", {"rows": rows}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
