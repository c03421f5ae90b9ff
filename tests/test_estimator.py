"""The estimators inside scikit-learn: its own checks, and what they do not look at."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fallline import Classifier, FalllineError, Regressor

DOES_NOT_APPLY: dict[str, str] = {}  # every check applies


@pytest.mark.filterwarnings("default")  # scikit-learn's checks raise warnings of their own
@parametrize_with_checks(
    [Classifier(), Regressor()],
    expected_failed_checks=lambda estimator: DOES_NOT_APPLY,
)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@parametrize_with_checks(
    [Classifier("linear", loss="hinge", lr=0.01), Regressor(patience=5)],
    expected_failed_checks=lambda estimator: (
        {"check_class_weight_classifiers": "the hinge loss takes no class weights"} if isinstance(estimator, Classifier) else {}
    ),
)
def test_scikit_learn_check_of_other_ways(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


def test_accuracy_on_rows_never_seen():
    X, y = load_breast_cancer(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)
    assert Classifier(random_state=0).fit(X_train, y_train).score(X_test, y_test) > 0.94


def test_r2_on_rows_never_seen():
    X, y = load_diabetes(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    assert Regressor("linear", lr=0.01, random_state=0).fit(X_train, y_train).score(X_test, y_test) > 0.3


@pytest.mark.parametrize("labels", [np.array(["b", "a", "c"]), np.array([5, -3, 100]), np.array([2.0, 1.0, 3.0])])
def test_labels_of_any_kind(iris, labels):
    X, y = iris
    model = Classifier("linear", lr=0.05, epochs=30, random_state=0).fit(X, labels[y])
    assert list(model.classes_) == sorted(labels)
    assert model.score(X, labels[y]) > 0.8
    assert np.allclose(model.predict_proba(X).sum(axis=1), 1)
    assert (model.classes_[model.predict_proba(X).argmax(axis=1)] == model.predict(X)).all()


def test_same_random_state_same_bits_and_another_differs(iris):
    X, y = iris
    first, second, other = (Classifier(epochs=2, random_state=seed).fit(X, y).predict_proba(X) for seed in (3, 3, 4))
    assert (first == second).all()
    assert (first != other).any()


def test_pickle_and_clone(iris):
    X, y = iris
    model = Classifier(epochs=2, random_state=0).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict_proba(X) == model.predict_proba(X)).all()
    bare = clone(model)
    assert bare.get_params() == model.get_params()
    assert not hasattr(bare, "classes_")


def test_the_answer_for_a_row_does_not_depend_on_its_neighbours(iris):
    X, y = iris
    model = Classifier(epochs=2, random_state=0).fit(X, y)
    one_by_one = np.concatenate([model.predict_proba(X[i : i + 1]) for i in range(len(X))])
    assert np.abs(one_by_one - model.predict_proba(X)).max() < 1e-12


def test_inside_pipeline_grid_and_cross_validation(iris):
    X, y = iris
    flow = make_pipeline(StandardScaler(), Classifier("mlp:8", lr=0.02, epochs=10, random_state=0))
    assert cross_val_score(flow, X, y, cv=3).mean() > 0.8
    search = GridSearchCV(Classifier("linear", epochs=10, random_state=0), {"lr": [1e-6, 0.05]}, cv=2).fit(X, y)
    assert search.best_params_ == {"lr": 0.05}


def test_nothing_is_printed_or_written(iris, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Classifier(epochs=2, random_state=0).fit(*iris)
    assert list(Path(tmp_path).iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_patience_stops_early_and_keeps_the_best(iris):
    X, y = iris
    model = Classifier(lr=0.05, epochs=300, patience=3, random_state=0).fit(X, y)
    assert model.n_iter_ < 300
    assert len(model.history_["validation/loss"]) == model.n_iter_
    assert Classifier(lr=0.05, epochs=7, random_state=0).fit(X, y).n_iter_ == 7


def test_patience_holds_back_the_share_that_it_says(iris):
    X, y = iris
    with pytest.raises(FalllineError, match="validation_fraction"):
        Classifier(patience=3, validation_fraction=1.5).fit(X, y)


def test_class_weight_moves_the_boundary():
    draw = np.random.default_rng(0)
    y = (draw.random(400) < 0.1).astype(int)
    X = draw.normal(size=(400, 2)) + y[:, None] * 0.7
    plain = Classifier("linear", lr=0.01, random_state=0).fit(X, y).predict(X).mean()
    balanced = Classifier("linear", lr=0.01, class_weight="balanced", random_state=0).fit(X, y).predict(X).mean()
    by_label = Classifier("linear", lr=0.01, class_weight={1: 9.0}, random_state=0).fit(X, y).predict(X).mean()
    assert plain < 0.1 < balanced
    assert by_label > 0.1


def test_hinge_gives_scores_and_no_probabilities(iris):
    X, y = iris
    X, y = X[y < 2], y[y < 2]
    model = Classifier("linear", loss="hinge", lr=0.05, random_state=0)
    assert not hasattr(model, "predict_proba")
    model.fit(X, y)
    assert not hasattr(model, "predict_proba")
    assert model.score(X, y) == 1.0
    assert model.decision_function(X).shape == (100,)


@pytest.mark.parametrize("loss", ["asymmetric", "squared_hinge"])
def test_two_classes_with_other_losses(iris, loss):
    X, y = iris
    X, y = X[y > 0], y[y > 0]
    model = Classifier("linear", loss=loss, lr=0.05, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.9
    assert ((model.decision_function(X) > 0) == (model.predict(X) == 2)).all()


@pytest.mark.parametrize("loss", ["mae", "huber:delta=0.5", "quantile:q=0.9", "log_cosh", "gaussian_nll"])
def test_regression_in_the_units_of_the_target(loss):
    draw = np.random.default_rng(1)
    X = draw.normal(size=(300, 3))
    y = 1000 + 50 * X[:, 0] + draw.normal(size=300)
    seen = Regressor("linear", loss=loss, lr=0.02, epochs=100, random_state=0).fit(X, y).predict(X)
    assert np.corrcoef(seen, y)[0, 1] > 0.9
    assert abs(np.median(seen - y)) < 40


def test_counts_with_poisson():
    draw = np.random.default_rng(1)
    X = draw.normal(size=(300, 2))
    y = draw.poisson(np.exp(1 + 0.5 * X[:, 0])).astype(float)
    seen = Regressor("linear", loss="poisson_nll", lr=0.02, epochs=100, random_state=0).fit(X, y).predict(X)
    assert (seen > 0).all()
    assert abs(seen.mean() - y.mean()) < 0.5


def test_own_modules_are_copied_and_functions_called(iris):
    from torch import nn

    X, y = iris
    mine = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    before = [p.detach().clone() for p in mine.parameters()]
    assert Classifier(mine, lr=0.02, random_state=0).fit(X, y).score(X, y) > 0.9
    assert all((p == q).all() for p, q in zip(mine.parameters(), before, strict=True))
    assert Classifier(_make, lr=0.02, random_state=0).fit(X, y).score(X, y) > 0.9


def _make(input_shape, outputs):
    from torch import nn

    return nn.Linear(input_shape[0], outputs)


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_tables_with_text_and_missing_values(frame):
    draw = np.random.default_rng(0)
    town = draw.choice(["north", "south", "west"], 200)
    size = draw.normal(size=200)
    columns = {"town": town.tolist(), "size": [None if i % 10 == 0 else float(v) for i, v in enumerate(size)]}
    y = np.where((town == "north") ^ (size > 1.5), "buys", "leaves")
    model = Classifier("mlp:16", lr=0.02, random_state=0).fit(frame(columns), y)
    assert list(model.feature_names_in_) == ["town", "size"]
    assert model.n_features_in_ == 2
    assert model.score(frame(columns), y) > 0.9
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict(frame(columns)) == model.predict(frame(columns))).all()
    with pytest.raises(FalllineError, match="town"):
        model.predict(frame({"size": columns["size"]}))


def test_lr_auto_finds_one_and_tells_it(iris):
    model = Classifier("mlp:16", lr="auto", epochs=20, random_state=0).fit(*iris)
    assert 1e-4 < model.lr_ <= 1
    assert model.lr_ != Classifier("mlp:16", epochs=1).fit(*iris).lr_


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"lr": -1}, "lr > 0"),
        ({"epochs": 0}, "epochs >= 1"),
        ({"batch_size": 0}, "batch_size"),
        ({"dropout": 1.0}, "dropout"),
        ({"optimizer": "adma"}, "adam"),
        ({"loss": "mse"}, "binary_cross_entropy|cross_entropy"),
        ({"model": "mpl:3"}, "mlp"),
        ({"scale": "log"}, "zscore"),
        ({"class_weight": {7: 1.0}}, "7"),
        ({"lr": 1e30, "optimizer": "sgd"}, "diverged"),
    ],
    ids=str,
)
def test_wrong_parameters_are_refused_by_fit(iris, parameters, words):
    with pytest.raises(FalllineError, match=words):
        Classifier(**{"epochs": 2, "lr": 0.01, **parameters}).fit(*iris)


def test_a_constant_target_is_refused():
    with pytest.raises(FalllineError, match="constant"):
        Regressor().fit(np.arange(10.0).reshape(5, 2), np.ones(5))


def test_a_regressor_refuses_text_as_its_target():
    with pytest.raises(FalllineError, match=r"`y is numbers` must hold for Regressor, but got text .*Classifier"):
        Regressor("linear").fit([[1.0], [2.0]], np.array(["a", "b"]))
