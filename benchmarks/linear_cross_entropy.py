"""The last linear layer and cross-entropy, value and gradients: time and peak memory against torch's plain and chunked forms.

    python benchmarks/linear_cross_entropy.py              # 1024 tokens x 512 x 20,000 classes, a minute
    python benchmarks/linear_cross_entropy.py --full       # 4096 x 1024 x 50,000, the size of the bar: about 20 minutes on two cores

Each form lives in a process of its own, so that its peak is its own; steps are taken in turn, A B C A B C. Memory is the highest resident
size during a step less what the process held before it: the gradients of tokens and weight are in it, the weight itself is not.
"""

import argparse
import json
import multiprocessing
import re
import statistics
import time
from pathlib import Path

from common import RESULTS, machine

FORMS = ("torch plain", "torch chunked", "torch chunked, 512 rows", "fallline", "fallline, recomputing")
SMOOTHED = ("torch plain, smoothed", "fallline, smoothed")


def status(key):
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def form(name, torch, rows):
    """The function (x, weight, target) -> loss."""
    F = torch.nn.functional
    smoothing = 0.1 if name.endswith("smoothed") else 0.0
    if name.startswith("torch plain"):
        return lambda x, w, y: F.cross_entropy(F.linear(x, w), y, label_smoothing=smoothing)
    if name.startswith("torch chunked"):
        options = torch.nn.LinearCrossEntropyOptions(**({"batch_chunk_size": rows} if "rows" in name else {}))
        return lambda x, w, y: F.linear_cross_entropy(x, w, y, options=options)
    from fallline.losses.functional import linear_cross_entropy

    if name.endswith("recomputing"):  # what reduction="none" does: values first, gradients by a second pass
        return lambda x, w, y: linear_cross_entropy(x, w, y, reduction="none").mean()
    return lambda x, w, y: linear_cross_entropy(x, w, y, label_smoothing=smoothing)


def serve(pipe, name, sizes, threads, block):
    """One contender: a step for each message, until None."""
    import torch

    torch.set_num_threads(threads)
    tokens, features, classes = sizes
    g = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, features, generator=g).requires_grad_()
    weight = torch.nn.Parameter(torch.randn(classes, features, generator=g) / features**0.5)
    y = torch.randint(0, classes, (tokens,), generator=g)
    call = form(name, torch, 512)
    if block and name.startswith("fallline"):
        from fallline.losses.functional import linear_cross_entropy

        call = lambda x, w, y: linear_cross_entropy(x, w, y, block=block)  # noqa: E731
    call(x[:8], weight, y[:8]).backward()  # first use: libraries, threads
    pipe.send("ready")
    while pipe.recv() is not None:
        x.grad = weight.grad = None
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        before = status("VmRSS")
        start = time.perf_counter()
        value = call(x, weight, y)
        value.backward()
        seconds = time.perf_counter() - start
        pipe.send((seconds, status("VmHWM") - before, value.item(), float(x.grad.norm()), float(weight.grad.norm())))


def measure(names, sizes, rounds, threads, block=0):
    """Seconds and megabytes of each contender; every one starts from the same numbers, so the values must agree."""
    spawn = multiprocessing.get_context("spawn")
    workers = {}
    for name in names:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=serve, args=(theirs, name, sizes, threads, block), daemon=True)
        process.start()
        workers[name] = process, ours
    for _, pipe in workers.values():
        pipe.recv()
    found = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name, (_, pipe) in workers.items():
            pipe.send("step")
            step = pipe.recv()
            if turn:
                found[name].append(step)
    for process, pipe in workers.values():
        pipe.send(None)
        process.join()
    first = found[names[0]][0]
    for name in names:
        for a, b in zip(found[name][0][2:], first[2:], strict=True):
            assert abs(a - b) <= 1e-4 * abs(b), f"{name} computes {a}, {names[0]} {b}"
    return {
        name: {
            "seconds": statistics.median(step[0] for step in steps),
            "all_seconds": [round(step[0], 4) for step in steps],
            "peak_mb": statistics.median(step[1] for step in steps),
        }
        for name, steps in found.items()
    }


def show(title, table):
    print(f"\n{title}")
    base = table[next(iter(table))]
    for name, row in table.items():
        ratio = f"{row['seconds'] / base['seconds']:.2f} x time, {row['peak_mb'] / base['peak_mb']:.2f} x memory"
        print(f"  {name:<26}{row['seconds']:9.3f} s {row['peak_mb']:9.0f} MB   {ratio}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="4096 x 1024 x 50,000")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--features", type=int)
    parser.add_argument("--classes", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", default="", help="compare fallline with itself at these block sizes, e.g. 64/128/256/512/1024")
    args = parser.parse_args()
    usual = (4096, 1024, 50_000) if args.full else (1024, 512, 20_000)
    sizes = tuple(given or size for given, size in zip((args.tokens, args.features, args.classes), usual, strict=True))
    title = "{} tokens x {} x {:,} classes, {} threads".format(*sizes, args.threads)
    if args.blocks:
        for block in map(int, args.blocks.split("/")):
            show(f"{title}, block {block}", measure(("torch plain", "fallline"), sizes, args.rounds, args.threads, block))
        return
    tables = {
        "mean": measure(FORMS, sizes, args.rounds, args.threads),
        "label smoothing 0.1": measure(SMOOTHED, sizes, args.rounds, args.threads),
    }
    for what, table in tables.items():
        show(f"{title}: {what}", table)
    path = RESULTS / "linear_cross_entropy.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept["machine"] = machine()
    kept.setdefault("runs", {})["x".join(map(str, sizes))] = {"threads": args.threads, "rounds": args.rounds, **tables}
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
