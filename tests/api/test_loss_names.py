"""Every loss by its name: it trains on data of its kind and learns, or is refused with advice; what it learnt is kept."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_iris

import fallline as fl
from fallline._core.errors import FalllineError, FalllineWarning
from fallline.losses import LOSSES
from fallline.training.reading import Border, ClassMeans, rows_to_learn
from fallline.training.trained import own_state, state
from tests.training.toy_losses import Spread, Vectors
from tests.training.toys import net, toy

SETS = {"multiclass": "iris", "binary": "breast_cancer", "regression": "diabetes"}
TRAINED = [(name, task) for name, cls in LOSSES.items() for task in SETS if task in cls.tasks]
EMBEDDED = [name for name, cls in LOSSES.items() if cls.output == "embedding" and cls.tasks]
WITH_PARAMETERS = [name for name in ("arc_face", "cos_face") if name in LOSSES]
ENOUGH = {"multiclass": ("accuracy", 0.8), "binary": ("accuracy", 0.85), "regression": ("r2", 0.25)}


@pytest.fixture(scope="module")
def rows():
    return {task: fl.data.load(name, seed=0) for task, name in SETS.items()}


def quick(loss, data, **settings):
    return fl.fit("mlp:32", data, loss=loss, quiet=True, **{"lr": 0.02, "epochs": 8, **settings})


@pytest.mark.parametrize(("name", "task"), TRAINED)
def test_every_loss_trains_by_name_and_learns(name, task, rows):
    signed = LOSSES[name].target_kind == "signed"
    run = (
        fl.fit("linear", rows[task], loss=name, lr=0.1, epochs=30, quiet=True)
        if task == "regression"
        else quick(name, rows[task], signed_labels=signed, epochs=12)
    )
    assert run.status == "finished"
    key, least = ENOUGH[task]
    for split in ("train", "test"):
        assert run.metrics[split][key] > least
        assert all(map(math.isfinite, run.metrics[split].values()))
    assert run.history["train/loss"][-1] < run.history["train/loss"][0]
    assert math.isfinite(run.history[f"train/{key}"][-1])
    seen = run.predict(rows[task].test.x)
    assert len(seen) == len(rows[task].test)
    if seen.probability is not None:
        assert np.allclose(seen.probability.sum(1), 1)


@pytest.mark.parametrize("name", [name for name, cls in LOSSES.items() if not cls.tasks])
def test_a_loss_that_fit_cannot_serve_says_what_it_needs(name, rows):
    with pytest.raises(FalllineError, match=f"the loss {name} needs .+; use cross_entropy"):
        quick(name, rows["multiclass"])


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_width_of_the_embedding_is_a_setting_and_said(name, rows):
    run = quick(name, rows["multiclass"], epochs=1, embedding=5)
    assert run.goal.outputs == 5
    assert any("embedding of 5 numbers" in line for line in run.choices)
    assert run.predict(rows["multiclass"].test.x[:3]).probability.shape == (3, 3)


def parts(run):
    return state(run.model, run.goal.loss) | run.goal.reading_state()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", EMBEDDED)
def test_interrupted_resumed_and_loaded_are_the_same_bit_for_bit(name, rows, tmp_path):
    data, settings = rows["multiclass"], {"epochs": 3, "batch_size": 16, "schedule": "cosine"}
    left = quick(name, data, **settings)
    count = iter(range(1, 1000))
    cut = quick(name, data, out=tmp_path / "run", stop=lambda: next(count) == 9, **settings)
    assert cut.status == "interrupted"
    on = fl.resume(tmp_path / "run", data=data, quiet=True)
    assert equal(parts(on), parts(left))
    assert on.metrics == left.metrics
    for key in left.history:
        if "second" not in key:
            assert left.history[key].tolist() == on.history[key].tolist()
    loaded = fl.load_run(tmp_path / "run")
    assert equal(parts(loaded), parts(left))
    assert np.array_equal(loaded.predict(data.test.x).probability, left.predict_ready(data.test.x).probability)


@pytest.mark.parametrize("loss", ["pairwise_auc"])
def test_a_border_is_kept_with_the_run(loss, rows, tmp_path):
    run = quick(loss, rows["binary"], epochs=2, out=tmp_path / "run")
    loaded = fl.load_run(tmp_path / "run")
    assert isinstance(loaded.goal.reading, Border)
    assert float(loaded.goal.reading.border) == float(run.goal.reading.border) != 0
    assert loaded.predict(rows["binary"].test.x).label.tolist() == run.predict(rows["binary"].test.x).label.tolist()


@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_class_vectors_are_trained_clipped_and_averaged_with_the_weights(name, rows):
    run = quick(name, rows["multiclass"], optimizer="sgd+ema:decay=0.5", clip_norm=1.0, lr=0.05, epochs=3)
    fresh = quick(name, rows["multiclass"], optimizer="sgd", lr=1e-12, epochs=1)
    assert run.goal.loss.weight.shape == (3, 64)
    assert not torch.allclose(run.goal.loss.weight, fresh.goal.loss.weight, atol=1e-3)
    assert own_state(run.goal.loss).keys() == {"loss/weight"}


def test_the_users_generators_are_left_alone(rows):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    quick(WITH_PARAMETERS[0], rows["multiclass"], epochs=1)
    first = quick("triplet:mining=distance_weighted", rows["multiclass"], epochs=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert quick("triplet:mining=distance_weighted", rows["multiclass"], epochs=1).metrics == first.metrics


def test_options_and_widths_written_in_the_spec(rows):
    run = quick("arc_face:dim=6,margin=0.2", rows["multiclass"], epochs=1)
    assert run.goal.outputs == 6
    assert run.goal.loss.margin == 0.2
    with pytest.raises(FalllineError, match="there is no option of triplet 'margn'; did you mean 'margin'"):
        quick("triplet:margn=1", "a file that is not read")
    with pytest.raises(FalllineError, match=r"heads, .* fl\.losses\.MultiTask"):
        quick("multi_task", "a file that is not read")
    with pytest.raises(FalllineError, match="linear_cross_entropy needs the features"):
        quick("linear_cross_entropy", rows["multiclass"])


@pytest.mark.parametrize("optimizer", ["sgd", "torch"])
def test_find_lr_leaves_the_parameters_of_a_loss_alone(optimizer, monkeypatch):
    walked = []

    def few_steps(begin, **_):
        walk = begin(0)
        walked.extend([walk.measure(), *(walk.step(0.1) for _ in range(4)), walk.measure()])
        return walked

    monkeypatch.setattr("fallline.study.lr.range_test", few_steps)
    data, loss, model = toy(rows=120), Vectors(classes=3, dim=3), net()
    before = {name: t.clone() for name, t in state(model, loss).items()}
    batches = [(data.train.x[i : i + 20], data.train.y[i : i + 20]) for i in range(0, 80, 20)]
    own = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
    fl.find_lr(model, data if optimizer == "sgd" else batches, loss, "sgd" if optimizer == "sgd" else own)
    assert walked[-1] < walked[0]
    assert equal(before, state(model, loss))
    assert all(p.grad is None for p in [*model.parameters(), *loss.parameters()])


def test_members_of_a_study_begin_with_the_same_class_vectors():
    data, loss = toy(), Vectors(classes=3, dim=3)
    before = loss.weight.detach().clone()
    made = [fl.compare(net, data, ["sgd"], lrs=0.1, seeds=[0], epochs=2, loss=loss, quiet=True) for _ in range(2)]
    assert torch.equal(before, loss.weight)
    assert made[0].table[0]["values"] == made[1].table[0]["values"]


@pytest.mark.parametrize("name", [name for name in ("triplet", "arc_face") if name in LOSSES])
def test_compare_ranks_runs_of_an_embedding_loss(name, rows):
    study = fl.compare("mlp:16", rows["multiclass"], ["sgd", "adam"], lrs=0.05, seeds=2, epochs=6, loss=name, embedding=8, quiet=True)
    assert study.status == "finished"
    assert study.best["mean"] > 0.75
    assert study.best["diverged"] == 0


def test_a_given_module_may_have_a_width_of_its_own():
    model = net(outputs=7)
    run = fl.fit(model, toy(), loss=Spread(), lr=0.02, epochs=10, quiet=True)
    assert run.goal.outputs == run.settings.embedding == 7
    assert run.metrics["test"]["accuracy"] > 0.6
    with pytest.raises(FalllineError, match="make its last layer 5 wide, or give its own width as embedding="):
        fl.fit(net(outputs=7), toy(), loss=Spread(), embedding=5, quiet=True)
    with pytest.raises(FalllineError, match="embedding is left out for the loss mse"):
        fl.fit("linear", "diabetes", loss="mse", embedding=5, quiet=True)


def test_a_batch_in_which_classes_never_meet_brings_a_warning():
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    data = dataclasses.replace(toy(rows=400), classes=tuple(map(str, range(200))), raw_labels=tuple(range(200)))
    split = type(data.train)(x, torch.arange(400) % 200)
    data = dataclasses.replace(data, train=split, validation=split, test=split, input_shape=(4,))
    with pytest.warns(FalllineWarning, match=r"meets 0\.16 others of its class on average.* batch size of 401"):
        fl.fit("linear", data, loss=Spread(), lr=0.01, epochs=1, quiet=True)


def test_class_means_are_the_means_of_the_training_rows(rows):
    data = rows["multiclass"]
    run = fl.fit("mlp:8", data, loss=Spread(), embedding=4, lr=0.01, epochs=2, quiet=True)
    with torch.no_grad():
        z, new = run.model(data.train.x).double(), run.model(data.test.x).double()
    means = torch.stack([z[data.train.y == c].mean(0) for c in range(3)])
    assert torch.allclose(run.goal.reading.means, means, atol=1e-12)
    wanted = torch.softmax(-torch.cdist(new, means).square(), 1)
    assert np.allclose(run.predict(data.test.x).probability, wanted.numpy(), atol=1e-9)


def test_a_cosine_reading_looks_at_directions_only():
    reading = ClassMeans(2, 2, cosine=True)
    reading.learn(torch.tensor([[9.0, 0.0], [0.1, 0.0], [0.0, 3.0]]), torch.tensor([0, 0, 1]))
    assert torch.equal(reading.means, torch.eye(2).double())
    a, b = reading(torch.tensor([[2.0, 1.0], [200.0, 100.0]]))
    assert torch.allclose(a, b)
    assert a[0] > a[1]


def test_a_class_without_training_rows_is_never_predicted():
    reading = ClassMeans(3, 1, cosine=False)
    reading.learn(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 2]))
    seen = reading(torch.tensor([[0.4], [5.0]]))
    assert seen[:, 1].tolist() == [0, 0]
    assert seen.argmax(1).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("scores", "second", "right"),
    [
        ([0, 1, 2, 3], [0, 0, 1, 1], 4),
        ([0, 1, 2, 3], [0, 1, 0, 1], 3),
        ([1, 1, 1, 2], [0, 0, 1, 1], 3),
        ([5, 6], [1, 1], 2),
        ([5, 6], [0, 0], 2),
    ],
)
def test_the_border_is_right_as_often_as_any(scores, second, right):
    reading = Border()
    reading.learn(torch.tensor(scores).float(), torch.tensor(second))
    above = reading(torch.tensor(scores).float()) > 0
    assert int((above.long() == torch.tensor(second)).sum()) == right


def test_rows_to_learn_miss_no_class():
    y = torch.zeros(20_000, dtype=torch.int64)
    y[7], y[19_998] = 3, 1
    chosen = rows_to_learn(y)
    assert len(chosen) <= 4098
    assert set(y[chosen].tolist()) == {0, 1, 3}


@pytest.mark.parametrize("name", [*[n for n in ("triplet", "arc_face", "pairwise_auc", "coral") if n in LOSSES]])
def test_the_classifier_takes_them(name):
    binary = LOSSES[name].tasks == {"binary"}
    x, y = (load_breast_cancer if binary else load_iris)(return_X_y=True)
    names = np.array(["a", "b", "c"])[y]
    model = fl.Classifier("mlp:16", loss=name, lr=0.02, epochs=15, random_state=0).fit(x, names)
    assert model.score(x, names) > 0.9
    scores = model.decision_function(x[:5])
    if not hasattr(model, "predict_proba"):
        assert binary
        assert scores.shape == (5,)
        assert np.array_equal(model.predict(x[:5]), np.where(scores > 0, "b", "a"))
        return
    seen = model.predict_proba(x[:5])
    assert seen.shape == (5, 3)
    assert np.allclose(seen.sum(1), 1)
    assert np.array_equal(model.predict(x[:5]), model.classes_[seen.argmax(1)])
