"""Metrics equal scikit-learn's; what is not defined is NaN."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from fallline.training import Goal, Scale, Settings, aim
from fallline.training.metrics import compute, labels
from tests.training.toys import toy


def goal_for(task, loss="auto", **settings):
    return aim(toy(task), Settings(loss=loss, **settings))


def test_multiclass_equals_scikit_learn():
    g = torch.Generator().manual_seed(1)
    goal = goal_for("multiclass")
    raw, y = torch.randn(300, 3, generator=g), torch.randint(0, 3, (300,), generator=g)
    found = compute(goal, raw, y)
    called, p = raw.argmax(1).numpy(), torch.softmax(raw.double(), 1).numpy()
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, called), abs=1e-6)
    assert found["precision"] == pytest.approx(sk.precision_score(y, called, average="macro"), abs=1e-6)
    assert found["recall"] == pytest.approx(sk.recall_score(y, called, average="macro"), abs=1e-6)
    assert found["f1"] == pytest.approx(sk.f1_score(y, called, average="macro"), abs=1e-6)
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr", average="macro"), abs=1e-6)


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "hinge", "squared_hinge"])
def test_binary_equals_scikit_learn(loss):
    g = torch.Generator().manual_seed(2)
    goal = goal_for("binary", loss, signed_labels=True) if "hinge" in loss else goal_for("binary", loss)
    raw, y = 3 * torch.randn(300, goal.outputs, generator=g), torch.randint(0, 2, (300,), generator=g)
    score = raw[:, 0].double()
    called = (score > 0).long()
    found = compute(goal, raw, y)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, called), abs=1e-6)
    assert found["precision"] == pytest.approx(sk.precision_score(y, called), abs=1e-6)
    assert found["recall"] == pytest.approx(sk.recall_score(y, called), abs=1e-6)
    assert found["f1"] == pytest.approx(sk.f1_score(y, called), abs=1e-6)
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(y, score), abs=1e-6)


def test_the_auc_of_large_scores_is_not_blurred():
    goal = goal_for("binary", "hinge", signed_labels=True)
    raw, y = torch.tensor([[1000.0], [1001.0], [1002.0], [1003.0]]), torch.tensor([0, 1, 0, 1])
    assert compute(goal, raw, y)["roc_auc"] == pytest.approx(sk.roc_auc_score(y, raw[:, 0]))


def test_regression_equals_scikit_learn_in_the_targets_units():
    data = toy("regression")
    goal = aim(data, Settings())
    assert goal.scale is not None
    assert goal.scale.std == pytest.approx(float(data.train.y.double().std(correction=0)))
    y = data.test.y
    z = (y - goal.scale.mean) / goal.scale.std + 0.1 * torch.sin(torch.arange(len(y)))
    seen = z.double().numpy() * goal.scale.std + goal.scale.mean
    found = compute(goal, z[:, None], y)
    assert found["r2"] == pytest.approx(sk.r2_score(y, seen), abs=1e-5)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, seen), rel=1e-4)
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(y, seen), rel=1e-4)
    assert found["mae"] > 0.3


def test_undefined_is_nan_and_empty_is_empty():
    goal = goal_for("multiclass")
    assert math.isnan(compute(goal, torch.randn(5, 3), torch.zeros(5, dtype=torch.long))["roc_auc"])
    assert all(math.isnan(v) for v in compute(goal, torch.full((5, 3), torch.nan), torch.arange(5) % 3).values())
    assert math.isnan(compute(goal_for("regression"), torch.randn(4, 1), torch.full((4,), 100.0))["r2"])
    assert compute(goal, torch.empty(0, 3), torch.empty(0, dtype=torch.long)) == {}


def test_auc_rows_takes_the_last_rows():
    goal = goal_for("binary")
    raw, y = torch.tensor([[-9.0], [9.0], [1.0], [2.0]]), torch.tensor([1, 0, 0, 1])
    assert compute(goal, raw, y, auc_rows=2)["roc_auc"] == 1.0
    assert compute(goal, raw, y)["roc_auc"] == 0.25


def test_a_class_without_rows_leaves_the_auc_of_the_others():
    y = torch.tensor([0, 1, 1, 0])
    right = torch.nn.functional.one_hot(y, 3).float() * 8
    assert compute(goal_for("multiclass"), right, y)["roc_auc"] == 1.0


def test_labels_of_a_score_turn_at_zero_and_of_a_probability_at_a_half():
    seen = torch.tensor([-0.1, 0.2, 0.6])
    assert labels(goal_for("binary", "hinge", signed_labels=True), seen).tolist() == [0, 1, 1]
    assert labels(goal_for("binary"), seen).tolist() == [0, 0, 1]


def test_scale_goes_there_and_back():
    y = torch.tensor([1e6, 1e6 + 1, 1e6 + 2])
    scale = Scale(1e6 + 1, 0.8164965809)
    np.testing.assert_allclose(scale.restore(scale.apply(y)), y, rtol=1e-7)
    assert scale.apply(y).tolist() == pytest.approx([-1.2247, 0, 1.2247], abs=1e-4)


def test_goal_reads_target_forms():
    assert goal_for("binary", "hinge", signed_labels=True).targets(torch.tensor([0, 1])).tolist() == [-1, 1]
    assert isinstance(goal_for("binary"), Goal)
    assert goal_for("binary").targets(torch.tensor([0, 1])).dtype == torch.float32
    assert goal_for("regression", "poisson_nll").scale is None
