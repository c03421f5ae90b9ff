"""What members hold besides weights; rules and penalties for which only the very bits of the run alone will do."""

import dataclasses

import pytest
import torch
from torch import nn

from fallline.losses import CrossEntropy
from fallline.population import Job, Population
from fallline.population.attributes import differing
from fallline.population.crew import Crew
from fallline.population.noise import Noise, Unstackable
from fallline.population.passes import make_pass
from fallline.population.stack import Stack
from fallline.record import Writer
from fallline.study.models import fresh
from fallline.training import Settings, aim, train
from tests.training.toys import toy


class Holds(nn.Module):
    def __init__(self, held, forward=lambda self, x: self.last(x)):
        super().__init__()
        self.last, self.norm, self.held, self.run = nn.Linear(6, 3), nn.BatchNorm1d(6), held, forward
        self.own = [self.last, self.last.weight]  # its own once more: alike in all

    def forward(self, x):
        return self.run(self, self.norm(x))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(3), torch.ones(3)),
        ([1, 2], [2, 1]),
        ({"a": 1.0}, {"a": 2.0}),
        (nn.ReLU(), nn.Tanh()),
        ([nn.Linear(2, 2)], [nn.Linear(2, 2)]),
        (lambda x: x + 1, lambda x: x + 2),
    ],
)
def test_members_that_hold_something_else_are_refused(one, other):
    with pytest.raises(Unstackable, match="its members hold different 'held'"):
        Stack([Holds(one), Holds(other)])


@pytest.mark.parametrize("make", [lambda: torch.arange(3), lambda: {"a": [float("nan"), None]}, lambda: lambda x: x + 1, nn.GELU])
def test_members_that_hold_the_same_are_alike(make):
    run = lambda self, x: self.last(x)  # noqa: E731
    assert differing(Holds(make(), run), Holds(make(), run)) is None


def counted(self, x):
    self.held.append(1)
    return self.last(x)


def moved(self, x):
    self.held.mul_(0.9).add_(x.detach().mean(0))
    return self.last(x - self.held)


@pytest.mark.parametrize(("held", "run"), [([], counted), (torch.zeros(6), moved)])
def test_what_is_changed_in_place_is_seen(held, run):
    stack = Stack([Holds(held, run), Holds(held, run)])
    with pytest.raises(Unstackable, match=r"keeps something of its own from call to call \('held'\)"):
        make_pass(stack, torch.randn(8, 6), Noise([0, 1]), torch.arange(8) % 3, CrossEntropy())


def normed(input_shape, outputs):
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))


def odd(input_shape, outputs):
    return nn.Sequential(nn.Linear(6, 17), nn.Tanh(), nn.Dropout(0.2), nn.Linear(17, 9), nn.ReLU(), nn.Linear(9, outputs))


@pytest.mark.parametrize(
    ("model", "more"),
    [
        (normed, {"optimizer": "adam", "clip_norm": 0.5}),
        (normed, {"optimizer": "adamw", "engine": "torch", "weight_decay": 0.01}),
        (odd, {"optimizer": "soap"}),
    ],
    ids=["clips behind a norm", "torch's engine behind a norm", "soap"],
)
def test_not_one_bit_differs(model, more):
    data = toy(noise=1.0)
    jobs = [Job(f"m{i}", Settings(lr=0.01, seed=i, epochs=3, batch_size=32, keep="last", **more)) for i in range(3)]
    make = lambda s: fresh(model, data.input_shape, 3, seed=s.seed)  # noqa: E731
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Writer(None) as writer:
            results = Crew(jobs, [make(j.settings) for j in jobs], data, aim(data, jobs[0].settings), writer, keep_models=True).train()
            for result in results:
                alone = make(result.job.settings)
                train(alone, data, result.job.settings, writer=writer, progress=False, run=f"alone {result.job.run}")
                assert all(torch.equal(a, b) for a, b in zip(alone.state_dict().values(), result.model.state_dict().values(), strict=True))
                assert result.model.training
    finally:
        torch.set_num_threads(before)


def test_a_member_that_is_sent_away_stops_at_the_same_step_alone():
    data = toy(noise=1.0)
    jobs = [Job(f"m{i}", Settings(lr=0.1, seed=i, epochs=4, keep="last", batch_size=32)) for i in range(2)]
    found = {}
    for together in (True, False):
        people = Population(lambda s, g: fresh(normed, data.input_shape, g.outputs, seed=s.seed), data, together=together)
        sent = lambda seen: [run for run, epoch, _ in seen if run == "m0" and epoch == 2]  # noqa: E731
        with Writer(None) as writer:
            results = [r for b in people.blocks(jobs) for r in people.run(b, writer, each_epoch=sent)]
        found[together] = [dataclasses.replace(r.outcome, seconds=0.0) for r in sorted(results, key=lambda r: r.job.run)]
    for one, other in zip(found[True], found[False], strict=True):
        assert (one.status, one.steps, one.message) == (other.status, other.steps, other.message)
        assert one.metrics["validation"] == pytest.approx(other.metrics["validation"], abs=1e-6)
    assert found[True][0].status == "stopped"
