"""Metrics of many members at once equal torchmetrics' of each, and scikit-learn's areas, whatever the ties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torchmetrics.functional import classification as tm

from fallline.training import Settings, aim
from fallline.training.areas import areas
from fallline.training.metrics import Tally, compute, compute_each, labels
from tests.training.toys import toy

TASKS = {
    "multiclass": aim(toy(), Settings()),
    "ordinal": aim(toy(), Settings(loss="coral")),
    "binary": aim(toy("binary"), Settings()),
    "score": aim(toy("binary"), Settings(loss="hinge", signed_labels=True)),
    "regression": aim(toy("regression"), Settings()),
}
CLASSES = [name for name in TASKS if name != "regression"]


def area(score, y):
    return sk.roc_auc_score(y, score)


def oracle(goal, raw, y):
    """torchmetrics' values of one member (areas by scikit-learn), the means over the classes that occur."""
    seen = goal.predict(raw)
    called, many = labels(goal, seen), len(set(y.tolist())) > 1
    if goal.task == "binary":
        score = seen[:, 1] if seen.ndim == 2 else seen
        kinds = (tm.binary_accuracy, tm.binary_precision, tm.binary_recall, tm.binary_f1_score)
        found = [float(kind(called, y)) for kind in kinds]
        return [*found, area(score, y) if many else math.nan]
    count = len(goal.classes)
    found = [
        float(tm.multiclass_accuracy(called, y, count, average="micro")),
        float(tm.multiclass_precision(called, y, count, average="macro")),
        float(tm.multiclass_recall(called, y, count, average="macro")),
        float(tm.multiclass_f1_score(called, y, count, average="macro")),
    ]
    each = [area(seen[:, c], (y == c).long()) for c in set(y.tolist())] if many else [math.nan]
    return [*found, float(np.mean(each))]


@st.composite
def drawn(draw, name):
    """Outputs on a coarse grid, so that there are ties; labels of which classes may be absent; perhaps a member that is lost."""
    goal = TASKS[name]
    members, rows = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    seed = draw(st.integers(0, 2**31))
    g = torch.Generator().manual_seed(seed)
    raw = torch.randint(-3, 4, (members, rows, goal.outputs), generator=g).float() * draw(st.sampled_from([0.25, 1.0, 1000.0]))
    classes = draw(st.lists(st.integers(0, max(len(goal.classes) - 1, 1)), min_size=1, max_size=3))
    own = draw(st.booleans())
    y = torch.tensor(classes)[torch.randint(0, len(classes), (members, rows) if own else (rows,), generator=g)]
    lost = draw(st.none() | st.tuples(st.integers(0, members - 1), st.sampled_from([math.nan, math.inf, -math.inf])))
    if lost is not None:
        raw[lost[0], -1, 0] = lost[1]
    return raw, y, None if lost is None else lost[0]


@pytest.mark.parametrize("name", CLASSES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_classes_equal_torchmetrics(name, data):
    goal = TASKS[name]
    raw, y, lost = data.draw(drawn(name))
    found = compute_each(goal, raw, y)
    for member, each in enumerate(found):
        mine = y if y.ndim == 1 else y[member]
        if member == lost:
            assert all(math.isnan(value) for value in each.values())
        else:
            assert list(each.values()) == pytest.approx(oracle(goal, raw[member], mine), abs=1e-6, nan_ok=True)
        assert compute(goal, raw[member], mine) == pytest.approx(each, abs=1e-12, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_numbers_equal_scikit_learn(data):
    goal = TASKS["regression"]
    raw, y, lost = data.draw(drawn("regression"))
    y = y.float() * 5 + 100
    for member, each in enumerate(compute_each(goal, raw, y)):
        mine = y if y.ndim == 1 else y[member]
        if member == lost:
            assert all(math.isnan(value) for value in each.values())
            continue
        seen = goal.predict(raw[member]).reshape(-1).double()
        constant = len(set(mine.tolist())) == 1
        expected = [
            math.nan if constant else sk.r2_score(mine, seen),
            sk.mean_absolute_error(mine, seen),
            sk.root_mean_squared_error(mine, seen),
        ]
        assert list(each.values()) == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True)


def test_r2_of_small_numbers_is_what_the_formula_says():
    """torchmetrics takes sums of squares below 1e-4 for 0, and gives 1 or 0."""
    tally = Tally(TASKS["regression"], 1, 4)
    y = torch.tensor([[1e-3, 2e-3, 3e-3, 4e-3]], dtype=torch.float64)
    tally.seen = 4
    tally._regression(y + torch.tensor([[1e-3, -1e-3, 1e-3, -1e-3]]).double(), y)
    assert float(tally.columns()["r2"]) == pytest.approx(1 - 4 / 5, abs=1e-6)


@pytest.mark.parametrize("name", list(TASKS))
@pytest.mark.parametrize("auc_rows", [None, 25, 40, 1])
def test_pieces_add_up_to_the_whole(name, auc_rows):
    goal = TASKS[name]
    g = torch.Generator().manual_seed(3)
    raw, y = torch.randn(5, 100, goal.outputs, generator=g), torch.randint(0, 2, (5, 100), generator=g)
    y = y.float() + 99 if goal.task == "regression" else y
    tally = Tally(goal, 5, 100, auc_rows)
    for rows in torch.arange(100).split(33):
        tally.add(raw[:, rows], y[:, rows])
    whole = compute_each(goal, raw, y, auc_rows=auc_rows)
    for one, other in zip(tally.metrics(), whole, strict=True):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-9, nan_ok=True)
    if auc_rows is not None and goal.task != "regression":
        last = [compute(goal, raw[i, -auc_rows:], y[i, -auc_rows:])["roc_auc"] for i in range(5)]
        assert [each["roc_auc"] for each in whole] == pytest.approx(last, abs=1e-6, nan_ok=True)


def test_members_that_leave_take_their_counts_along():
    goal = TASKS["multiclass"]
    g = torch.Generator().manual_seed(4)
    raw, y = torch.randn(4, 60, 3, generator=g), torch.randint(0, 3, (4, 60), generator=g)
    raw[1, 3, 0] = math.nan
    tally = Tally(goal, 4, 60)
    tally.add(raw[:, :30], y[:, :30])
    kept = torch.tensor([1, 3])
    tally.take(kept)
    tally.add(raw[kept, 30:], y[kept, 30:])
    assert tally.metrics()[1] == pytest.approx(compute(goal, raw[3], y[3]))
    assert math.isnan(tally.metrics()[0]["accuracy"])


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(2, 40),
    seed=st.integers(0, 2**31),
    grid=st.integers(1, 30),
    negative=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_areas_equal_scikit_learn_exactly(rows, seed, grid, negative, dtype):
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, grid, (2, 3, rows), generator=g).to(dtype) * 0.37
    scores = scores * torch.where(torch.rand(scores.shape, generator=g) < 0.5, -1, 1) if negative else scores
    y = torch.randint(0, 4, (2, rows), generator=g)  # class 3 has no scores
    found = areas(scores, y)
    for r in range(2):
        for c in range(3):
            mine = (y[r] == c).long()
            if 0 < int(mine.sum()) < rows:
                assert float(found[r, c]) == pytest.approx(area(scores[r, c], mine), abs=1e-12)
            else:
                assert math.isnan(float(found[r, c]))


def test_areas_of_more_rows_than_sixteen_bits_count():
    g = torch.Generator().manual_seed(1)
    scores, y = torch.rand(1, 1, 70_000, generator=g), torch.randint(0, 2, (1, 70_000), generator=g)
    assert float(areas(scores, y)) == pytest.approx(area(scores[0, 0], (y[0] == 0).long()), abs=1e-12)
