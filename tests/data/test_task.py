"""The task is right on real cases, and what cannot be learnt is refused in one sentence."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from fallline import data
from fallline._core.errors import FalllineError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 3))
CYCLE = np.arange(120) % 3


@pytest.mark.parametrize(
    ("y", "task", "raw"),
    [
        (np.arange(120) % 2, "binary", (0, 1)),
        (np.where(np.arange(120) % 2, 1, -1), "binary", (-1, 1)),
        ((np.arange(120) % 2).astype(float), "binary", (0, 1)),
        (np.arange(120) % 2 == 0, "binary", (False, True)),
        (np.array(["yes", "no"] * 60), "binary", ("no", "yes")),
        (CYCLE, "multiclass", (0, 1, 2)),
        (CYCLE.astype(np.float32), "multiclass", (0, 1, 2)),
        (np.array(["a", "b", "c"])[CYCLE], "multiclass", ("a", "b", "c")),
        (np.array(["a", "b", "c"], dtype=object)[CYCLE], "multiclass", ("a", "b", "c")),
        (CYCLE * 10, "multiclass", (0, 10, 20)),
        (np.arange(120), "regression", ()),
        (RNG.integers(25, 346, 120), "regression", ()),
        (CYCLE * 0.5, "regression", ()),
        (RNG.normal(size=120), "regression", ()),
    ],
)
def test_task_and_labels(y, task, raw):
    found = data.load((X, y))
    assert (found.task, found.raw_labels) == (task, raw)
    assert found.classes == tuple(map(str, raw))


@pytest.mark.parametrize("kind", [list, np.asarray, pd.Series, pl.Series])
def test_labels_stay_with_their_rows(kind):
    words = np.array(["cold", "hot"])[(X[:, 0] > 0).astype(int)]
    found = data.load((X, kind(words.tolist())), scale="none")
    for split in (found.train, found.validation, found.test):
        assert ((split.x[:, 0] > 0).long() == split.y).all()


def test_many_balanced_classes_are_classes_and_a_skewed_count_is_a_number():
    y = np.arange(3000) % 47
    assert data.load((RNG.normal(size=(3000, 2)), y)).task == "multiclass"
    counts = np.concatenate([np.arange(40), RNG.poisson(3, 2960)])
    assert data.load((RNG.normal(size=(3000, 2)), counts)).task == "regression"


def test_the_task_can_be_overridden():
    assert data.load((X, CYCLE), task="regression").train.y.dtype.is_floating_point
    assert data.load((X, np.arange(120) % 2), task="multiclass").task == "multiclass"


def nan_at(row, value=np.nan):
    y = RNG.normal(size=120)
    y[row] = value
    return y


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (nan_at(7), {}, r"missing .* in 1 of 120 rows, the first is row 7"),
        (nan_at(9, np.inf), {}, r"infinite in 1 of 120 rows, the first is row 9"),
        ([None, *["a", "b"] * 59, "a"], {}, "the first is row 0"),
        (np.ones(120), {}, "constant"),
        (np.full(120, np.nan), {}, "missing in all 120 rows"),
        ([f"name {i}" for i in range(120)], {}, r"120 classes in 120 rows.*identifier"),
        (np.array(["a", "b", "c"])[CYCLE], {"task": "regression"}, "needs a target of numbers"),
        (CYCLE, {"task": "binary"}, r"needs 2 classes, but 'y' holds 3"),
        (RNG.normal(size=120), {"task": "multiclass"}, "holds fractions"),
        (CYCLE, {"task": "clasification"}, "no task 'clasification'"),
        (CYCLE[:50], {}, "X has 120 and y has 50"),
        (np.eye(3)[CYCLE], {}, r"shape \(120, 3\)"),
    ],
)
def test_refusals(y, options, message):
    with pytest.raises(FalllineError, match=message):
        data.load((X, y), **options)


def test_blanks_beside_a_label_make_no_class_of_their_own(tmp_path):
    """The columns are read without them, so the labels are too; a label of blanks alone is missing."""
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{i % 7},{('yes', 'yes ', ' no', 'no')[i % 4]}\n" for i in range(40)))
    loaded = data.load(tmp_path / "t.csv", "y")
    assert (loaded.task, loaded.classes) == ("binary", ("no", "yes"))
    assert data.read(tmp_path / "t.csv", loaded.pipeline)[1][:4].tolist() == [1, 1, 0, 0]
    with pytest.raises(FalllineError, match=r"missing .* in 1 of 3 rows"):
        data.load((X[:3], np.array(["a", " ", "b"])))


def test_one_row_and_no_row_are_refused():
    for rows in (0, 1):
        with pytest.raises(FalllineError, match=f"{rows} row"):
            data.load((X[:rows], CYCLE[:rows]))


def test_a_class_with_one_row_is_noted_and_trained_on():
    y = np.array(["common", "other"] * 60)
    y[5] = "rare"
    found = data.load((X, y))
    assert any("single row" in note and "rare" in note for note in found.notes)
    assert (found.train.y == found.classes.index("rare")).sum() == 1
