"""Member-steps a second: populations against a plain torch loop, a DataLoader loop, skorch in a grid search, and Keras on torch.

    python benchmarks/population.py [--quick]

One process, contenders by turns: every round times each of them once, and the ratio is taken round by round. A member-step is one
mini-batch of 32 rows of one model: gather, forward, loss, backward, step. The members of a population have four optimizers, two rates
and seeds of their own. Each peer gets its best setting of those tried: one thread or two, torch's fused step or its own, one process or
two. `steps` is the training alone; `study` is whole trainings by `Population`, with validation and metrics after each epoch, the best
weights kept, all of it recorded, which no peer does here. Peak memory is that of a process of its own, less that of its imports.
"""

import itertools
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import torch
from common import save
from torch import nn

import fallline as fl
from fallline import models
from fallline.data import Data, Split
from fallline.population import Job, Population
from fallline.population.crew import Crew
from fallline.record import Writer
from fallline.training import Settings, aim

BATCH = 32
MEMBERS = (1, 8, 64, 256)
NETWORKS = ("64-32-10", "784-256-10", "cnn 1x8x8")
SPEC = {"64-32-10": "mlp:32", "784-256-10": "mlp:256", "cnn 1x8x8": "cnn"}
OPTIMIZERS = {
    "64-32-10": ("sgd:momentum=0.9", "adam", "rmsprop", "adagrad"),
    "784-256-10": ("rmsprop", "adam"),
    "cnn 1x8x8": ("sgd:momentum=0.9", "adam", "rmsprop", "adagrad"),
}
Contender = Callable[[], int]


def rows_of(network: str) -> Data:
    digits = fl.data.load("digits")
    if network == "64-32-10":
        return digits
    g = torch.Generator().manual_seed(0)
    shape = (784,) if network == "784-256-10" else (1, 8, 8)

    def split(rows: int) -> Split:
        return Split(torch.randn(rows, *shape, generator=g), torch.arange(rows) % 10)

    names = tuple(f"x{i}" for i in range(shape[0]))
    labels = tuple(map(str, range(10)))
    return Data("noise", split(2048), split(256), split(256), "multiclass", labels, labels, shape, names, "y")


def network_of(network: str, data: Data, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.build(SPEC[network], data.input_shape, 10)


# --- ours -----------------------------------------------------------------------------------------------------------------------------


def jobs_of(network: str, members: int, epochs: int = 1) -> list[Job]:
    cells = itertools.product(range(1000), OPTIMIZERS[network], (1e-3, 1e-2))
    settings = (Settings(optimizer=o, lr=lr, seed=seed, epochs=epochs, batch_size=BATCH) for seed, o, lr in cells)
    return [Job(f"m{i}", each) for i, each in enumerate(itertools.islice(settings, members))]


def population_of(network: str, data: Data) -> Population:
    return Population(lambda settings, goal: network_of(network, data, settings.seed), data)


def ours(network: str, data: Data, members: int, steps: int, threads: int) -> Contender:
    """Steps of the crews that a study would train, without its bookkeeping."""
    torch.set_num_threads(threads)
    goal = aim(data, Settings())
    crews = []
    for block in population_of(network, data).blocks(jobs_of(network, members)):
        made = [network_of(network, data, job.settings.seed) for job in block.jobs]
        crews.append(Crew(block.jobs, made, data, goal, Writer(None), squad=block.squad))
    orders = {seed: torch.randperm(len(data.train)) for seed in range(1000)}

    def call() -> int:
        torch.set_num_threads(threads)
        for crew in crews:
            with crew._threads(), ThreadPoolExecutor(crew.workers) as crew.pool:
                crew._all("open_epoch", orders)
                crew._all("run", 0, steps)
        return members * steps

    return call


def study(network: str, data: Data, members: int, threads: int) -> Contender:
    population = population_of(network, data)
    jobs = jobs_of(network, members, epochs=2)

    def call() -> int:
        torch.set_num_threads(threads)
        with Writer(None) as writer:
            return sum(result.outcome.steps for result in population.train(jobs, writer))

    return call


# --- peers ----------------------------------------------------------------------------------------------------------------------------


def plain(network: str, data: Data, steps: int, threads: int, fused: bool) -> Contender:
    model = network_of(network, data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    x, y = data.train.x, data.train.y

    def call() -> int:
        torch.set_num_threads(threads)
        order = torch.randperm(len(x))
        for rows in order[: steps * BATCH].split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        return steps

    return call


def loader(network: str, data: Data, threads: int) -> Contender:
    from torch.utils.data import DataLoader, TensorDataset

    model = network_of(network, data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    batches = DataLoader(TensorDataset(data.train.x, data.train.y), batch_size=BATCH, shuffle=True)

    def call() -> int:
        torch.set_num_threads(threads)
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return len(batches)

    return call


def skorch(network: str, data: Data, processes: int) -> Contender:
    import numpy as np
    from sklearn.model_selection import GridSearchCV
    from skorch import NeuralNetClassifier

    x, y = data.train.x.numpy(), data.train.y.numpy()
    rates = [1e-4, 3e-4, 1e-3, 3e-3]
    net = NeuralNetClassifier(
        network_of(network, data),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        max_epochs=1,
        batch_size=BATCH,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    one_split = [(np.arange(len(x)), np.arange(BATCH))]
    search = GridSearchCV(net, {"lr": rates}, cv=one_split, refit=False, n_jobs=processes, scoring="accuracy")

    def call() -> int:
        torch.set_num_threads(1)
        search.fit(x, y)
        return len(rates) * -(-len(x) // BATCH)

    return call


def keras(network: str, data: Data, threads: int) -> Contender:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras as k
    if network == "cnn 1x8x8":
        raise NotImplementedError
    hidden = int(SPEC[network].partition(":")[2])
    model = k.Sequential(
        [k.layers.Input(data.input_shape), k.layers.Flatten(), k.layers.Dense(hidden, activation="relu"), k.layers.Dense(10)]
    )
    model.compile(optimizer=k.optimizers.Adam(1e-3), loss=k.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = data.train.x.numpy(), data.train.y.numpy()

    def call() -> int:
        torch.set_num_threads(threads)
        model.fit(x, y, batch_size=BATCH, epochs=1, shuffle=True, verbose=0)
        return -(-len(x) // BATCH)

    return call


# --- measuring ------------------------------------------------------------------------------------------------------------------------


def contenders(network: str, data: Data) -> dict[str, Contender]:
    cores = os.cpu_count() or 1
    most = len(data.train) // BATCH
    each = {"64-32-10": 39, "784-256-10": 32, "cnn 1x8x8": 8}[network]
    made: dict[str, Contender] = {}
    for threads in (1, cores):
        for fused in (False, True):
            made[f"plain loop, threads {threads}{', fused' if fused else ''}"] = plain(network, data, most, threads, fused)
        made[f"DataLoader, threads {threads}"] = loader(network, data, threads)
        made[f"skorch in GridSearchCV, processes {threads}"] = skorch(network, data, threads)
        if network != "cnn 1x8x8":
            made[f"Keras, threads {threads}"] = keras(network, data, threads)
    for members in MEMBERS:
        steps = max(4, min(each, 4096 // members if network == "784-256-10" else each))
        made[f"steps, members {members}"] = ours(network, data, members, steps if members < 256 else max(4, steps // 4), cores)
    made["study, members 64"] = study(network, data, 64, cores) if network != "784-256-10" else study(network, data, 16, cores)
    return made


def measure(network: str, rounds: int) -> dict[str, Any]:
    data = rows_of(network)
    jobs = contenders(network, data)
    before = torch.get_num_threads()
    for call in jobs.values():
        call()
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, call in jobs.items():
            start = time.perf_counter()
            count = call()
            rates[name].append(count / (time.perf_counter() - start))
    torch.set_num_threads(before)
    kinds = ("plain loop", "DataLoader", "skorch", "Keras")
    best = {kind: max((n for n in rates if n.startswith(kind)), key=lambda n: median(rates[n]), default="") for kind in kinds}
    times = {
        name: {kind: round(median(a / b for a, b in zip(rates[name], rates[of], strict=True)), 2) for kind, of in best.items() if of}
        for name in rates
        if name.startswith(("steps", "study"))
    }
    return {
        "member-steps a second": {name: round(median(each)) for name, each in rates.items()},
        "best setting": {kind: of for kind, of in best.items() if of},
        "times as many as the best of": times,
    }


def peak(network: str, members: int) -> None:
    """For a process of its own: bytes at the peak beyond those after the imports and rows."""
    data = rows_of(network)
    network_of(network, data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours(network, data, members, 4, os.cpu_count() or 1)()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def peaks(network: str) -> dict[str, float]:
    out = {}
    for members in MEMBERS:
        done = subprocess.run([sys.executable, __file__, "--peak", network, str(members)], capture_output=True, text=True, check=True)
        out[f"members {members}"] = round(int(done.stdout.split()[-1]) / 1024, 1)
    return out


def main(quick: bool) -> None:
    result: dict[str, Any] = {}
    for network in NETWORKS:
        began = time.perf_counter()
        found = measure(network, 3 if quick else 7)
        if not quick:
            found["peak memory, MiB"] = peaks(network)
        result[network] = found
        print(network, f"({time.perf_counter() - began:.0f} s)", flush=True)
        for title, content in found.items():
            print(f"  {title}")
            for name, value in content.items():
                print(f"    {name:44} {value}")
    bars = {
        "64-32-10, 256 members, times a plain loop (bar 25)": result["64-32-10"]["times as many as the best of"]["steps, members 256"][
            "plain loop"
        ],
        "784-256-10, 64 members, times a plain loop (bar 2.8)": result["784-256-10"]["times as many as the best of"]["steps, members 64"][
            "plain loop"
        ],
        "784-256-10, 64 members, times Keras (bar 8)": result["784-256-10"]["times as many as the best of"]["steps, members 64"]["Keras"],
    }
    print(bars)
    if not quick:
        print(save("population", {"batch": BATCH, "bars": bars, **result}))


if __name__ == "__main__":
    if "--peak" in sys.argv:
        peak(sys.argv[-2], int(sys.argv[-1]))
    else:
        main("--quick" in sys.argv)
