"""A program that trains, is killed, and goes on: run by the tests in a process of its own, from which it forks.

    python -m tests.training.killed FOLDER PLAN.json      prints one JSON line a plan: {"weights": ..., "record": ..., "died": ...}

A plan is a list of {"kill": {"step": k} | {"replace": n, "after": bool} | {"seconds": t} | {"stop": k} | null}.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import torch

import fallline as fl
from fallline.record import Reader

SETTINGS = {
    "loss": "auto",
    "optimizer": "adam",
    "lr": 0.01,
    "batch_size": 16,
    "epochs": 2,
    "dropout": 0.3,
    "schedule": "warmup+cosine",
    "clip_norm": 0.5,
    "l2": 1e-4,
    "patience": 2,
    "seed": 7,
    "quiet": True,
    "checkpoint_seconds": 0.05,
}
_replace = os.replace


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killer(kill: dict | None):
    """The `stop` of the run, and what else kills it."""
    steps = iter(range(1, 1 << 30))
    kill = kill or {}

    def stop() -> bool:
        step = next(steps)
        if step == kill.get("step"):
            die()
        return step == kill.get("stop")

    if "replace" in kill:
        files = iter(range(1, 1 << 30))

        def replace(source, target) -> None:
            now = next(files) == kill["replace"]
            if now and not kill["after"]:
                die()
            _replace(source, target)
            if now:
                die()

        os.replace = replace
    if "seconds" in kill:
        threading.Thread(target=lambda: (time.sleep(kill["seconds"]), die()), daemon=True).start()
    return stop


def forked(work) -> bool:
    """Do `work` in a fork; whether it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status):
        raise SystemExit("the run failed")
    return False


def start(folder: Path, kill: dict | None) -> None:
    fl.fit("mlp:24", "digits", out=folder, stop=killer(kill), **SETTINGS)


def digest(folder: Path) -> dict[str, str]:
    run = fl.load_run(folder)
    weights = hashlib.sha256(b"".join(t.numpy().tobytes() for t in run.model.state_dict().values())).hexdigest()
    rows = []
    with Reader(folder) as reader:
        for key in reader.keys():  # noqa: SIM118
            for split in reader.splits(key):
                series = reader.series(key, split)
                timed = key in ("seconds_per_step", "examples_per_second")
                rows.append([key, split, series.step.tolist(), series.epoch.tolist(), [] if timed else series.value.tolist()])
    return {"weights": weights, "record": hashlib.sha256(json.dumps(rows).encode()).hexdigest(), "status": run.status}


def main(folder: str, plans: str) -> None:
    torch.set_num_threads(1)
    for number, plan in enumerate(json.loads(plans)):
        place = Path(folder) / str(number)
        died = 0
        for index, kill in enumerate(plan):
            fresh = index == 0 or not (place / "run.json").exists()
            died += forked(
                lambda fresh=fresh, kill=kill, place=place: (
                    start(place, kill) if fresh else fl.resume(place, quiet=True, stop=killer(kill)) and None
                )
            )
        print(json.dumps({**digest(place), "died": died}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
