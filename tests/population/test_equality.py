"""A member of a population equals the run trained alone, whatever stands beside it (Show 1 of the issue on populations).

Alone is `training.train` with the same settings and seed. Numbers of threads are part of the arithmetic: both run on one.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fallline.data.dataset import Data, Split
from fallline.population import Job, Population
from fallline.study.models import fresh
from fallline.training import train
from fallline.training.goal import aim
from fallline.training.settings import Settings
from fallline.training.threads import fitting_threads

RULES = ("sgd", "momentum", "nesterov", "rmsprop", "adagrad", "adadelta", "adam", "adamw", "nadam", "adamax", "radam", "lion", "muon")
TEN = RULES[:10]
THREADS = torch.get_num_threads()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.inner, self.last = nn.Linear(64, 24), nn.LayerNorm(24), nn.Linear(24, 24), nn.Linear(24, 10)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        h = torch.relu(self.first(x.flatten(1)))
        return self.last(h + self.drop(torch.tanh(self.inner(self.norm(h)))))


class ResidualPictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.one = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.two, self.last = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6, 10)

    def forward(self, x):
        h = torch.relu(self.one(self.first(x)))
        h = F.dropout(torch.relu(h + self.two(self.second(h))), 0.1, self.training)
        return self.last(h.mean((2, 3)))


def norms():
    """Norms behind layers with biases, whose true gradients are 0: what rounding leaves of them becomes whole steps."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout2d(0.1),
        nn.Conv2d(6, 8, 3),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 17),
        nn.BatchNorm1d(17),
        nn.Tanh(),
        nn.Dropout(0.2),
        nn.Linear(17, 10),
    )


MODELS = {
    "mlp": "mlp:32",
    "dropout": "mlp:32",
    "cnn": "cnn",
    "norms": lambda input_shape, outputs: norms(),
    "residual": lambda input_shape, outputs: Residual(),
    "residual pictures": lambda input_shape, outputs: ResidualPictures(),
}


class Nowhere:
    """A record that keeps nothing."""

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made_up(dtype, rows):
    g = torch.Generator().manual_seed(0)
    splits = []
    for count in (rows, 40, 40):
        x = torch.randn(count, 1, 8, 8, generator=g, dtype=torch.float64)
        splits.append(Split(x.to(dtype), x.flatten(1)[:, :10].argmax(1)))
    names = tuple(map(str, range(10)))
    return Data("made up", *splits, "multiclass", names, tuple(range(10)), (1, 8, 8), (), "y")


def check(name, dtype, *, members, epochs, rules, limit, rows=310):
    data = made_up(dtype, rows)  # 310 rows in batches of 32: nine and a short one

    def make(settings, goal):
        return fresh(MODELS[name], data.input_shape, goal.outputs, seed=settings.seed, dropout=settings.dropout).to(dtype)

    rates, seeds = itertools.cycle([0.003, 0.01, 0.001]), itertools.cycle(range(5))
    jobs = [
        Job(
            f"member {i}",
            Settings(
                optimizer=rules[i % len(rules)],
                lr=next(rates),
                seed=next(seeds),
                epochs=epochs - (i % 7 == 6),  # some leave before the others
                schedule="cosine" if i % 3 == 2 else "constant",
                dropout=0.3 if name == "dropout" else 0.0,
                keep="last" if i % 2 else "best",
            ),
        )
        for i in range(members)
    ]
    results = list(Population(make, data).train(jobs, Nowhere(), keep_models=True))
    by_run = {result.job.run: result for result in results}
    assert len(by_run) == members
    assert not any(result.alone for result in results)
    assert max(result.block for result in results) > 1
    for i in range(len(rules)):
        job = jobs[i + len(rules) * (i % (members // len(rules)))]
        goal = aim(data, job.settings, None)
        model = make(job.settings, goal)
        with fitting_threads(model, 32):  # as `fit` does
            outcome = train(model, data, job.settings, writer=Nowhere(), progress=False, goal=goal)
        result = by_run[job.run]
        assert (result.outcome.status, result.outcome.steps) == (outcome.status, outcome.steps) == ("finished", 10 * job.settings.epochs)
        assert result.outcome.best_epoch == outcome.best_epoch
        for key, value in model.state_dict().items():
            apart = float((value.double() - result.model.state_dict()[key].double()).abs().max())
            assert apart <= limit, f"{job.settings.optimizer} at {job.settings.lr}: '{key}' is {apart:.2g} apart"


EXACT = ("cnn", "norms", "residual pictures")
"""Run in turn: not a bit differs. The others are products of many members at once, equal to rounding."""


@pytest.mark.parametrize("name", MODELS)
def test_a_few_members_for_a_few_steps(name):
    few = ("rmsprop", "adam", "momentum")
    if name in EXACT:
        check(name, torch.float32, members=4, epochs=2, rules=few, limit=0.0)
    else:
        check(name, torch.float64, members=4, epochs=2, rules=few, limit=1e-10)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_with_as_many_threads_as_torch_takes(name):
    torch.set_num_threads(THREADS)
    check(name, torch.float32, members=4, epochs=2, rules=("rmsprop", "adam", "momentum"), limit=0.0)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.GRU(8, 5, batch_first=True), nn.Linear(5, 10)

    def forward(self, x):
        return self.last(self.inner(x.view(len(x), 8, 8))[0][:, -1])


def test_what_cannot_be_stacked_is_trained_alone_and_says_why():
    data = made_up(torch.float32, 64)

    def make(settings, goal):
        return fresh(lambda input_shape, outputs: Recurrent(), data.input_shape, goal.outputs, seed=settings.seed)

    jobs = [Job(f"member {seed}", Settings(lr=0.01, seed=seed, epochs=1)) for seed in range(2)]
    state = torch.get_rng_state()
    for result in Population(make, data).train(jobs, Nowhere(), keep_models=True):
        assert result.block == 1
        assert "recurrent" in result.alone
        model = make(result.job.settings, aim(data, result.job.settings, None))
        train(model, data, result.job.settings, writer=Nowhere(), progress=False)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), result.model.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_members_of_64_equal_the_run_alone_after_200_steps(name, dtype, limit):
    exact = name in EXACT
    check(name, dtype, members=64, epochs=20, rules=RULES if exact else TEN, limit=0.0 if exact else limit)
