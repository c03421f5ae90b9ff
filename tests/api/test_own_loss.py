"""Losses of one's own in fit, compare, find_lr and the estimators; what is said of the loss; class weights given twice."""

import numpy as np
import pytest
import torch
from torch import nn

import fallline as fl
from fallline._core.errors import FalllineError

SETS = {"regression": "diabetes", "binary": "breast_cancer", "multiclass": "iris"}


@pytest.fixture(scope="module")
def rows():
    return {task: fl.data.load(name, seed=0) for task, name in SETS.items()}


def quick(loss, data, **settings):
    return fl.fit("linear", data, loss=loss, quiet=True, **{"lr": 0.05, "epochs": 3, **settings})


class Shifted(nn.Module):
    """Cross-entropy with biases of its own."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, input, target):
        return nn.functional.cross_entropy(input + self.shift, target)


@pytest.mark.parametrize(
    ("task", "own", "name"),
    [
        ("regression", nn.HuberLoss(), "huber"),
        ("regression", lambda x, y: (x - y).abs(), "mae"),
        ("binary", nn.BCEWithLogitsLoss(), "binary_cross_entropy"),
        ("multiclass", nn.CrossEntropyLoss(), "cross_entropy"),
        ("multiclass", nn.functional.cross_entropy, "CrossEntropyLoss"),
        ("regression", fl.losses.functional.huber, "HuberLoss"),
    ],
)
def test_a_loss_of_ones_own_trains_as_the_one_by_name(task, own, name, rows):
    mine, theirs = quick(own, rows[task]), quick(name, rows[task])
    assert mine.history["train/loss"] == pytest.approx(theirs.history["train/loss"], rel=1e-5)
    assert mine.metrics["test"] == pytest.approx(theirs.metrics["test"], rel=1e-4)
    assert any(line.startswith("loss: ") and "your own" in line for line in mine.choices)


def test_parameters_of_a_module_are_trained_in_place(rows):
    loss = Shifted()
    run = quick(loss, rows["multiclass"])
    assert run.goal.loss.function is loss
    assert float(loss.shift.detach().abs().min()) > 0


def test_a_saved_run_predicts_without_the_loss_and_is_resumed_with_it(rows, tmp_path):
    data = rows["multiclass"]
    run = quick(Shifted(), data, out=tmp_path / "run")
    loaded = fl.load_run(tmp_path / "run")
    assert np.array_equal(loaded.predict(data.test.x).probability, run.predict(data.test.x).probability)
    with pytest.raises(FalllineError, match=r"Shifted was the user's own and is not kept .* load_run\(folder, loss="):
        loaded.goal.loss.quick(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(FalllineError, match=r"given a loss object \(Shifted\).*resume\(folder, loss="):
        fl.resume(tmp_path / "run", data=data, epochs=4, quiet=True)
    on = fl.resume(tmp_path / "run", data=data, loss=Shifted(), epochs=4, quiet=True)
    whole = quick(Shifted(), data, epochs=4)
    assert torch.equal(on.goal.loss.function.shift, whole.goal.loss.function.shift)


def test_a_loss_of_ones_own_in_compare_and_find_lr(rows, tmp_path):
    loss, data = Shifted(), rows["multiclass"]
    out = tmp_path / "study"
    study = fl.compare("linear", data, ["sgd"], lrs=0.1, seeds=1, epochs=1, loss=loss, out=out, quiet=True)
    assert study.status == "finished"
    assert fl.compare(resume=out, data=data, loss=loss, quiet=True).table[0]["mean"] == study.table[0]["mean"]
    with pytest.raises(FalllineError, match=r"given a loss object \(Shifted\)"):
        fl.compare(resume=out, data=data, quiet=True)
    fl.find_lr("linear", data, loss)
    assert float(loss.shift.detach().abs().max()) == 0


def test_a_loss_of_ones_own_in_the_estimators():
    x = np.random.default_rng(0).normal(size=(60, 3))
    loss = nn.HuberLoss()
    model = fl.Regressor(loss=loss, epochs=40, lr=0.05, random_state=0).fit(x, x[:, 0])
    assert model.score(x, x[:, 0]) > 0.8
    assert model.goal_.loss.function is not loss
    label = x[:, 0] > 0
    seen = fl.Classifier(loss=lambda x, y: nn.functional.softplus((1 - 2 * y) * x), epochs=40, lr=0.05, random_state=0).fit(x, label)
    assert seen.score(x, label) > 0.8
    assert seen.predict_proba(x).shape == (60, 2)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("huber:delta=2", "loss: huber:delta=2"),
        ("HuberLoss:delta=2", "loss: huber:delta=2 (given as HuberLoss:delta=2)"),
        (fl.losses.Huber(delta=2), "loss: Huber(delta=2.0)"),
    ],
)
def test_the_loss_is_among_the_choices(loss, said, rows):
    run = quick(loss, rows["regression"], epochs=1)
    assert said in run.choices
    assert run.goal.loss.delta == 2


@pytest.mark.parametrize(
    "loss", ["cross_entropy:class_weight=1/2", "focal:class_weight=1/2", fl.losses.CrossEntropy(class_weight=[1.0, 2])]
)
def test_class_weights_of_the_wrong_length_are_refused(loss, rows):
    with pytest.raises(FalllineError, match=r"class_weight has one weight a class, 3` must hold for .*, but got \(2,\)"):
        quick(loss, rows["multiclass"])


@pytest.mark.parametrize(
    ("task", "loss"), [("multiclass", "cross_entropy:class_weight=1/2/1"), ("binary", "binary_cross_entropy:class_weight=1/2")]
)
def test_class_weights_given_twice_are_refused(task, loss, rows):
    with pytest.raises(FalllineError, match=r"class_weight is given once.*leave one of them out"):
        quick(loss, rows[task], class_weight="balanced")
    assert quick(loss, rows[task], epochs=1).status == "finished"
