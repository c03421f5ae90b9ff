"""Comparisons: paired members, honest counts of what diverged, searches that say when they ended at an edge, and resumes."""

import contextlib
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fallline as fl
from fallline._core.errors import FalllineError
from fallline.data import load
from fallline.population.blocks import Sizes
from fallline.record import Reader, Writer, read_info
from fallline.study.budget import Clock
from fallline.study.plan import make_plan
from fallline.study.tune import search
from fallline.training import Settings


def rows(n=240, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    y = (x[:, 0] + 0.5 * x[:, 1] + 0.3 * rng.normal(size=n) > 0).astype(np.int64)
    return x, y


@pytest.fixture(scope="module")
def data():
    return load(rows())


QUICK = {"epochs": 3, "quiet": True}


def test_a_small_study(data, tmp_path):
    study = fl.compare("linear", data, ["sgd", "adam"], lrs={"sgd": 0.3, "adam": [0.001, 0.05, 10.0]}, seeds=3, out=tmp_path / "s", **QUICK)
    assert study.status == "finished"
    assert [row["rank"] for row in study.table] == [1, 2]
    assert study.best is study.table[0]
    means = [row["mean"] for row in study.table]
    assert means == sorted(means, reverse=True)
    for row in study.table:
        mine = [m for m in study.members if m.optimizer == row["optimizer"]]
        assert row["seeds"] == len(mine) == 3
        assert row["values"] == [m.validation["accuracy"] for m in mine]
        assert row["mean"] == pytest.approx(np.mean(row["values"]))
        assert 0 <= row["low"] < row["mean"] < row["high"] <= 1
        assert row["test_mean"] == pytest.approx(np.mean([m.test["accuracy"] for m in mine]))
        assert row["diverged"] == 0
    assert list(study.search) == ["adam"]
    assert [lr for lr, _ in study.search["adam"]] == [0.001, 0.05, 10.0]
    assert study.headline in study.text()
    info = read_info(tmp_path / "s")
    assert info["kind"] == "study"
    assert info["status"] == "finished"
    assert info["result"]["table"] == json.loads(json.dumps(study.table))
    assert "fl.compare" in info["python"]
    names = {n.rsplit("/", 1)[-1] for n in Reader(tmp_path / "s").runs() if n.startswith("sgd/lr=0.3/")}
    assert names == {"seed=0", "seed=1", "seed=2"}


def test_members_of_one_seed_begin_alike_and_of_two_seeds_do_not(data):
    study = fl.compare("mlp:8", data, ["sgd", "adam", "adagrad"], lrs=0.01, seeds=2, **QUICK)
    starts = {m.run: Reader(study.reader._writer).series("loss", "validation", m.run) for m in study.members}
    by_seed = {s: {float(series.value[0]) for run, series in starts.items() if run.endswith(f"seed={s}")} for s in (0, 1)}
    assert all(series.step[0] == 0 for series in starts.values())
    assert len(by_seed[0]) == len(by_seed[1]) == 1
    assert by_seed[0] != by_seed[1]


def test_an_optimizer_against_its_own_twin_is_the_same_to_the_last_bit(data):
    """SGD with momentum 0 is SGD: only a shared start and a shared order of rows make all seeds agree exactly."""
    study = fl.compare("mlp:8", data, ["sgd", "sgd:momentum=0.0"], lrs=0.1, seeds=3, metric="loss", **QUICK)
    first, second = study.table
    assert first["values"] == second["values"]
    assert second["difference"] == 0
    assert second["differs_from_best"] == "not shown"


def test_a_clear_difference_is_shown(data):
    study = fl.compare("linear", data, ["sgd", "adam"], lrs={"sgd": 1e-6, "adam": 0.1}, seeds=5, metric="loss", **QUICK)
    best, worst = study.table
    assert best["optimizer"] == "adam"
    assert worst["differs_from_best"] == "yes"
    assert worst["difference_low"] > 0
    assert study.headline.startswith("adam beats sgd by ")


def test_one_seed_shows_nothing_and_says_so(data):
    study = fl.compare("linear", data, ["sgd", "adam"], lrs={"sgd": 1e-6, "adam": 0.1}, seeds=[4], **QUICK)
    assert all(row["low"] is None for row in study.table)
    assert study.table[1]["differs_from_best"] == "not shown"
    assert "one seed" in study.headline
    assert all(m.seed == 4 for m in study.members)


def test_diverged_runs_are_counted_and_rank_last():
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    data = load((x, (x @ np.array([1.0, 2.0, 3.0])).astype(np.float32)))
    study = fl.compare("mlp:8", data, ["sgd", "adam"], lrs={"sgd": 1e6, "adam": 0.01}, seeds=3, **QUICK)
    lost = study.table[-1]
    assert lost["optimizer"] == "sgd"
    assert lost["diverged"] == lost["missed"] == lost["seeds"] == 3
    assert lost["mean"] is None
    assert lost["steps_to_target"] is None
    assert lost["test_mean"] is None
    assert len(study.members) == 6
    assert "3 of 3 diverged" in lost["note"]
    assert "3 of 3" in study.text()
    assert study.table[0]["metric"] == "r2"
    assert lost["differs_from_best"] == "not shown"  # three against three: Fisher's p is 0.1


def test_steps_to_the_target_are_read_from_the_curves(data):
    study = fl.compare("linear", data, ["sgd", "adam"], lrs={"sgd": 1e-7, "adam": 0.1}, seeds=3, target=0.8, epochs=5, quiet=True)
    by = {row["optimizer"]: row for row in study.table}
    steps = []
    for member in (m for m in study.members if m.optimizer == "adam"):
        series = study.reader.series("accuracy", "validation", member.run)
        i = next(i for i, v in enumerate(series.value) if v >= 0.8)
        (s0, s1), (v0, v1) = series.step[i - 1 : i + 1], series.value[i - 1 : i + 1]
        steps.append(s0 + (s1 - s0) * (0.8 - v0) / (v1 - v0))
    assert by["adam"]["steps"] == pytest.approx(steps)
    assert by["adam"]["steps_to_target"] == int(sorted(steps)[1])
    assert by["adam"]["missed"] == 0
    assert study.target == 0.8
    starts = [study.reader.series("accuracy", "validation", m.run).value.max() for m in study.members if m.optimizer == "sgd"]
    assert by["sgd"]["missed"] == sum(v < 0.8 for v in starts)


def test_batch_sizes_are_a_factor(data):
    study = fl.compare("linear", data, ["sgd"], lrs=0.1, batch_sizes=[16, "full"], seeds=2, **QUICK)
    assert {row["batch_size"] for row in study.table} == {16, "full"}
    assert {m.run for m in study.members} == {f"sgd/batch={b}/lr=0.1/seed={s}" for b in (16, "full") for s in (0, 1)}


def test_test_rows_decide_nothing(data):
    """Spoiling the test rows changes neither ranking nor learning rates."""
    import dataclasses

    from fallline.data import Split

    wrong = dataclasses.replace(data, test=Split(data.test.x, 1 - data.test.y))
    options = {"lrs": [0.001, 0.1], "seeds": 2, **QUICK}
    one, two = (fl.compare("linear", d, ["sgd", "adam"], **options) for d in (data, wrong))
    drop = ("test_mean", "test_low", "test_high", "seconds")
    assert [{k: v for k, v in row.items() if k not in drop} for row in one.table] == [
        {k: v for k, v in row.items() if k not in drop} for row in two.table
    ]
    assert one.table[0]["test_mean"] != two.table[0]["test_mean"]


# ---- the search


def searched(plan, loss):
    """The outcome of a search on a known curve of the loss, and the rates that it asked for."""
    asked, going = [], search(plan, "adam")
    try:
        rates = next(going)
        while True:
            asked += rates
            rates = going.send({rate: loss(rate) for rate in rates})
    except StopIteration as end:
        return end.value, asked


def plan_of(lrs="auto", optimizers=("adam",), seeds=3):
    return make_plan(optimizers, lrs=lrs, seeds=seeds, metric="accuracy", metrics=("loss", "accuracy"), settings=Settings(lr=1.0))


@pytest.mark.parametrize("best", [5e-5, 1e-3, 0.02])
def test_the_search_finds_the_best_of_a_smooth_valley(best):
    plan = plan_of()
    found, asked = searched(plan, lambda lr: math.log(lr / best) ** 2)
    assert abs(math.log10(found.lr / best)) <= 0.2
    assert not found.at_edge
    assert len(asked) == len(set(asked)) == plan.trials("adam")
    assert plan.search_seed == 3
    assert 3 not in plan.seeds


def test_every_optimizer_has_the_same_budget():
    plan = plan_of(optimizers=tuple(fl.optim.OPTIMIZERS))
    assert len({plan.trials(name) for name in plan.optimizers}) == 1


def test_the_search_grows_beyond_its_edge():
    found, _ = searched(plan_of(), lambda lr: math.log(lr / 2.0) ** 2)
    assert abs(math.log10(found.lr / 2.0)) <= 0.2
    assert max(lr for lr, _ in found.trials) > 0.1
    assert not found.at_edge


def test_a_best_rate_that_stays_at_the_edge_is_flagged():
    found, asked = searched(plan_of(), lambda lr: -lr)
    assert found.at_edge
    assert len(asked) <= plan_of().trials("adam") + 3


def test_a_listed_grid_is_widened_at_its_edge_and_not_refined():
    listed, _ = searched(plan_of(lrs=[0.1, 1.0]), lambda lr: -lr)
    assert listed.at_edge
    assert [lr for lr, _ in listed.trials] == [0.1, 1.0, 10.0, 100.0, 1000.0]
    inner, _ = searched(plan_of(lrs=[0.1, 1.0]), lambda lr: math.log(lr / 9.0) ** 2)
    assert not inner.at_edge
    assert inner.lr == 10.0
    assert [lr for lr, _ in inner.trials] == [0.1, 1.0, 10.0, 100.0]
    middle, _ = searched(plan_of(lrs=[0.1, 1.0, 10.0]), lambda lr: math.log(lr / 1.1) ** 2)
    assert [lr for lr, _ in middle.trials] == [0.1, 1.0, 10.0]


def test_a_rate_beside_divergence_is_no_edge():
    found, _ = searched(plan_of(), lambda lr: math.inf if lr > 0.09 else -lr)
    assert not found.at_edge
    assert math.isfinite(dict(found.trials)[found.lr])


def test_the_flag_reaches_the_table(data):
    study = fl.compare("linear", data, ["sgd"], lrs=[1e-6, 1e-5], seeds=2, **QUICK)
    assert study.table[0]["lr_at_edge"]
    assert study.table[0]["rank"] is None
    assert "edge" in study.table[0]["note"]
    assert "sgd is not ranked" in study.headline


# ---- stop and go on


def test_a_stopped_study_keeps_what_is_whole_and_goes_on_to_the_same_end(data, tmp_path, monkeypatch):
    monkeypatch.setattr("fallline.population.train.block_size", lambda *args, **options: Sizes(2, 2))
    calls, last = 0, math.inf

    def stop():
        nonlocal calls
        calls += 1
        return calls > last

    options = {"lrs": {"sgd": [0.01, 0.1], "adam": 0.01}, "seeds": 3, "stop": stop, **QUICK}
    whole = fl.compare("mlp:8", data, ["sgd", "adam"], **options)
    calls, last = 0, calls - 5
    half = fl.compare("mlp:8", data, ["sgd", "adam"], out=tmp_path / "s", **options)
    assert half.status == read_info(tmp_path / "s")["status"] == "interrupted"
    assert 0 < len(half.members) < 6
    done = {m.run: m.seconds for m in half.members}
    again = fl.compare(data=data, resume=tmp_path / "s", quiet=True)
    assert again.status == read_info(tmp_path / "s")["status"] == "finished"
    kept = {m.run: m.seconds for m in again.members}
    assert all(kept[run] == seconds for run, seconds in done.items())  # not trained again
    first, second = ({r["optimizer"]: {k: v for k, v in r.items() if k != "seconds"} for r in s.table} for s in (whole, again))
    assert first == second
    reader = Reader(tmp_path / "s")
    for member in again.members:
        assert np.array_equal(
            reader.series("loss", "validation", member.run).value, whole.reader.series("loss", "validation", member.run).value
        )


def test_an_interrupted_study_in_memory_goes_on_and_reports(data, tmp_path):
    half = fl.compare("linear", data, ["sgd", "adam"], lrs=0.1, seeds=2, stop=lambda: True, **QUICK)
    assert (half.status, half.table, half.best) == ("interrupted", [], None)
    whole = half.resume(quiet=True)
    assert whole.status == "finished"
    assert len(whole.table) == 2
    page = whole.report(tmp_path / "page.html").read_text()
    assert "adam" in page


def test_a_finished_study_runs_nothing_again(data, tmp_path):
    made = []

    def model(input_shape, outputs):
        made.append(1)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(input_shape[0], outputs))

    first = fl.compare(model, data, ["sgd"], lrs=0.1, seeds=2, out=tmp_path / "s", **QUICK)
    count = len(made)
    second = fl.compare(model, data, resume=tmp_path / "s", quiet=True)
    assert len(made) == count
    assert second.table == first.table


SCRIPT = """
import sys, numpy as np
import fallline as fl
from tests.study.test_compare import rows
from fallline.data import load
print("ready", flush=True)
s = fl.compare("mlp:8", load(rows()), ["sgd", "adam"], lrs=0.01, seeds=40, epochs=20, out=sys.argv[1], quiet=True)
print(s.status, len(s.members), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_study_goes_on(data, tmp_path, how):
    place = tmp_path / "s"
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(place)], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    process.stdout.readline()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (place / "record.sqlite").exists() and (place / "run.json").exists():
            try:
                if len(Reader(place).runs()) >= 4:
                    break
            except FalllineError:
                pass
        time.sleep(0.05)
    process.send_signal(how)
    out, _ = process.communicate(timeout=120)
    if how == signal.SIGINT:
        assert out.startswith("interrupted")
        assert read_info(place)["status"] == "interrupted"
    again = fl.compare(data=data, resume=place, quiet=True)
    assert again.status == "finished"
    assert len(again.members) == 80
    straight = fl.compare("mlp:8", data, ["sgd", "adam"], lrs=0.01, seeds=40, epochs=20, quiet=True)
    assert {m.run: m.validation for m in again.members} == {m.run: m.validation for m in straight.members}
    untimed = [{key: value for key, value in row.items() if key != "seconds"} for row in again.table]
    assert untimed == [{key: value for key, value in row.items() if key != "seconds"} for row in straight.table]


def test_a_study_out_of_time_is_written_and_resumed(data, tmp_path, monkeypatch):
    """Some of four blocks are whole when the time is over; the next sitting goes on where the one before ended."""
    monkeypatch.setattr("fallline.population.train.block_size", lambda *args, **options: Sizes(1, 1))
    whole = fl.compare("mlp:8", data, ["sgd", "adam"], lrs=0.01, seeds=2, **QUICK)
    asked, last = 0, 30

    def over(self):
        nonlocal asked
        asked += 1
        return asked > last

    monkeypatch.setattr("fallline.study.budget.Clock.over", property(over))
    half = fl.compare("mlp:8", data, ["sgd", "adam"], lrs=0.01, seeds=2, budget="1h", out=tmp_path / "s", **QUICK)
    assert half.status == read_info(tmp_path / "s")["status"] == "out of time"
    assert half.headline.startswith(f"out of time with {len(half.members)} of 4 members whole: ")
    assert 0 < len(half.members) < 4
    assert half.headline == read_info(tmp_path / "s")["result"]["headline"]
    last = math.inf
    again = fl.compare(data=data, resume=tmp_path / "s", quiet=True)
    assert again.status == "finished"
    assert [row["values"] for row in again.table] == [row["values"] for row in whole.table]
    assert again.headline == whole.headline


def test_a_resumed_study_has_the_rest_of_its_budget(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("fallline.study.budget.time", SimpleNamespace(monotonic=lambda: now[0]))
    writer = Writer(None, kind="study")
    clock = Clock(writer, 10.0)
    now[0] = 6.0
    assert not clock.over
    assert writer.info["spent"] == 6.0  # kept on the way: a killed study knows it
    clock = Clock(writer, 10.0)
    now[0] = 9.0
    assert not clock.over
    now[0] = 10.5
    assert clock.over
    clock.keep("out of time")
    assert not Clock(writer, 10.0).over  # to go on is to ask for the budget again


def test_all_shapes_of_a_seed_come_before_those_of_the_next(data, monkeypatch):
    """A study of two batch sizes that is stopped has compared both on the first seeds, and says what it lacks."""
    monkeypatch.setattr("fallline.population.train.block_size", lambda *args, **options: Sizes(2, 2))
    asked, last = 0, math.inf

    def stop():
        nonlocal asked
        asked += 1
        return asked > last

    options = {"lrs": 0.01, "batch_sizes": [16, 32], "seeds": 3, "stop": stop, **QUICK}
    fl.compare("mlp:8", data, ["sgd", "adam"], **options)
    asked, last = 0, asked // 2
    half = fl.compare("mlp:8", data, ["sgd", "adam"], **options)
    assert len(half.table) == 4
    seeds = [len(row["at_seeds"]) for row in half.table]
    assert max(seeds) - min(seeds) <= 1
    assert 0 < sum(seeds) < 12
    assert half.headline.startswith(f"interrupted with {len(half.members)} of 12 members whole: ")
    assert half.notes[0].startswith("the study was interrupted: of ")
    monkeypatch.setattr("fallline.population.train.block_size", lambda *args, **options: Sizes(6, 6))
    asked, last = 0, math.inf
    fl.compare("mlp:8", data, ["sgd", "adam"], **options)
    asked, last = 0, asked - 1
    less = fl.compare("mlp:8", data, ["sgd", "adam"], **options)  # of the second batch size there is nothing
    assert {row["batch_size"] for row in less.table} == {16}
    assert less.notes[0] == "the study was interrupted: of sgd at batch size 32 and adam at batch size 32 there is no member"


def test_members_of_an_older_study_stay_until_their_block_is_whole(data, tmp_path, monkeypatch):
    """A study that trained one by one, stopped in the middle: what it has goes only when what takes its place is written."""
    fl.compare("mlp:8", data, ["sgd", "adam"], lrs=0.01, seeds=2, out=tmp_path / "s", **QUICK)
    with contextlib.closing(sqlite3.connect(tmp_path / "s" / "record.sqlite")) as record, record:
        record.execute("DELETE FROM texts WHERE run = 'sgd/lr=0.01/seed=1'")  # its rows are there, but it is not whole
        record.execute("UPDATE scalars SET value = 0.25 WHERE run = 'adam/lr=0.01/seed=0' AND key = 'accuracy'")
    seen = []

    def stop():
        seen.append(1)
        return len(seen) > 2

    monkeypatch.setattr("fallline.record.writer._GATHER", 2)  # rows are written in the middle of a block
    half = fl.compare(data=data, resume=tmp_path / "s", quiet=True, stop=stop)
    assert half.status == "interrupted"
    assert {m.run for m in half.members} == {"sgd/lr=0.01/seed=0", "adam/lr=0.01/seed=0", "adam/lr=0.01/seed=1"}
    reader = Reader(tmp_path / "s")
    assert set(reader.runs()) == {m.run for m in half.members}  # nothing of the one that is not whole
    series = reader.series("accuracy", "validation", "adam/lr=0.01/seed=0")
    assert series.step.tolist() == sorted(set(series.step.tolist()))
    assert set(series.value.tolist()) == {0.25}
    whole = fl.compare(data=data, resume=tmp_path / "s", quiet=True)
    assert (whole.status, len(whole.members)) == ("finished", 4)
    series = Reader(tmp_path / "s").series("accuracy", "validation", "adam/lr=0.01/seed=0")
    assert series.step.tolist() == sorted(set(series.step.tolist()))
    assert 0.25 not in series.value


def test_a_resumed_study_keeps_what_is_in_its_folder(tmp_path):
    fl.compare("linear", "iris", ["sgd"], lrs=0.1, seeds=1, out=tmp_path / "s", **QUICK)
    for changed, words in [
        ({"data": "wine"}, "run on iris, and wine cannot take its place"),
        ({"data": "digits"}, "iris, and digits cannot"),
        ({"seeds": 10}, "leave out seeds"),
        ({"epochs": 7}, "leave out epochs"),
        ({"patience": 3}, "leave out patience"),
        ({"make_model": "mlp:4"}, "the model is that of the study"),
        ({"loss": "focal"}, "the loss is that"),
        ({"loss": fl.losses.Focal()}, "the loss is that"),
    ]:
        with pytest.raises(FalllineError, match=words):
            fl.compare(resume=tmp_path / "s", quiet=True, **changed)
    assert fl.compare("linear", "iris", resume=tmp_path / "s", quiet=True).status == "finished"


# ---- what is asked, in words


def run_again(study, **held):
    """What the recorded call gives; `held` stands for what was in memory."""
    text = study.reader.info["python"].replace("\n)", "\n    quiet=True,\n)")
    lines = [line for line in text.splitlines() if not line.startswith(tuple(f"{name} = ..." for name in held))]
    exec("\n".join(lines), held)
    return held["study"]


@pytest.mark.parametrize(
    "options",
    [
        {"optimizers": ["sgd"], "lrs": 0.1, "schedules": ["cosine"]},
        {"optimizers": ["adam:lr=0.1", "sgd"], "lrs": {"sgd": [0.01, 0.1]}},
        {"optimizers": ["adam:lr=0.1"]},
        {"optimizers": ["adam"], "lrs": 0.1, "losses": ["focal:gamma=5"]},
    ],
    ids=["schedule", "own rate", "only own rates", "loss"],
)
def test_the_recorded_call_repeats_the_study(data, options):
    study = fl.compare("linear", data, seeds=2, **options, **QUICK)
    assert [row["values"] for row in run_again(study, data=data).table] == [row["values"] for row in study.table]
    assert study.plan.settings.loss == study.plan.losses[0]
    assert study.plan.settings.schedule == study.plan.schedules[0]


def test_the_recorded_call_names_a_loss_in_memory(data):
    def own(x, y):
        return torch.nn.functional.binary_cross_entropy_with_logits(x.squeeze(), y.squeeze().to(x.dtype))

    for loss in (fl.losses.Focal(gamma=5.0), own):
        study = fl.compare("linear", data, ["adam"], lrs=0.1, seeds=2, loss=loss, **QUICK)
        assert "loss = ..." in study.reader.info["python"]
        assert [r["values"] for r in run_again(study, data=data, loss=loss).table] == [r["values"] for r in study.table]


def test_one_optimizer_in_many_spellings_is_one():
    plan = plan_of(0.1, ["adam", " adam ", "Adam", "ADAM:"])
    assert plan.optimizers == ("adam",)
    assert plan.notes == ("optimizer adam was named more than once and is run once",)
    spelt = ["rmsprop:alpha=0.9,like=keras", "rmsprop: alpha=.90, like=keras", "rmsprop:like=keras,alpha=9e-1"]
    assert plan_of({spelt[1]: 0.1}, spelt).optimizers == (spelt[0],)
    ordinary = ["sgd", "adam:betas=0.8/0.99", "adam:eps=1e-6+ema:decay=0.99", "sgd:momentum=0.1234567", "sgd:nesterov=true,momentum=0.5"]
    assert list(plan_of(0.1, ordinary).optimizers) == ordinary
    given = {"seeds": 1, "metric": "accuracy", "metrics": ("loss", "accuracy"), "settings": Settings(lr=1.0)}
    assert make_plan(["sgd"], losses=["focal:gamma=2", "Focal: gamma=2.0"], **given).losses == ("focal:gamma=2",)
    steps = ["step:every=1,factor=0.5", "step:factor=.5, every=1"]
    assert make_plan(["sgd"], schedules=steps, **given).schedules == (steps[0],)


def test_notes_say_who_had_no_search(data):
    study = fl.compare("linear", data, ["sgd", "adam:lr=0.1", "rmsprop"], lrs={"rmsprop": [0.01, 0.1, 1.0]}, seeds=1, epochs=1, quiet=True)
    (said,) = [note for note in study.notes if "trainings to find" in note]
    assert "not equal: 9 a cell for sgd, 3 a cell for rmsprop and none for adam:lr=0.1, whose rate was given" in said
    equal = fl.compare("linear", data, ["sgd", "adam"], lrs=[0.1, 0.2], seeds=1, epochs=1, quiet=True)
    assert any(note.startswith("every cell had 2 trainings") for note in equal.notes)


def test_rates_that_three_digits_do_not_tell_apart_are_tried_once():
    found, asked = searched(plan_of(lrs=[0.1, 0.10001]), lambda lr: lr)
    assert asked == [0.1, 0.10001]
    assert found.lr == 0.1


def test_a_schedule_that_names_more_epochs_than_the_budget_leaves_is_refused(data, monkeypatch):
    monkeypatch.setattr("fallline.study.budget.seconds_an_epoch", lambda *args: 1.0)
    options = {"lrs": 0.1, "seeds": 1, "epochs": 40, "budget": 100, "quiet": True}
    monkeypatch.setattr("fallline.study.budget.USED", 0.04)  # room for four epochs
    with pytest.raises(FalllineError, match=r"warmup:epochs=30 names 30 epochs.*room for 4"):
        fl.compare("linear", data, ["sgd"], schedules=["constant", "warmup:epochs=30"], **options)
    study = fl.compare("linear", data, ["sgd"], schedules=["constant", "warmup:epochs=2"], **options)
    assert study.plan.settings.epochs == 4
    assert "the schedule warmup:epochs=2 keeps the epochs that it names" in study.notes


class Branching(torch.nn.Module):
    """Its forward reads a value, so it cannot be stacked."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 1)

    def forward(self, x):
        return self.inner(x) * (2 if float(x.sum()) > 1e9 else 1)


def test_the_time_that_is_left_is_known_where_members_train_one_by_one(data):
    left = []
    fl.compare(Branching, data, ["sgd"], lrs=0.1, seeds=3, show=lambda rows, seconds: left.append(seconds), **QUICK)
    assert any(math.isfinite(seconds) for seconds in left)


def test_ties_stand_in_the_order_of_the_plan(data):
    """Rates so small that no answer changes: all are alike, and time decides nothing."""
    names = ["sgd", "adam", "rmsprop", "adagrad", "nadam"]
    for order in (names, names[::-1]):
        study = fl.compare("linear", data, order, lrs=1e-12, seeds=2, epochs=1, quiet=True)
        assert [row["optimizer"] for row in study.table] == order


def test_a_study_tells_its_factors_and_what_time_means(data):
    study = fl.compare("linear", data, ["sgd", "adam"], lrs=0.1, batch_sizes=[16, 32], seeds=2, **QUICK)
    assert study.factors
    assert json.loads(json.dumps(study.factors)) == json.loads(json.dumps(study.reader.info["result"]["factors"]))
    assert "Time: a member's share of the time of its block" in study.text()


# ---- wrong use


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizers": ["adma"]}, "did you mean"),
        ({"optimizers": []}, "at least one optimizer"),
        ({"losses": []}, "at least one loss"),
        ({"schedules": []}, "at least one schedule"),
        ({"schedules": ["cosin"]}, "did you mean"),
        ({"optimizers": ["adam:betas=2/3", "sgd"]}, "^adam"),
        ({"losses": ["cross_entropy"], "loss": "poly1"}, "losses are given once"),
        ({"budget": "soon"}, "10m, 90s and 1.5h"),
        ({"budget": 1e-6}, "budget >="),
        ({"lrs": 0}, "lr > 0"),
        ({"lrs": []}, "at least one learning rate"),
        ({"lrs": "some"}, "'auto'"),
        ({"lrs": {"sgd": 0.1}}, "optimizer in this study"),
        ({"seeds": 0}, "at least one seed"),
        ({"seeds": []}, "at least one seed"),
        ({"batch_sizes": [100000]}, "batch_size <="),
        ({"metric": "r2"}, "metric of this task"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"loss": "mse"}, "binary_cross_entropy"),
        ({"batch_size": 64}, r"batch_sizes=\[64\]"),
        ({"lr": 0.1}, r"lrs=\[0.1\]"),
        ({"seed": 3}, r"seeds=\[0\]"),
        ({"optimizer": "sgd"}, "optimizers="),
        ({"patince": 3}, "did you mean 'patience'"),
        ({"seeds": True}, "seeds"),
        ({"seeds": 2.5}, "seeds"),
        ({"seeds": None}, "seeds"),
        ({"seeds": [-1]}, "seed is a whole number >= 0"),
        ({"optimizers": None}, "optimizers"),
        ({"optimizers": [3]}, "optimizers are names"),
        ({"batch_sizes": None}, "batch_sizes"),
        ({"batch_sizes": [2.5]}, "batch_size"),
        ({"losses": [torch.nn.functional.mse_loss]}, "losses are names"),
        ({"losses": ["auto", "focal"]}, "each of losses is named"),
        ({"schedules": 3}, "schedules"),
        ({"metric": None}, "metric is a name"),
        ({"class_weight": {"0": 2.0}}, "class_weight is a text"),
        ({"class_weight": [1, 2]}, "class_weight is a text"),
    ],
)
def test_wrong_use_is_told_and_nothing_is_written(data, tmp_path, options, words):
    given = {"optimizers": ["adam"], "out": tmp_path / "s", **QUICK, **options}
    with pytest.raises(FalllineError, match=words):
        fl.compare("linear", data, **given)
    assert not (tmp_path / "s").exists()


def test_a_single_item_stands_for_a_list_of_it(data):
    study = fl.compare("linear", data, "sgd", lrs=0.1, batch_sizes=16, seeds=1, losses="focal", schedules="cosine", **QUICK)
    assert [row["batch_size"] for row in study.table] == [16]
    assert (study.table[0]["loss"], study.table[0]["schedule"]) == ("focal", "cosine")


def test_a_folder_with_a_run_is_not_overwritten(data, tmp_path):
    fl.compare("linear", data, ["sgd"], lrs=0.1, seeds=1, out=tmp_path / "s", **QUICK)
    with pytest.raises(FalllineError, match="already holds a run"):
        fl.compare("linear", data, ["sgd"], lrs=0.1, seeds=1, out=tmp_path / "s", **QUICK)
    with pytest.raises(FalllineError, match="other rows"):
        fl.compare(data=load(rows(seed=1)), resume=tmp_path / "s", quiet=True)
    with pytest.raises(FalllineError, match="data is given"):
        fl.compare(resume=tmp_path / "s", quiet=True)


def test_a_user_generator_is_left_alone(data):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    fl.compare("mlp:8", data, ["sgd"], lrs=0.1, seeds=2, dropout=0.2, **QUICK)
    assert torch.equal(before, torch.get_rng_state())
    assert threads == torch.get_num_threads()


def test_a_rate_named_with_an_optimizer_is_its_only_one(data):
    study = fl.compare("linear", data, ["sgd", "adam:lr=0.05"], lrs={"sgd": 0.3}, seeds=1, **QUICK)
    assert {row["optimizer"]: row["lr"] for row in study.table} == {"sgd": 0.3, "adam:lr=0.05": 0.05}
    with pytest.raises(FalllineError, match="given once"):
        fl.compare("linear", data, ["adam:lr=0.05"], lrs=0.1, seeds=1, **QUICK)
