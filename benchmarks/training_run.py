"""Seconds of a whole training run on Fashion-MNIST: fallline's `fit` against a plain PyTorch loop, interleaved in one process.

    python benchmarks/training_run.py [epochs] [rounds]

Both train 784-256-10 with RMSprop at batch 32 from the same rows and judge the validation rows after each epoch. The plain loop is what a
tutorial shows: DataLoader over a TensorDataset, torch.optim.RMSprop, F.cross_entropy, no metrics but the validation accuracy. fallline's
time includes its record on disk, checkpoints, training metrics and the last judgement on the test rows.
"""

import statistics
import sys
import tempfile
import time

import torch
from common import save
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fallline as fl


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))


def plain(data, epochs: int) -> float:
    model = network()
    loader = DataLoader(TensorDataset(data.train.x, data.train.y), batch_size=32, shuffle=True)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.001)
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            (model(data.validation.x).argmax(1) == data.validation.y).float().mean().item()
    with torch.no_grad():
        return (model(data.test.x).argmax(1) == data.test.y).float().mean().item()


def ours(data, epochs: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        run = fl.fit(
            network(),
            data,
            loss="cross_entropy",
            optimizer="rmsprop",
            lr=0.001,
            batch_size=32,
            epochs=epochs,
            seed=0,
            out=f"{folder}/run",
            quiet=True,
        )
        return run.metrics["test"]["accuracy"]


def main(epochs: int = 2, rounds: int = 5) -> None:
    data = fl.data.load("fashion_mnist")
    steps = epochs * -(-len(data.train) // 32)
    ours(data, 1)
    plain(data, 1)
    times: dict[str, list[float]] = {"plain": [], "fallline": []}
    accuracy: dict[str, float] = {}
    for _ in range(rounds):
        for name, job in (("plain", plain), ("fallline", ours)):
            start = time.perf_counter()
            accuracy[name] = job(data, epochs)
            times[name].append(time.perf_counter() - start)
        print({k: f"{v[-1] / steps * 1e6:.0f} us a step" for k, v in times.items()}, flush=True)
    ratios = [p / f for p, f in zip(times["plain"], times["fallline"], strict=True)]
    result = {
        "network": "784-256-10, batch 32, RMSprop",
        "epochs": epochs,
        "microseconds a step": {k: round(statistics.median(v) / steps * 1e6, 1) for k, v in times.items()},
        "times as fast": round(statistics.median(ratios), 3),
        "times as fast, each round": [round(r, 3) for r in ratios],
        "test accuracy": accuracy,
    }
    print(result)
    print(save("training_run", result))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
