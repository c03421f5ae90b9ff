"""A table of batch size against epochs: one training gives all lengths where it may; intervals, corrected differences, merged entries."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

import fallline as fl
from fallline._core.errors import FalllineError
from fallline.data import Data, load
from fallline.data.dataset import Split
from fallline.population import Job, Population
from fallline.record import Writer
from fallline.study.models import fresh
from fallline.study.published import PUBLISHED, published, within
from fallline.study.statistics import holm
from fallline.study.table import TableMember, cells_of, differences_of, headline, run_table
from fallline.study.table_plan import TablePlan, make_table_plan
from fallline.study.table_text import cell_text, python_call
from fallline.training import Settings

PLAIN = Settings(optimizer="rmsprop:like=keras", lr=0.003)


@pytest.fixture(scope="module")
def data() -> Data:
    return load("iris", validation=0.0, scale="minmax")


def plan_of(rows: int = 128, **changed) -> TablePlan:
    given = {"batch_sizes": [16, "full"], "epochs": [2, 4], "seeds": 3, "metric": "loss", "settings": PLAIN, "rows": rows, **changed}
    return make_table_plan(**given)


def fill(data: Data, plan: TablePlan, **more):
    return run_table("mlp:8", data, plan, Writer(None, kind="table"), quiet=True, **more)


def values(result) -> dict:
    return {(c["batch_size"], c["epochs"]): c["values"] for c in result.cells}


# ---- which trainings give the cells


def test_a_run_of_four_epochs_passes_through_the_run_of_two(data):
    whole = values(fill(data, plan_of()))
    short = values(fill(data, plan_of(epochs=[2])))
    assert {key: whole[key] for key in short} == short  # to the last bit: the same blocks make the same steps


def test_with_a_schedule_that_knows_the_end_each_length_is_trained_by_itself(data):
    settings = dataclasses.replace(PLAIN, schedule="cosine")
    result = fill(data, plan_of(settings=settings))
    assert {(m.epochs, m.batch_size) for m in result.members} == {(2, 16), (4, 16), (2, "full"), (4, "full")}
    short = values(fill(data, plan_of(settings=settings, epochs=[2])))
    found = values(result)
    for batch in (16, "full"):
        assert found[batch, 2] == pytest.approx(short[batch, 2], rel=1e-4)
        passed = [m.at["2"]["loss"] for m in result.members if m.epochs == 4 and m.batch_size == batch]
        assert not np.allclose(passed, found[batch, 2], rtol=1e-3)  # what the long run passes through is another thing
    assert any("cosine depends on the length" in note for note in result.notes)


@pytest.mark.parametrize(
    ("schedule", "shared"),
    [
        ("constant", True),
        ("exponential:factor=0.9", True),
        ("step:every=2", True),
        ("inverse_root:offset=1", True),
        ("plateau", True),
        ("cosine", False),
        ("linear", False),
        ("step", False),
        ("one_cycle", False),
    ],
)
def test_one_training_serves_all_lengths_exactly_where_its_rate_does_not_know_the_end(schedule, shared):
    assert plan_of(settings=dataclasses.replace(PLAIN, schedule=schedule)).shared(16, 128) is shared


def test_a_member_is_the_run_that_fit_trains(data):
    result = fill(data, plan_of(seeds=[3], batch_sizes=[16]))
    for epochs in (2, 4):
        run = fl.fit("mlp:8", data, optimizer=PLAIN.optimizer, lr=PLAIN.lr, batch_size=16, epochs=epochs, seed=3, keep="last", quiet=True)
        assert result.members[0].at[str(epochs)]["loss"] == pytest.approx(run.metrics["test"]["loss"], rel=1e-4)
        assert result.members[0].at[str(epochs)]["accuracy"] == run.metrics["test"]["accuracy"]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("optimizer", ["schedule_free_sgd", "adam+ema:decay=0.9"])
def test_an_epoch_is_judged_at_the_weights_that_are_used(data, together, optimizer):
    """Averages and Schedule-Free rules train at other weights than they leave: the last mark is what is judged at the end."""
    settings = Settings(optimizer=optimizer, lr=0.01, epochs=2, keep="last")
    population = Population(lambda s, goal: fresh("mlp:8", data.input_shape, goal.outputs, seed=s.seed), data, together=together)
    jobs = [Job(f"seed={seed}", dataclasses.replace(settings, seed=seed), marks=(1, 2)) for seed in (0, 1)]
    for result in population.train(jobs, Writer(None)):
        assert result.marks[2]["loss"] == pytest.approx(result.outcome.metrics["test"]["loss"], rel=1e-5)
        assert result.marks[1]["loss"] != pytest.approx(result.marks[2]["loss"], rel=1e-3)


def test_the_record_holds_the_test_rows_after_every_epoch(data):
    writer = Writer(None, kind="table")
    result = run_table("mlp:8", data, plan_of(), writer, quiet=True)
    for member in result.members:
        found = fl.record.Reader(writer).series("loss", "test", member.run)
        assert found.epoch.tolist() == [1, 2, 3, 4]
        assert found.value.tolist() == [member.at[str(e)]["loss"] for e in (1, 2, 3, 4)]
        assert member.steps == found.step[-1]


# ---- what is in the cells


def test_cells_are_means_with_t_intervals(data):
    for cell in fill(data, plan_of(metric="accuracy", seeds=4)).cells:
        v = np.array(cell["values"])
        deviation = max(v.std(ddof=1), cell["step"] / np.sqrt(12))
        half = stats.t.ppf(0.975, 3) * deviation / 2
        assert cell["step"] == 1 / len(data.test)
        assert cell["mean"] == pytest.approx(v.mean())
        assert [cell["low"], cell["high"]] == pytest.approx([max(0, v.mean() - half), min(1, v.mean() + half)])
        assert (cell["n"], cell["seeds"], cell["diverged"], cell["at_seeds"]) == (4, 4, 0, [0, 1, 2, 3])
        assert cell["seconds"] > 0


def test_one_seed_has_no_interval_and_shows_nothing(data):
    result = fill(data, plan_of(seeds=1))
    assert all(cell["low"] is None and cell["mean"] is not None for cell in result.cells)
    assert all(pair["p"] == 1.0 for pair in result.differences)
    assert "one seed" in result.headline


def test_runs_that_diverge_are_counted_and_leave_the_cells_before_it():
    x = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    data = load((x, (x @ np.array([1.0, 2.0, 3.0])).astype(np.float32)), validation=0.0)
    settings = Settings(optimizer="sgd", lr=1e6)
    plan = make_table_plan(batch_sizes=[16, "full"], epochs=[1, 3], seeds=2, metric="r2", settings=settings, rows=len(data.train))
    result = fill(data, plan)
    assert all(m.status == "diverged" for m in result.members)
    last = [cell for cell in result.cells if cell["epochs"] == 3]
    assert all(cell["mean"] is None and cell["diverged"] == cell["seeds"] == 2 for cell in last)
    assert cell_text(last[0]) == "diverged"
    assert any("diverged at step" in note for note in result.notes)


def made(table: dict, step: float = 0.0) -> list[dict]:
    """Cells from {(batch, epochs): values}."""
    plan = TablePlan(
        tuple(dict.fromkeys(b for b, _ in table)), tuple(dict.fromkeys(e for _, e in table)), (0, 1, 2, 3, 4), "accuracy", PLAIN
    )
    members = []
    for batch in plan.batch_sizes:
        for seed in range(len(next(iter(table.values())))):
            at = {str(e): {"accuracy": v[seed], "loss": 1.0} for (b, e), v in table.items() if b == batch}
            members.append(TableMember(f"{batch}/{seed}", batch, plan.epochs[-1], seed, "finished", at))
    return cells_of(plan, members, 60_000, step, PUBLISHED)


RNG = np.random.default_rng(1)
LIKE = {(batch, epochs): list(PUBLISHED[batch][epochs] + RNG.normal(0, 0.003, 5)) for batch in PUBLISHED for epochs in (5, 10, 15)}


def test_differences_are_paired_and_corrected_over_all_questions_together():
    pairs = differences_of(made(LIKE))
    assert len(pairs) == 18
    named = {"batch 32": 32, "batch 64": 64, "batch 128": 128, "full batch": "full"}
    raw = [stats.ttest_rel(LIKE[named[p["a"]], p["epochs"]], LIKE[named[p["b"]], p["epochs"]]) for p in pairs]
    assert [p["p"] for p in pairs] == pytest.approx(holm([float(r.pvalue) for r in raw]))
    for pair, r in zip(pairs, raw, strict=True):
        interval = r.confidence_interval(0.95)
        assert [pair["low"], pair["high"]] == pytest.approx([interval.low, interval.high])
        assert pair["difference"] >= 0  # the better one stands first


def test_the_sentence_says_which_differences_are_real():
    noise = RNG.normal(0, 0.004, (3, 5))
    table = {(b, 5): list(0.875 + noise[i]) for i, b in enumerate((32, 64, 128))} | {("full", 5): list(0.59 + RNG.normal(0, 0.01, 5))}
    cells = made(table)
    text = headline(cells, differences_of(cells))
    assert text.startswith("After 5 epochs: ")
    assert "cannot be told apart at 5 seeds" in text
    assert "all 3 beat full batch by 2" in text
    assert text.endswith("where it holds at 5 % over all 6 pairs together)")


def test_one_batch_size_has_nothing_to_be_compared_with():
    cells = made({(32, 5): [0.8, 0.82, 0.81, 0.8, 0.82], (32, 10): [0.9] * 5})
    text = headline(cells, differences_of(cells))
    assert text.startswith("batch 32 has a mean test accuracy of 81 % [79.8 %, 82.2 %] after 5 epochs and 90 %")
    assert text.endswith("there is nothing to compare it with")


# ---- the published cells


def test_a_published_cell_is_held_against_the_interval_widened_by_one_point():
    cell = next(c for c in made(LIKE) if (c["batch_size"], c["epochs"]) == (64, 10))
    assert cell["published"] == 0.864
    assert cell["published_within"] is True
    assert within(0.87, 0.8801, 0.89) is False
    assert within(0.8801, 0.89, 0.9) is True
    assert within(0.9101, 0.89, 0.9) is False


def fashion(scale: float = 1.0) -> Data:
    def rows(n: int) -> Split:
        x = torch.zeros(n, 1)
        x[:1] = scale
        return Split(x, torch.zeros(n, dtype=torch.int64))

    return Data("fashion_mnist", rows(60_000), rows(0), rows(10_000), "multiclass", ("a", "b"), (0, 1), (1,), (), "article")


@pytest.mark.parametrize("optimizer", ["rmsprop:like=keras", "rmsprop:alpha=0.9,like=keras", "rmsprop:like=keras,eps=1e-07"])
def test_published_cells_stand_beside_the_same_set_network_and_optimizer(optimizer):
    settings = Settings(optimizer=optimizer, lr=0.001)
    assert published(fashion(), "mlp:256", settings, "accuracy") == PUBLISHED


@pytest.mark.parametrize(
    "changed",
    [
        {"optimizer": "rmsprop"},
        {"optimizer": "adam"},
        {"optimizer": "rmsprop:alpha=0.99,like=keras"},
        {"optimizer": "rmsprop:like=keras,momentum=0.9"},
        {"lr": 0.01},
        {"schedule": "cosine"},
        {"dropout": 0.1},
        {"weight_decay": 0.1},
        {"loss": "focal"},
        {"class_weight": "balanced"},
    ],
)
def test_published_cells_do_not_stand_beside_anything_else(changed):
    settings = Settings(**{"optimizer": "rmsprop:like=keras", "lr": 0.001, **changed})
    assert published(fashion(), "mlp:256", settings, "accuracy") == {}
    same = Settings(optimizer="rmsprop:like=keras", lr=0.001)
    assert published(fashion(), "mlp:128", same, "accuracy") == {}
    assert published(fashion(), "mlp:256", same, "f1") == {}
    assert published(fashion(2.0), "mlp:256", same, "accuracy") == {}
    assert published(dataclasses.replace(fashion(), name="mine"), "mlp:256", same, "accuracy") == {}


# ---- what is asked


def test_what_is_asked_twice_is_run_once_and_that_is_said():
    plan = plan_of(batch_sizes=[16, "full", 16, 128], epochs=[4, 2, 4], seeds=[1, 1, 2])
    assert (plan.batch_sizes, plan.epochs, plan.seeds) == ((16, "full"), (2, 4), (1, 2))
    assert list(plan.notes) == [
        "batch size 16 was asked for more than once and is run once",
        "batch size 128 is the full batch and is run once",
        "number of epochs 4 was asked for more than once and is run once",
        "seed 1 was asked for more than once and is run once",
    ]


def test_a_plan_comes_back_from_json():
    plan = plan_of(seeds=[3, 4], batch_sizes=[16, 16, "full"])
    assert TablePlan.from_json(plan.to_json()) == plan
    with pytest.raises(FalllineError, match="damaged"):
        TablePlan.from_json({"batch_sizes": [1]})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"batch_sizes": []}, "at least one batch size"),
        ({"batch_sizes": [0]}, "batch_size is a whole number >= 1"),
        ({"batch_sizes": [129]}, "batch_size <= 128"),
        ({"batch_sizes": ["half"]}, "batch_size is a whole number"),
        ({"epochs": []}, "at least one number of epochs"),
        ({"epochs": [0]}, "epochs >= 1"),
        ({"epochs": [2.5]}, "epochs >= 1"),
        ({"seeds": 0}, "at least one seed"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [1.5]}, "whole number"),
        ({"settings": dataclasses.replace(PLAIN, lr="auto")}, "lr is a number"),
        ({"settings": dataclasses.replace(PLAIN, patience=2)}, "all its epochs"),
    ],
)
def test_wrong_use_is_told_in_one_sentence(changed, words):
    with pytest.raises(FalllineError, match=words) as told:
        plan_of(**changed)
    assert "\n" not in str(told.value)


def test_the_call_that_repeats_it_can_be_run(data):
    text = python_call("mlp:8", {"source": "iris", "validation": 0.0, "scale": "minmax", "folder": None}, plan_of(seeds=2))
    scope: dict = {}
    exec(f"{text.removesuffix(')')}    quiet=True,\n)", scope)
    assert values(scope["table"]) == values(fill(data, plan_of(seeds=2)))
