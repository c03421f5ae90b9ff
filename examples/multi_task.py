"""One network, two tasks: tell the garment on a picture of Fashion-MNIST, and how bright the picture is.

A convolutional network with two heads is trained with fixed weights, with uncertainty weights and with GradNorm, and compared with
the same network trained for the class alone. Brightness is the easy task: where it counts as much as the class, it costs the class
about a point of accuracy, so its fixed weight is 0.1. None of the four ways is best at both: over 51,000 pictures, 8 epochs and seed 0 (one
run, differences of a few tenths may be chance) they came to

    class alone          91.88 %
    both, fixed          91.67 %   R2 0.989
    both, uncertainty    90.11 %   R2 0.9996
    both, gradnorm       91.07 %   R2 0.967

Run it in the root of the repository:

    FALLLINE_DATA=folder/of/data python examples/multi_task.py --rows 51000 --epochs 8

FALLLINE_DATA names the folder that holds `fashion-mnist/`.
"""

import argparse
import sys
import time

import torch
from torch import Tensor

import fallline as fl

TASKS = {"class": "cross_entropy", "brightness": "mse"}
WAYS = {
    "class alone": None,
    "both, fixed": {"weighting": "fixed", "weights": {"brightness": 0.1}},
    "both, uncertainty": {"weighting": "uncertainty"},
    "both, gradnorm": {"weighting": "gradnorm"},
}


def load(rows: int) -> tuple[tuple[Tensor, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]:
    """Pictures with both targets, to train on and to test on; brightness in units of its deviation over the training rows."""
    data = fl.data.load("fashion_mnist")
    train, test = data.train, data.test
    gray = train.x[:rows].mean((1, 2, 3))
    std, mean = torch.std_mean(gray)

    def both(x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return x, {"class": y, "brightness": (x.mean((1, 2, 3)) - mean) / std}

    return both(train.x[:rows], train.y[:rows]), both(test.x, test.y)


def fit(way: str, train: tuple[Tensor, dict[str, Tensor]], *, epochs: int, batch: int, seed: int) -> torch.nn.Module:
    """Train a network in one of `WAYS`."""
    x, targets = train
    options = WAYS[way]
    tasks, heads = ({"class": "cross_entropy"}, {"class": 10}) if options is None else (TASKS, {"class": 10, "brightness": 1})
    model = fl.models.MultiHead("cnn", heads, input_shape=tuple(x.shape[1:]), seed=seed)
    loss = fl.losses.MultiTask(tasks, **(options or {}))
    groups = [{"params": list(model.parameters())}, {"params": list(loss.parameters()), "lr": 0.01}]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]], lr=1e-3)
    steps = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    parts = None
    for epoch in range(epochs):
        for rows in fl.data.batches(len(x), batch, seed=seed, epoch=epoch):
            optimizer.zero_grad()
            parts = loss.parts(model(x[rows]), {task: targets[task][rows] for task in tasks})
            loss.backward(parts, shared=model.shared)
            optimizer.step()
            schedule.step()
        print(f"{way}, epoch {epoch + 1} of {epochs}, last batch:\n{parts}\n", file=sys.stderr, flush=True)
    return model


@torch.inference_mode()
def judge(model: torch.nn.Module, test: tuple[Tensor, dict[str, Tensor]]) -> tuple[float, float]:
    """Accuracy of the class in percent, and R2 of the brightness (nan without that head)."""
    x, targets = test
    model.eval()
    blocks = [model(part) for part in x.split(1000)]
    labels = torch.cat([out["class"] for out in blocks]).argmax(1)
    accuracy = 100 * float((labels == targets["class"]).float().mean())
    if "brightness" not in blocks[0]:
        return accuracy, float("nan")
    seen, true = torch.cat([out["brightness"] for out in blocks]), targets["brightness"]
    return accuracy, 1 - float((seen - true).square().sum() / (true - true.mean()).square().sum())


def main() -> None:
    """Train all four and print what they reach."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20000, help="training pictures")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    train, test = load(chosen.rows)
    print(f"{len(train[0])} pictures to train, {len(test[0])} to test, {chosen.epochs} epochs, seed {chosen.seed}", flush=True)
    print(f"{'trained for':22}{'accuracy':>10}{'R2':>9}{'seconds':>9}", flush=True)
    for way in WAYS:
        began = time.perf_counter()
        accuracy, r2 = judge(fit(way, train, epochs=chosen.epochs, batch=chosen.batch, seed=chosen.seed), test)
        print(f"{way:22}{accuracy:9.2f}%{r2:9.4f}{time.perf_counter() - began:9.0f}", flush=True)


if __name__ == "__main__":
    main()
