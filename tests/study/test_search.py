"""A search: where it looks, what it asks, which trials stop, what is kept, and that a killed one goes on as if it had not been."""

import dataclasses
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fallline import optim
from fallline._core.errors import FalllineError
from fallline.data import load
from fallline.population import Job, Population
from fallline.record import Reader, Writer
from fallline.study.expected_best import expected_best
from fallline.study.finalists import best_trials, flattered, headline, ranked
from fallline.study.found import best_so_far, expected_curve, run_search
from fallline.study.importance import explained, groups, importances
from fallline.study.models import fresh
from fallline.study.sampling import goes_on, judged_at, pruner_of, quiet_optuna, rungs, sampler_of, suggester
from fallline.study.search import SearchPlan, Trial
from fallline.study.space import AVERAGES, FACTORS, Range, make_space, own_factors, with_options
from fallline.study.trials_db import FILE, TrialsFile, held
from fallline.training import Settings

optuna = pytest.importorskip("optuna")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def iris():
    return load("iris")


def plan_of(space=None, trials=8, **changes) -> SearchPlan:
    given = {"optimizer": ["adam", "momentum"], "batch_size": [16], "schedule": ["constant"], "dropout": None, "model": ["linear"]}
    fields = {
        "space": make_space({**given, **(space or {})}),
        "trials": trials,
        "batch": 4,
        "sampler": "tpe",
        "pruner": "halving",
        "seed": 0,
        "metric": "accuracy",
        "best": 2,
        "seeds": (0, 1),
        "settings": Settings(epochs=4, lr=1.0),
    }
    return SearchPlan(**{**fields, **changes})


def search(data, plan, folder=None, **more):
    writer = Writer(folder, kind="search")
    writer.describe(config=plan.to_json())
    return run_search({name: name for name in plan.space.models}, data, plan, writer, quiet=True, **more)


def told(found) -> list[tuple]:
    """What must repeat: everything of a trial but its time."""
    return [(t.number, t.params, t.settings, t.status, t.value, t.loss, t.reports, t.epochs, t.by) for t in found.trials]


def ranks(found) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found.table]


# --- the space ------------------------------------------------------------------------------------------------------------------------


def test_an_optimizer_is_searched_in_its_own_range_with_its_own_options() -> None:
    space = make_space({"optimizer": ["adam", "momentum", "sgd", "rmsprop"]})
    seen: dict[str, set] = {}
    for seed in range(60):
        draw = np.random.default_rng(seed)
        point = space.draw(lambda name, values, draw=draw: _drawn(values, draw))
        name = point.factors["optimizer"]
        low, high = optim.parse(name)[0].lr_range
        assert low <= point.settings["lr"] <= high
        seen.setdefault(name, set()).update(set(point.factors) & {*AVERAGES, "eps"})
        optim.build(point.settings["optimizer"], [("w", torch.nn.Parameter(torch.zeros(2)))], lr=point.settings["lr"])
        assert set(point.factors) <= set(FACTORS)
    assert seen == {"adam": {"beta1", "beta2", "eps"}, "momentum": {"momentum"}, "sgd": set(), "rmsprop": {"alpha", "eps"}}


def _drawn(values, draw):
    if isinstance(values, Range):
        if values.step:
            return float(draw.choice(values.levels(2)))
        share = draw.random()
        return values.low * (values.high / values.low) ** share if values.log else values.low + share * (values.high - values.low)
    return values[draw.integers(len(values))]


def test_the_drawn_options_reach_the_optimizer() -> None:
    space = make_space({"optimizer": ["adam"], "lr": [0.01], "beta1": [0.8], "beta2": [0.95], "eps": [1e-4], "weight_decay": [0.001]})
    point = space.draw(lambda name, values: values.low if isinstance(values, Range) else values[0])
    made = optim.build(point.settings["optimizer"], [("w", torch.nn.Parameter(torch.zeros(2)))], lr=point.settings["lr"])
    group = made.param_groups[0]
    assert (tuple(group["betas"]), group["eps"], group["lr"]) == ((0.8, 0.95), 1e-4, 0.01)


def test_options_that_the_spec_sets_are_not_searched() -> None:
    assert own_factors("adam:betas=0.8/0.9") == ("eps",)
    assert own_factors("momentum:momentum=0.5") == ()
    assert with_options("adam:amsgrad=true+ema:decay=0.9", {"eps": 1e-6}) == "adam:amsgrad=true,eps=1e-06+ema:decay=0.9"


def test_a_range_of_momenta_is_drawn_by_one_minus_it() -> None:
    space = make_space({"optimizer": ["momentum"], "momentum": (0.8, 0.99)})
    assert space.values["momentum"] == Range(0.01, 0.2, log=True)
    draws = [space.draw(lambda n, v, s=s: _drawn(v, np.random.default_rng(s))).factors["momentum"] for s in range(50)]
    assert min(draws) >= 0.8
    assert max(draws) <= 0.99


def test_the_grid_visits_every_place_once() -> None:
    space = make_space(
        {"optimizer": ["momentum", "sgd"], "lr": [0.1, 0.01, 0.001], "momentum": [0.8, 0.9], "batch_size": [8, 16]}, only=True
    )
    points = []
    for place in space.grid():
        answers = dict(place)
        points.append(space.draw(lambda name, values, answers=answers: answers.pop(name)))
        assert not answers
    keys = {json.dumps(p.factors, sort_keys=True) for p in points}
    assert len(keys) == len(points) == 2 * 3 * (2 + 1)  # momentum has two of its own, sgd none


@pytest.mark.parametrize("ends", [Range(0.0012345, 0.098765, log=True), Range(0.0012345, 0.098765), Range(0.98765, 0.987651)])
def test_a_grid_stays_within_its_range(ends) -> None:
    levels = ends.levels(3)
    assert (levels[0], levels[-1]) == (ends.low, ends.high)
    assert ends.low <= levels[1] <= ends.high


@pytest.mark.parametrize("kind", [True, False])
@pytest.mark.parametrize(("value", "said"), [(0.055, False), (0.0864, False), (0.0995, True)])
def test_the_edge_is_told_on_the_scale_of_the_range(kind, value, said) -> None:
    from fallline.study.found import _at_edges

    plan = plan_of({"optimizer": ["adam"], "lr": optuna.distributions.FloatDistribution(0.01, 0.1, log=kind)})
    assert any("high end" in note for note in _at_edges(plan, {"factors": {"lr": value, "optimizer": "adam"}})) == said


def test_choices_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(FalllineError, match="names or numbers"):
        make_space({"schedule": [["a"]]})


def test_a_space_survives_json() -> None:
    space = make_space({"lr": (1e-4, 0.1), "batch_size": [16, "full"], "dropout": (0.0, 0.5)})
    assert type(space).from_json(json.loads(json.dumps(space.to_json()))) == space
    plan = plan_of()
    assert SearchPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_distributions_of_optuna_are_taken() -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space = make_space(
        {
            "lr": FloatDistribution(1e-3, 1.0, log=True),
            "optimizer": CategoricalDistribution(["sgd", "adam"]),
            "batch_size": IntDistribution(16, 64, step=16),
            "dropout": FloatDistribution(0.0, 0.4, step=0.1),
        }
    )
    assert space.values["lr"] == Range(1e-3, 1.0, log=True)
    assert space.values["optimizer"] == ("sgd", "adam")
    assert space.values["batch_size"] == (16, 32, 48, 64)
    assert space.values["dropout"] == Range(0.0, 0.4, False, 0.1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr": (0.1, 0.001)}, "goes from low to high"),
        ({"lr": (-0.1, 0.1)}, "lr > 0"),
        ({"lr": (0.0, 0.1)}, "lr > 0"),
        ({"weight_decay": (0.0, 0.1)}, "begins above 0"),
        ({"dropout": (0.0, 1.0)}, "dropout < 1"),
        ({"optimizer": []}, "at least one choice of optimizer"),
        ({"optimizer": ["adm"]}, "did you mean 'adam'"),
        ({"optimizer": ["adam:lr=0.1"]}, "the learning rate is searched"),
        ({"optimiser": ["adam"]}, "did you mean 'optimizer'"),
        ({"schedule": ["cosin"]}, "cosine"),
        ({"batch_size": [0]}, "batch_size is a whole number"),
        ({"model": None}, "model has a value"),
    ],
)
def test_a_space_that_cannot_be_is_refused(given, words) -> None:
    with pytest.raises(FalllineError, match=words):
        make_space(given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trials": 0}, "trials >= 1"),
        ({"batch": 0}, "batch >= 1"),
        ({"seeds": ()}, "each seed is named once"),
        ({"sampler": "tep"}, "did you mean 'tpe'"),
        ({"pruner": "half"}, "did you mean 'halving'"),
        ({"sampler": "grid", "trials": 3}, "narrow the space"),
        ({"metric": "loss", "space": make_space({"loss": ["cross_entropy", "focal"]})}, "one loss"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes, words) -> None:
    with pytest.raises(FalllineError, match=words):
        plan_of(**changes) if "space" not in changes else dataclasses.replace(plan_of(), **changes)


# --- what stops early -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lower", [True, False])
def test_a_third_goes_on_whatever_the_values(lower) -> None:
    draw = np.random.default_rng(0)
    for n in range(1, 30):
        values = draw.permutation(n).astype(float).tolist()
        held = [(v if lower else -v, math.inf, i) for i, v in enumerate(values)]
        stay = [v for v, mine in zip(values, held, strict=True) if goes_on(mine, held)]
        assert sorted(stay, reverse=not lower) == sorted(values, reverse=not lower)[: math.ceil(n / 3)]
    alike = [(1.0, 0.5 - i % 5, i) for i in range(9)]  # equal values: by their loss, then by their number
    assert [i for i, mine in enumerate(alike) if goes_on(mine, alike)] == [3, 4, 8]
    assert not goes_on((math.nan, 0.0, 0), [(math.nan, 0.0, 0), (1.0, 0.0, 1)])


def test_trials_of_equal_values_do_not_all_go_on(iris) -> None:
    """Accuracy on 23 rows ties; how many go on is said."""
    found = search(iris, plan_of({"optimizer": ["sgd"], "lr": (1e-8, 1e-6)}, trials=12, batch=12, pruner="halving"))
    first, second = rungs(4)
    judged = [t for t in found.trials if first in t.reports]
    assert len({t.reports[first] for t in judged}) < 4  # or this shows nothing
    on = [t for t in judged if t.epochs > first]
    assert (len(judged), len(on), found.counts["finished"]) == (12, 4, 2)
    best = sorted(judged, key=lambda t: (-t.reports[first], t.losses[first], t.number))[:4]
    assert {t.number for t in best} == {t.number for t in on}
    assert any(f"4 of 12 after epoch {first}, 2 of 4 after epoch {second};" in note for note in found.notes)
    whole = search(iris, plan_of(trials=2, pruner="none"))
    assert not any("goes on" in note for note in whole.notes)


def test_halving_judges_all_that_reported_and_no_order_within_a_block() -> None:
    values = [0.5, 0.9, 0.1, 0.7, 0.3, 0.8]

    def left(order: list[int]) -> set[float]:
        with quiet_optuna():
            study = optuna.create_study(direction="maximize", pruner=pruner_of("halving", 10))
        trials = [study.ask() for _ in values]
        for i in order:
            trials[i].report(values[i], rungs(10)[0])
        return {values[i] for i in order if not trials[i].should_prune()}

    assert left(list(range(6))) == left([5, 4, 3, 2, 1, 0]) == {0.9, 0.8}


def test_only_epochs_of_a_rung_are_judged() -> None:
    with quiet_optuna():
        study = optuna.create_study(direction="maximize", pruner=pruner_of("halving", 10))
    good, bad = study.ask(), study.ask()
    for epoch in range(1, 11):
        good.report(1.0, epoch)
        bad.report(0.0, epoch)
        assert bad.should_prune() == (epoch in rungs(10))
        assert not good.should_prune()
    assert judged_at("halving", 10) == (2, 5, 10)
    assert judged_at("median", 3) == (1, 2, 3)


def test_a_member_that_is_told_to_leave_leaves_and_the_others_train_as_without_it(iris) -> None:
    settings = [Settings(optimizer="sgd", lr=lr, batch_size=16, epochs=3) for lr in (0.1, 0.01, 0.001)]

    def make(s, g):
        return fresh("mlp:8", iris.input_shape, g.outputs, seed=s.seed)

    for together in (True, False):
        seen: list[tuple[str, int]] = []

        def judge(members, seen=seen):
            seen += [(run, epoch) for run, epoch, found in members if found["accuracy"] >= 0]
            return {"b"} if ("b", 1) in [(run, epoch) for run, epoch, _ in members] else ()

        def train(judge, together=together):
            population = Population(make, iris, together=together)
            jobs = [Job(name, s, test=False) for name, s in zip("abc", settings, strict=True)]
            out = []
            for block in population.blocks(jobs):
                out += population.run(block, Writer(None), each_epoch=judge) or []
            return {r.job.run: r.outcome for r in out}

        whole, cut = train(lambda members: ()), train(judge)
        assert cut["b"].status == "stopped"
        assert cut["b"].epochs_done == 1
        assert "test" not in cut["b"].metrics
        for name in "ac":
            assert cut[name].status == "finished"
            assert cut[name].metrics["validation"]["loss"] == pytest.approx(whole[name].metrics["validation"]["loss"], abs=1e-6)
        assert sorted(seen) == [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("c", 1), ("c", 2), ("c", 3)]


# --- a whole search -------------------------------------------------------------------------------------------------------------------


def test_the_same_seed_repeats_the_search_bit_for_bit_and_another_does_not(iris) -> None:
    first, second, other = search(iris, plan_of()), search(iris, plan_of()), search(iris, plan_of(seed=1))
    assert told(first) == told(second)
    assert ranks(first) == ranks(second)
    assert [t.params for t in first.trials] != [t.params for t in other.trials]
    assert len(first.trials) == 8
    assert [t.by for t in first.trials] == ["random"] * 8  # fewer than ten are drawn before TPE takes over


def test_stopped_trials_stop_at_a_rung_and_finished_ones_are_the_best_there(iris) -> None:
    found = search(iris, plan_of(trials=12, batch=12))
    first, *_ = rungs(4)
    stopped = [t for t in found.trials if t.status == "stopped"]
    assert stopped
    assert {t.epochs for t in stopped} <= set(rungs(4))
    assert all(t.epochs == 4 for t in found.trials if t.status == "finished")
    at_first = [t.reports[first] for t in found.trials if first in t.reports]
    left = [t.reports[first] for t in stopped if t.epochs == first]
    stayed = [t.reports[first] for t in found.trials if t.epochs > first]
    assert found.counts["epochs"] == sum(t.epochs for t in found.trials) < found.counts["epochs_in_full"] == 48
    assert len(at_first) == 12 - found.counts["diverged"]
    assert np.mean(stayed) > np.mean(left)


def test_trials_that_diverge_are_told_and_never_chosen(iris) -> None:
    plan = plan_of({"optimizer": ["sgd"], "lr": [0.05, 1e20], "weight_decay": None}, trials=6, pruner="none", sampler="random")
    found = search(iris, plan)
    lost = [t for t in found.trials if t.settings["lr"] == 1e20]
    assert lost
    assert all(t.status == "diverged" and t.value is None for t in lost)
    assert found.counts["diverged"] == len(lost)
    assert all(row["settings"]["lr"] == 0.05 for row in found.table)
    assert len(found.table) == 1  # the same settings, tried several times, are one finalist


def test_a_search_in_which_all_diverge_recommends_nothing(iris) -> None:
    found = search(iris, plan_of({"optimizer": ["sgd"], "lr": [1e20], "weight_decay": None}, trials=3, pruner="none"))
    assert found.table == []
    assert found.headline == "no trial was finished, so there is nothing to recommend"


def test_finalists_train_with_fresh_seeds_and_their_test_is_looked_at_once(iris) -> None:
    plan = plan_of(trials=6, pruner="none", best=2, seeds=(0, 1, 2))
    writer = Writer(None, kind="search")
    found = run_search({"linear": "linear"}, iris, plan, writer, quiet=True)
    reader = Reader(writer)
    for t in found.trials:
        assert reader.splits("loss", t.run) == ["train", "validation"]
    assert [len(row["values"]) for row in found.table] == [3, 3]
    for row in found.table:
        for seed in plan.seeds:
            assert "test" in reader.splits("loss", f"trial={row['trial']}/seed={seed}")
    assert plan.search_seed not in plan.seeds
    chosen = {row["trial"] for row in found.table}
    assert chosen == {t.number for t in best_trials(found.trials, 2, lower=False)}
    means = [row["mean"] for row in found.table]
    assert means == sorted(means, reverse=True)
    for row in found.table:
        assert row["mean"] == pytest.approx(np.mean(row["values"]))


def test_the_grid_is_searched_whole(iris) -> None:
    plan = plan_of({"optimizer": ["sgd"], "lr": [0.1, 0.01], "batch_size": [16, 32], "weight_decay": None}, trials=9, sampler="grid")
    found = search(iris, plan)
    assert plan.asked == len(found.trials) == 4
    assert {(t.settings["lr"], t.settings["batch_size"]) for t in found.trials} == {(a, b) for a in (0.1, 0.01) for b in (16, 32)}


def test_models_and_losses_are_chosen_too() -> None:
    data = load("iris")
    plan = plan_of({"model": ["linear", "mlp:4"], "loss": ["cross_entropy", "focal"]}, trials=8, pruner="none")
    found = search(data, plan)
    assert {t.model for t in found.trials} == {"linear", "mlp:4"}
    assert {t.settings["loss"] for t in found.trials} == {"cross_entropy", "focal"}


def test_tpe_finds_what_random_search_misses() -> None:
    """The sampler as it is asked here, in batches, on a bowl of four parameters: clearly better than random at the same budget."""

    def bowl(sampler: str, seed: int) -> float:
        with quiet_optuna():
            study = optuna.create_study(direction="minimize")
            for first in range(0, 96, 16):
                study.sampler = sampler_of(sampler, seed, first)
                asked = []
                for _ in range(16):
                    trial = study.ask()
                    suggest = suggester(trial)
                    xs = [suggest(f"x{i}", Range(1e-4, 1.0, log=True)) for i in range(4)]
                    asked.append((trial, sum((math.log10(x) + 1 + i / 2) ** 2 for i, x in enumerate(xs))))
                for trial, value in asked:
                    study.tell(trial, value)
            return study.best_value

    tpe, drawn = ([bowl(kind, seed) for seed in range(6)] for kind in ("tpe", "random"))
    assert np.median(tpe) < 0.5 * np.median(drawn)


# --- what is kept ---------------------------------------------------------------------------------------------------------------------


def test_optuna_reads_the_trials_with_their_states_and_settings(iris, tmp_path: Path) -> None:
    found = search(iris, plan_of(trials=12, batch=6), tmp_path)
    with quiet_optuna():
        study = optuna.load_study(study_name="fallline", storage=f"sqlite:///{tmp_path / FILE}")
    state = {"finished": "COMPLETE", "stopped": "PRUNED", "diverged": "COMPLETE"}
    assert [(t.number, t.params, t.state.name) for t in study.trials] == [(t.number, t.params, state[t.status]) for t in found.trials]
    assert [t.user_attrs["settings"]["lr"] for t in study.trials] == [t.settings["lr"] for t in found.trials]
    best = max(t.value for t in found.trials if t.status == "finished")
    assert study.best_value == best
    for mine, theirs in zip(found.trials, study.trials, strict=True):
        assert theirs.intermediate_values == mine.reports
        if mine.status == "finished":
            assert theirs.value == mine.value


def test_a_search_goes_on_where_the_user_stopped_it(iris, tmp_path: Path) -> None:
    plan = plan_of(trials=15, batch=5)
    asked = 0

    def count() -> bool:
        nonlocal asked
        asked += 1
        return False

    whole = search(iris, plan, tmp_path / "whole", stop=count)
    assert {t.by for t in whole.trials[10:]} == {"tpe"}
    for share in (0.05, 0.6, 0.97):  # in the first batch, where TPE asks, among the finalists
        folder = tmp_path / str(share)
        left = int(share * asked)

        def stop() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        part = search(iris, plan, folder, stop=stop)
        assert part.status == "interrupted"
        again = run_search({"linear": "linear"}, iris, SearchPlan.from_json(Writer(folder).info["config"]), Writer(folder), quiet=True)
        assert again.status == "finished"
        assert told(again) == told(whole)
        assert ranks(again) == ranks(whole)


def test_a_search_lost_between_two_trials_of_the_file_goes_on(iris, tmp_path: Path, monkeypatch) -> None:
    plan = plan_of(trials=15, batch=5)
    whole = search(iris, plan, tmp_path / "whole")
    write = TrialsFile._write
    for place, least in enumerate((3, 12)):
        folder = tmp_path / str(place)

        def lost(self, trials, least=least) -> None:
            breaks = trials[0].number <= least <= trials[-1].number
            write(self, [trial for trial in trials if not breaks or trial.number < least])  # a later batch must not be written
            if breaks:
                raise FalllineError("lost")

        with monkeypatch.context() as patch:
            patch.setattr(TrialsFile, "_write", lost)
            with pytest.raises(FalllineError, match="lost"):
                search(iris, plan, folder)
        again = run_search({"linear": "linear"}, iris, SearchPlan.from_json(Writer(folder).info["config"]), Writer(folder), quiet=True)
        assert told(again) == told(whole)
        assert ranks(again) == ranks(whole)


def test_the_median_pruner_leaves_the_startup_trials_alone(iris) -> None:
    found = search(iris, plan_of(trials=30, batch=10, pruner="median", sampler="random"))
    assert {t.status for t in found.trials[:10]} <= {"finished", "diverged"}
    assert any(t.status == "stopped" for t in found.trials[10:])
    assert all(list(t.reports) == list(range(1, t.epochs + 1)) for t in found.trials if t.status != "diverged")


def test_a_finished_search_adds_trials_only_where_more_are_asked(iris, tmp_path: Path) -> None:
    plan = plan_of(trials=6, batch=4)
    first = search(iris, plan, tmp_path)
    trained = []
    same = run_search({"linear": "linear"}, iris, plan, Writer(tmp_path), quiet=True, stop=lambda: bool(trained.append(1)))
    assert told(same) == told(first)
    assert ranks(same) == ranks(first)
    assert trained == []
    more = run_search({"linear": "linear"}, iris, dataclasses.replace(plan, trials=10), Writer(tmp_path), quiet=True)
    assert len(more.trials) == 10
    assert told(more)[:6] == told(first)
    with quiet_optuna():
        kept = optuna.load_study(study_name="fallline", storage=f"sqlite:///{tmp_path / FILE}").trials
    assert [t.number for t in kept] == list(range(10))
    straight = search(iris, plan_of(trials=10, batch=4))
    assert [t.params for t in more.trials[:8]] == [t.params for t in straight.trials[:8]]


def test_a_damaged_or_held_or_foreign_file_is_named(iris, tmp_path: Path) -> None:
    plan = plan_of(trials=2, pruner="none")
    search(iris, plan, tmp_path)
    with held(tmp_path), pytest.raises(FalllineError, match="held by another process"), held(tmp_path):
        pass
    with quiet_optuna():
        study = optuna.load_study(study_name="fallline", storage=f"sqlite:///{tmp_path / FILE}")
    study.ask()
    file = TrialsFile(tmp_path, "maximize")
    with pytest.raises(FalllineError, match="another program"):
        file.trials()
    file.close()
    (tmp_path / FILE).write_bytes(b"no database at all, but long enough to be read as one" * 40)
    with pytest.raises(FalllineError, match=r"trials\.db' cannot be read or written, or are damaged"):
        TrialsFile(tmp_path, "maximize")


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from fallline.study.trials_db import held
with held(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(FalllineError, match="held by another process"), held(tmp_path):
        pass
    child.kill()
    child.wait()
    child.stdout.close()
    with held(tmp_path):
        pass


@pytest.mark.slow
def test_a_search_killed_twice_ends_as_one_left_alone(tmp_path: Path) -> None:
    code = """
import sys, torch
torch.set_num_threads(1)
import fallline as fl
place, again = sys.argv[1], sys.argv[2] == "resume"
space = {"optimizer": ["adam", "momentum", "sgd"], "batch_size": [32, 64], "dropout": None}
if again:
    fl.tune(resume=place, quiet=True)
else:
    fl.tune("mlp:16", "digits", 36, space, epochs=5, batch=12, best=2, seeds=2, out=place, quiet=True)
print("done", flush=True)
"""

    def start(place: Path, how: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", code, str(place), how], stdout=subprocess.PIPE, text=True, env={**os.environ})

    whole = start(tmp_path / "whole", "new")
    assert whole.communicate(timeout=300)[0].strip() == "done"
    killed = tmp_path / "killed"
    for how, least in (("new", 3), ("resume", 16)):
        child = start(killed, how)
        _wait_for(killed, least, child)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert child.stdout is not None
        child.stdout.close()
        assert 0 < _outcomes(killed) < 36 + 4
    last = start(killed, "resume")
    assert last.communicate(timeout=300)[0].strip() == "done"
    one, two = (Reader(place).info["result"] for place in (tmp_path / "whole", killed))
    timed = ("seconds",)
    assert [{k: v for k, v in t.items() if k not in timed} for t in one["trials"]] == [
        {k: v for k, v in t.items() if k not in timed} for t in two["trials"]
    ]
    assert [{k: v for k, v in r.items() if k not in timed} for r in one["table"]] == [
        {k: v for k, v in r.items() if k not in timed} for r in two["table"]
    ]
    assert len(one["trials"]) == 36
    with quiet_optuna():
        both = [optuna.load_study(study_name="fallline", storage=f"sqlite:///{p / FILE}").trials for p in (tmp_path / "whole", killed)]
    assert [(t.number, t.params, t.values, t.state) for t in both[0]] == [(t.number, t.params, t.values, t.state) for t in both[1]]


def _outcomes(folder: Path) -> int:
    try:
        with sqlite3.connect(f"file:{folder / 'record.sqlite'}?mode=ro", uri=True) as record:
            found = record.execute("SELECT count(*) FROM texts WHERE key = 'outcome'").fetchone()[0]
        record.close()
    except sqlite3.Error:
        return 0
    return int(found)


def _wait_for(folder: Path, least: int, child: subprocess.Popen) -> None:
    limit = time.monotonic() + 200
    while _outcomes(folder) < least and child.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    assert child.poll() is None, "it ended before it could be killed"


# --- what is said of it ---------------------------------------------------------------------------------------------------------------


def trial(number: int, value: float | None = None, status: str = "finished", epochs: int = 4, **factors) -> Trial:
    return Trial(number, "linear", {"lr": number + 1.0}, factors, {}, "random", status, value, value, {}, epochs, 1, 0.1)


def test_trials_stand_in_one_order() -> None:
    found = [trial(0, None, "diverged"), trial(1, 0.9, "stopped", 1), trial(2, 0.2), trial(3, 0.1, "stopped", 2), trial(4, 0.5)]
    assert [t.number for t in sorted(found, key=lambda t: t.rank_key(False))] == [4, 2, 3, 1, 0]
    assert [t.number for t in sorted(found, key=lambda t: t.rank_key(True))] == [2, 4, 3, 1, 0]
    assert best_so_far([trial(0, 0.1), trial(1, 0.9, "stopped"), trial(2, 0.3), trial(3, 0.2)], lower=False) == [0.1, 0.1, 0.3, 0.3]


def test_the_expected_curve_is_that_of_the_random_trials() -> None:
    found = [trial(0, 0.1), trial(1, None, "diverged"), trial(2, 0.4), dataclasses.replace(trial(3, 0.99, "stopped"), by="tpe")]
    curve = expected_curve(found, lower=False)
    assert curve == [expected_best([0.1, 0.1, 0.4], k, lower=False) for k in (1, 2, 3)]
    assert expected_curve([*found, trial(4, 0.2, "stopped")], lower=False) == []


MANY = SimpleNamespace(validation=SimpleNamespace(y=np.arange(10_000) % 2), test=SimpleNamespace(y=np.arange(10_000) % 2))


def test_by_how_much_a_search_flatters_is_said() -> None:
    plan = plan_of()
    row = {"searched": 0.95, "mean": 0.93}
    assert "flattered it by 2.0 points:" in flattered(plan, [row])
    assert "had not flattered" in flattered(plan, [{"searched": 0.9, "mean": 0.93}])
    assert flattered(plan, [{"searched": 0.9, "mean": None}]) == ""
    assert headline(plan, ranked(plan, [], [], MANY)) == "no trial was finished, so there is nothing to recommend"


def test_equal_test_values_do_not_give_an_interval_of_no_width(iris) -> None:
    from fallline.study.finalists import Final

    finals = [Final(0, s, "finished", 0.9, 0.9, 0.0, 1, 1) for s in range(5)]
    row = ranked(plan_of(seeds=(0, 1, 2, 3, 4)), [trial(0, 0.9)], finals, iris)[0]
    half = 2.776445 / len(iris.test) / math.sqrt(12 * 5)
    assert row["test_low"] == pytest.approx(0.9 - half, rel=1e-5)
    assert row["test_high"] == pytest.approx(0.9 + half, rel=1e-5)


def test_the_best_of_many_alike_is_flattered_and_fresh_seeds_are_not() -> None:
    """100 trials that are all alike: the best one's own value lies far above the truth, the mean over fresh seeds does not."""
    from fallline.study.finalists import Final

    draw = np.random.default_rng(0)
    plan = plan_of(seeds=(0, 1, 2, 3, 4), best=5)
    in_search, fresh_means, covered = [], [], 0
    for _ in range(200):
        found = [trial(i, float(v)) for i, v in enumerate(draw.normal(0.5, 0.01, 100))]
        best = best_trials(found, 5, lower=False)
        finals = [
            Final(t.number, s, "finished", float(draw.normal(0.5, 0.01)), float(draw.normal(0.5, 0.01)), 0, 1, 1)
            for t in best
            for s in range(5)
        ]
        top = ranked(plan, found, finals, MANY)[0]
        in_search.append(best[0].value)
        fresh_means.append(top["test_mean"])
        covered += top["test_low"] <= 0.5 <= top["test_high"]
    assert np.mean(in_search) > 0.52
    assert abs(np.mean(fresh_means) - 0.5) < 0.001
    assert covered >= 180


def test_importance_finds_what_matters_and_gives_chance_nothing() -> None:
    draw = np.random.default_rng(0)
    space = make_space({"optimizer": ["sgd", "adam"], "lr": (1e-3, 1.0), "batch_size": [16, 32, 64]})
    found = []
    for number in range(120):
        rate = 10 ** draw.uniform(-3, 0)
        factors = {"optimizer": ["sgd", "adam"][draw.integers(2)], "lr": rate, "batch_size": int(draw.choice([16, 32, 64]))}
        found.append(trial(number, float(-((math.log10(rate) + 1) ** 2) + draw.normal(0, 0.05)), **factors))
    shares = {row["factor"]: row["share"] for row in importances(found, space, lower=False)}
    assert next(iter(shares)) == "lr"
    assert shares["lr"] > 0.7
    assert shares["optimizer"] < 0.1
    assert shares["batch_size"] < 0.1


def test_omega_squared_is_unbiased_where_nothing_is_explained() -> None:
    draw = np.random.default_rng(1)
    shares = []
    for _ in range(400):
        v, g = draw.permutation(60).astype(float), draw.integers(0, 5, 60)
        total, n, k = ((v - v.mean()) ** 2).sum(), 60, len(set(g.tolist()))
        within = sum(((v[g == each] - v[g == each].mean()) ** 2).sum() for each in set(g.tolist()))
        noise = within / (n - k)
        raw = (total - within - (k - 1) * noise) / (total + noise)
        shares.append(raw)
        assert explained(v.tolist(), g.tolist()) == pytest.approx(max(0.0, raw), abs=1e-12)
    assert abs(np.mean(shares)) < 0.01
    assert explained([1.0, 1.0, 2.0, 2.0], [0, 0, 1, 1]) == 1.0
    assert groups([1.0, 2.0, 1.0]) == [0, 1, 0]
