"""Losses between examples, forward and backward: seconds beside pytorch-metric-learning, and peak memory in processes of their own.

    python benchmarks/metric_losses.py [--rounds 5] [--only triplet] [--quick]

All triplets and semi-hard ones at N = 128, 512, 1024, with 2 classes and with N/8 (8 rows each), and alone at 4096; NT-Xent of N rows (two
views of N/2) at 256 to 4096, also against the plain form that writes the whole matrix of similarities. Each contender's value is kept, as
they must agree. A peer that would need more than `ROOM` bytes is left out, with the reason. Memory is what the resident set of a fresh
process grows by at its peak, in a second call of the same size, after the first has loaded and compiled what there is and has given back
its own.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from common import interleaved, medians, save
from torch.nn import functional as F

from fallline.losses import InfoNCE, Triplet

ROOM = 6e9
DIM, MARGIN, HEAT = 64, 0.2, 0.1


def embedded(n, classes):
    g = torch.Generator().manual_seed(n + classes)
    return F.normalize(torch.randn(n, DIM, generator=g)), torch.arange(n) % classes


def triplets(n, classes):
    """How many triplets there are in `classes` classes of equal size."""
    each = n // classes
    return n * (each - 1) * (n - each)


def ours_all(x, y):
    return Triplet(margin=MARGIN, average="active")(x, y)


def ours_semi_hard(x, y):
    return Triplet(margin=MARGIN, mining="all_semi_hard", average="active")(x, y)


def ours_next(x, y):
    return Triplet(margin=MARGIN, mining="semi_hard")(x, y)


def theirs_all(x, y):
    from pytorch_metric_learning.losses import TripletMarginLoss

    return TripletMarginLoss(margin=MARGIN)(x, y)


def theirs_semi_hard(x, y):
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import TripletMarginMiner

    return TripletMarginLoss(margin=MARGIN)(x, y, TripletMarginMiner(margin=MARGIN, type_of_triplets="semihard")(x, y))


def ours_nt_xent(x, y):
    half = len(x) // 2
    return InfoNCE(temperature=HEAT, views="both")(x[:half], x[half:])


def theirs_nt_xent(x, y):
    from pytorch_metric_learning.losses import NTXentLoss

    return NTXentLoss(temperature=HEAT)(x, y)


def plain_nt_xent(x, y):
    """The whole N x N matrix, and cross-entropy with the diagonal taken out."""
    n = len(x)
    x = F.normalize(x)
    s = (x @ x.T / HEAT).masked_fill(torch.eye(n, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(s, (torch.arange(n) + n // 2) % n)


WHO = {
    "all triplets": {"fallline": ours_all, "pytorch-metric-learning": theirs_all},
    "semi-hard": {"fallline": ours_semi_hard, "fallline, one a pair": ours_next, "pytorch-metric-learning": theirs_semi_hard},
    "NT-Xent": {"fallline": ours_nt_xent, "plain": plain_nt_xent, "pytorch-metric-learning": theirs_nt_xent},
}


def needs(what, who, n, classes):
    """Bytes that pytorch-metric-learning is known to take: its mask and indices of triplets, or positive pairs times negative pairs."""
    if who != "pytorch-metric-learning":
        return 0
    return n**3 + 45 * triplets(n, classes) if what != "NT-Xent" else 4 * 4 * n * n * (n - 2)


def step(call, n, classes):
    x, y = embedded(n, classes)
    x.requires_grad_()

    def run():
        x.grad = None
        value = call(x, y)
        value.backward()
        return value.item()

    return run


def resident(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def alone(what, who, n, classes):
    """In a process of its own: one call after a warm-up; how much its memory grew at the peak."""
    run = step(WHO[what][who], n, classes)
    run()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before, start = resident("VmRSS"), time.perf_counter()
    value = run()
    seconds = time.perf_counter() - start
    print(json.dumps({"value": value, "seconds once": seconds, "peak MB": round((resident("VmHWM") - before) / 1e6, 1)}))


def child(*case):
    done = subprocess.run([sys.executable, __file__, "--alone", json.dumps(case)], capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def cases(quick):
    for n in (128, 512) if quick else (128, 512, 1024):
        for classes in (2, n // 8):
            yield "all triplets", n, classes
            yield "semi-hard", n, classes
    for n in (256, 1024) if quick else (256, 512, 1024, 4096):
        yield "NT-Xent", n, n // 2
    if not quick:
        for classes in (2, 512):
            yield "all triplets", 4096, classes
            yield "semi-hard", 4096, classes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--alone", default="")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    if chosen.alone:
        alone(*json.loads(chosen.alone))
        return
    found = []
    for what, n, classes in cases(chosen.quick):
        if chosen.only and chosen.only not in what:
            continue
        row = {"what": what, "rows": n, "classes": classes, "left out": {}}
        calls = {}
        for who, call in WHO[what].items():
            if (bytes_ := needs(what, who, n, classes)) > ROOM:
                row["left out"][who] = f"would need about {bytes_ / 1e9:.0f} GB"
            else:
                calls[who] = step(call, n, classes)
        slow = max(needs(what, who, n, classes) for who in calls) > 5e8
        seconds = medians(interleaved(calls, 1 if slow else chosen.rounds))
        row["contenders"] = {who: {"seconds": seconds[who], **child(what, who, n, classes)} for who in calls}
        mine = row["contenders"]["fallline"]
        row["ratios"] = {who: seconds[who] / seconds["fallline"] for who in calls}
        found.append(row)
        shown = "  ".join(f"{w}: {r['seconds'] * 1e3:.1f} ms, {r.get('peak MB')} MB" for w, r in row["contenders"].items())
        print(f"{what} {n} x {classes}: {shown}  {row['left out'] or ''} value {mine.get('value')}", flush=True)
    print("wrote", save("metric_losses", {"dimensions": DIM, "cases": found}))


if __name__ == "__main__":
    main()
