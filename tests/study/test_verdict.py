"""The words of a study: one sentence, then lines; how an interval and a verdict that stand side by side are to be read."""

import pytest
from tests.study.test_factors import study

from fallline import FalllineError
from fallline._core.asked import corrected, questions
from fallline._core.columns import Column, columns_text
from fallline.study.pairs import judged
from fallline.study.plan import make_plan
from fallline.study.verdict import verdict, warning_of_few
from fallline.training import Settings

WOBBLE = [0.0, 0.0003, -0.0003]


def test_the_intervals_are_said_to_be_of_a_pair_alone_and_the_verdict_of_all():
    rows = study("ab", [32, 128], draw=lambda o, b, _: [0.9 + 0.02 * (o == "a") + (b == 32) * w + w for w in WOBBLE])
    count = questions(*judged(rows))
    assert count == 6 + 2 + 2  # pairs of cells, of levels, and who leads where
    assert f"holds at 5 % over all {count} questions" in verdict(rows, "accuracy").basis
    assert "each 95 % interval is of its own mean or difference alone" in corrected(count)


def test_a_difference_beyond_the_whole_range_is_not_a_number():
    rows = study("abcd", [32, 128], draw=lambda o, b, _: [0.1 if (ord(o) + b + i) % 2 else 0.9 for i in range(3)])
    for row in rows:
        row["visible"] = 1.74
    basis = verdict(rows, "accuracy").basis
    assert "174" not in basis
    assert "nothing could be shown with these 3 seeds; take 5 or more" in basis
    for row in rows:
        row["visible"] = 0.17
    assert "from about 17 points on" in verdict(rows, "accuracy").basis


def test_few_seeds_are_warned_of_before():
    assert warning_of_few(2, 2) == "2 seeds can show only large differences; 5 or more are usual"
    assert warning_of_few(3, 12).startswith("3 seeds over 66 pairs of cells")
    assert warning_of_few(5, 100) == warning_of_few(1, 1) == ""


@pytest.mark.parametrize(("metric", "goal"), [("accuracy", 2.0), ("accuracy", -0.1), ("r2", 1.5), ("rmse", -1.0)])
def test_a_goal_outside_the_metric_is_refused(metric, goal):
    with pytest.raises(FalllineError, match="take a goal inside, or auto"):
        make_plan(["sgd"], seeds=2, metric=metric, metrics=("loss", metric), target=goal, settings=Settings(lr=1.0))


@pytest.mark.parametrize(("metric", "goal"), [("accuracy", 1.0), ("r2", -3.0), ("rmse", 0.0), ("loss", -2.0)])
def test_a_goal_inside_the_metric_is_taken(metric, goal):
    assert make_plan(["sgd"], seeds=2, metric=metric, metrics=("loss", metric), target=goal, settings=Settings(lr=1.0)).target == goal


@pytest.mark.parametrize("most", [40, 60, 80, 100, 200])
def test_columns_fit_and_lose_no_row(most):
    names = [f"a cell with a long name, number {i}" for i in range(5)]
    columns = [
        Column("cell", names, left=True),
        Column("mean", ["0.9712 [0.9701, 0.9723]"] * 5),
        Column("test", ["0.9701"] * 5, spare=1),
        Column("a note", ["something to be known of this row"] * 5, left=True, spare=2),
        Column("diverged", [""] * 5),
    ]
    lines = columns_text(columns, most)
    assert all(len(line) <= most for line in lines[:7])
    assert sum("0.9712" in line for line in lines) == 5
    assert not any("diverged" in line for line in lines)  # a column without a word is none
    spared = [c.head for c in columns if c.spare and c.head not in lines[0]]
    assert [head for head in ("test", "a note") if head in lines[-1] and lines[-1].startswith("(no room")] == spared
    assert "a note" in spared or most == 200
