"""A member of a block equals the run trained alone with its settings: weights, record, outcome."""

import dataclasses
import math

import pytest
import torch

from fallline.data import Split
from fallline.population.crew import Crew, Stopped
from fallline.population.member import Job
from fallline.population.train import Population
from fallline.record import Reader, Writer
from fallline.training import Settings, aim, train
from tests.training.toys import net, toy

RULES = (("sgd", 0.1), ("adam", 0.01), ("rmsprop", 0.003), ("adagrad", 0.05), ("adamw", 0.02), ("nadam", 0.01))


def members(count=6, **settings):
    """Settings of members that differ in optimizer, rate and seed."""
    base = {"epochs": 3, "batch_size": 32, **settings}
    return [Settings(**{"optimizer": RULES[i % 6][0], "lr": RULES[i % 6][1], "seed": i // 2, **base}) for i in range(count)]


def model_for(settings, goal, dtype=torch.float32, features=6):
    return net(goal.outputs, features=features, seed=settings.seed, dropout=settings.dropout).to(dtype)


def crew_of(jobs, data, writer, squad=2, dtype=torch.float32, **more):
    goal = aim(data, jobs[0].settings)
    models = [model_for(job.settings, goal, dtype) for job in jobs]
    return Crew(jobs, models, data, goal, writer, keep_models=True, squad=squad, **more)


def alone(job, data, writer, dtype=torch.float32):
    goal = aim(data, job.settings)
    model = model_for(job.settings, goal, dtype)
    return model, train(model, data, job.settings, writer=writer, progress=False, goal=goal, run=job.run, test=job.test)


def as_double(data):
    return dataclasses.replace(
        data, **{name: Split(getattr(data, name).x.double(), getattr(data, name).y) for name in ("train", "validation", "test")}
    )


def weights_apart(one, other):
    return max(float((a - b).abs().max()) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def assert_equal_to_alone(chosen, data, *, dtype=torch.float32, near=1e-5, squad=2, number=1e-4):
    jobs = [Job(f"m{i}", settings) for i, settings in enumerate(chosen)]
    with Writer(None) as together, Writer(None) as apart:
        results = crew_of(jobs, data, together, squad, dtype).train()
        assert [r.job.run for r in results] == [job.run for job in jobs]
        for result in results:
            model, outcome = alone(result.job, data, apart, dtype)
            assert weights_apart(result.model, model) < near or (outcome.status == "diverged" and outcome.best_epoch == 0)
            assert (result.outcome.status, result.outcome.epochs_done, result.outcome.steps, result.outcome.best_epoch) == (
                outcome.status,
                outcome.epochs_done,
                outcome.steps,
                outcome.best_epoch,
            )
            assert result.outcome.message == outcome.message
            assert result.outcome.metrics.keys() == outcome.metrics.keys()
            for split, found in outcome.metrics.items():
                assert result.outcome.metrics[split] == pytest.approx(found, abs=number, rel=number, nan_ok=True)
            one, other = Reader(together), Reader(apart)
            for split, keys in (("train", ("loss", "lr")), ("validation", tuple(next(iter(outcome.metrics.values()))))):
                for key in keys:
                    ours, theirs = one.series(key, split, result.job.run), other.series(key, split, result.job.run)
                    if key == "lr":  # a run alone records more points
                        last = {int(s): v for s, v in zip(theirs.step, theirs.value, strict=True)}
                        assert list(ours.value) == [last[int(s)] for s in ours.step]
                        continue
                    assert list(ours.step) == list(theirs.step)
                    assert list(ours.epoch) == list(theirs.epoch)
                    assert ours.value == pytest.approx(theirs.value, abs=number, rel=number, nan_ok=True)
    return results


SETTINGS = {
    "plain": {},
    "cosine": {"schedule": "cosine"},
    "warmup": {"schedule": "warmup+cosine:end=0.01"},
    "plateau": {"schedule": "plateau:patience=0,threshold=0.2", "epochs": 5},
    "patience": {"patience": 1, "epochs": 12, "min_change": 0.02},
    "keep last": {"keep": "last"},
    "clip": {"clip_norm": 0.05},
    "decay": {"weight_decay": 0.01},
    "penalties": {"l1": 1e-3, "l2": 1e-3},
    "dropout": {"dropout": 0.3},
    "classes": {"class_weight": "balanced"},
    "smoothed": {"loss": "cross_entropy:label_smoothing=0.1"},
    "full": {"batch_size": "full", "epochs": 8},
    "one short": {"batch_size": 31},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_member_equals_the_run_alone(name):
    settings = dict(SETTINGS[name])
    assert_equal_to_alone(members(4 if "l1" in settings else 6, **settings), toy(noise=1.0))


@pytest.mark.parametrize(
    ("task", "more"),
    [("regression", {}), ("binary", {}), ("regression", {"loss": "huber"}), ("binary", {"loss": "hinge", "signed_labels": True})],
)
def test_in_other_tasks_too(task, more):
    assert_equal_to_alone(members(4, **more), toy(task, noise=0.5), number=1e-3)


def test_in_double_precision_to_rounding():
    assert_equal_to_alone(
        members(6, epochs=4), as_double(toy(noise=1.0)), dtype=torch.float64, near=1e-12, number=1e-7
    )  # a run alone keeps its losses in single precision


def test_augmented_pictures():
    g = torch.Generator().manual_seed(0)
    plain = toy()
    data = dataclasses.replace(
        plain,
        **{
            n: Split(torch.randn(len(getattr(plain, n)), 1, 4, 4, generator=g), getattr(plain, n).y)
            for n in ("train", "validation", "test")
        },
        input_shape=(1, 4, 4),
    )
    chosen = members(3, augment="shift:1,flip", epochs=2)
    jobs = [Job(f"m{i}", settings) for i, settings in enumerate(chosen)]
    goal = aim(data, chosen[0])
    make = lambda s: torch.nn.Sequential(torch.nn.Flatten(), *net(3, features=16, seed=s.seed))  # noqa: E731
    with Writer(None) as writer:
        results = Crew(jobs, [make(s) for s in chosen], data, goal, writer, keep_models=True, squad=2).train()
        for result in results:
            model = make(result.job.settings)
            train(model, data, result.job.settings, writer=writer, progress=False, run="alone" + result.job.run)
            assert weights_apart(result.model, model) < 1e-5


def test_members_may_have_epochs_and_patience_of_their_own():
    chosen = [
        dataclasses.replace(s, epochs=e, patience=p)
        for s, e, p in zip(members(6), (1, 2, 3, 4, 5, 4), (None, 1, None, 2, 1, None), strict=True)
    ]
    results = assert_equal_to_alone(chosen, toy(noise=1.0), squad=3)
    assert [r.outcome.epochs_done for r in results if r.job.settings.patience is None] == [1, 3, 4]


def test_a_member_that_diverges_leaves_and_the_others_do_not_notice():
    healthy = members(4, epochs=3)
    lost = dataclasses.replace(healthy[0], optimizer="sgd", lr=1e30, seed=9)
    assert_equal_to_alone([*healthy, lost], toy(noise=1.0), squad=5)
    calm = dataclasses.replace(lost, lr=0.1)
    with Writer(None) as a, Writer(None) as b:
        beside_lost = crew_of([Job(f"m{i}", s) for i, s in enumerate([*healthy, lost])], toy(), a, squad=5).train()
        beside_calm = crew_of([Job(f"m{i}", s) for i, s in enumerate([*healthy, calm])], toy(), b, squad=5).train()
    assert beside_lost[-1].outcome.status == "diverged"
    assert "no epoch was finished" in beside_lost[-1].outcome.message.lower()
    for one, other in zip(beside_lost[:-1], beside_calm[:-1], strict=True):
        assert weights_apart(one.model, other.model) < 1e-6


def test_divergence_in_the_very_first_losses():
    huge = dataclasses.replace(toy("regression"), validation=Split(torch.full((9, 6), 3e38), torch.linspace(90, 110, 9)))
    with Writer(None) as writer:
        (one, two) = crew_of([Job(f"m{i}", s) for i, s in enumerate(members(2))], huge, writer).train()
    assert {one.outcome.status, two.outcome.status} == {"diverged"}
    assert "untrained model" in one.outcome.message


def test_neither_threads_nor_their_number_change_a_bit():
    jobs = [Job(f"m{i}", s) for i, s in enumerate(members(8))]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            with Writer(None) as writer:
                found.append(crew_of(jobs, toy(noise=1.0), writer, squad=2).train())
                assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert weights_apart(one.model, other.model) == 0
        assert one.outcome.metrics == other.outcome.metrics


def test_marks_are_the_test_metrics_of_that_epoch():
    data = toy(noise=1.0)
    base = members(2, keep="last")
    jobs = [Job("a", base[0], marks=(1, 2, 9)), Job("b", base[1], test=False)]
    with Writer(None) as writer, Writer(None) as other:
        a, b = crew_of(jobs, data, writer).train()
        assert sorted(a.marks) == [1, 2]
        assert b.marks == {}
        assert "test" not in b.outcome.metrics
        _, outcome = alone(Job("short", dataclasses.replace(base[0], epochs=2)), data, other)
    assert a.marks[2] == pytest.approx(outcome.metrics["test"], abs=1e-5)


def test_without_validation_rows_the_training_loss_chooses():
    data = toy(noise=1.0)
    assert_equal_to_alone(members(3), dataclasses.replace(data, validation=Split(data.validation.x[:0], data.validation.y[:0])))


def test_the_user_stops_and_nothing_is_half_done():
    with Writer(None) as writer, pytest.raises(Stopped):
        crew_of([Job(f"m{i}", s) for i, s in enumerate(members(2))], toy(), writer, stop=lambda: True).train()


def test_someone_else_sends_members_away():
    asked = []

    def judge(seen):
        asked.append([run for run, _, _ in seen])
        return ["m0"] if seen[0][1] == 2 else []

    with Writer(None) as writer:
        results = crew_of([Job(f"m{i}", s) for i, s in enumerate(members(4))], toy(), writer, squad=2, each_epoch=judge).train()
    assert [r.outcome.status for r in results] == ["stopped", "finished", "finished", "finished"]
    assert results[0].outcome.epochs_done == 2
    assert [sorted(a) for a in asked] == [["m0", "m1", "m2", "m3"]] * 2 + [["m1", "m2", "m3"]]


def test_seconds_are_shares_of_the_whole():
    import time

    jobs = [Job(f"m{i}", s) for i, s in enumerate(members(6))]
    with Writer(None) as writer:
        crew = crew_of(jobs, toy(), writer, squad=2)
        began = time.perf_counter()
        results = crew.train()
        whole = time.perf_counter() - began
    assert 0.3 * whole < sum(r.outcome.seconds for r in results) <= whole
    assert all(r.outcome.seconds > 0 for r in results)


def test_blocks_are_a_function_of_the_jobs_and_the_sizes():
    data = toy()
    jobs = [Job(f"m{i}", s) for i, s in enumerate(members(23))]
    first = Population(model_for, data)
    cut = [([j.run for j in b.jobs], b.squad) for b in first.blocks(jobs)]
    second = Population(model_for, data, sizes=dict(first.sizes))
    assert [([j.run for j in b.jobs], b.squad) for b in second.blocks(jobs)] == cut
    by_hand = {key: {"threads": 2}.get(key, 10) if not key.startswith("squad") else 4 for key in first.sizes}
    third = Population(model_for, data, sizes=by_hand).blocks(jobs)
    assert [len(b.jobs) for b in third] == [7, 8, 8]
    assert [b.squad for b in third] == [4, 4, 4]
    assert all(math.isfinite(r.outcome.metrics["validation"]["loss"]) for r in first.train(jobs[:3], Writer(None)))
