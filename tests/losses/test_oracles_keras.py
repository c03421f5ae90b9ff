"""Every loss that Keras has too, on the inputs of Keras' own tests, with y_true and y_pred swapped into (input, target).

`KERAS` holds what Keras 3.15.1 gave in float64, which is also what its tests (keras/src/losses/losses_test.py) have as literals; a slow
test asks Keras itself again, on these and on further inputs. Keras averages over the last axis first and divides a weighted mean by the
number of examples: that is `normalize="count"` here.
"""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from fallline._core.errors import FalllineError
from fallline.losses import functional

SCRIPT = """
import json, sys
import numpy as np, keras
from keras.src import backend
out = {}
for name, (kind, options, y_true, y_pred, weight, mask) in json.load(sys.stdin).items():
    loss = getattr(keras.losses, kind)(dtype="float64", **options)
    y_pred = keras.ops.convert_to_tensor(np.array(y_pred, dtype="float64"))
    if mask is not None:
        backend.set_keras_mask(y_pred, keras.ops.convert_to_tensor(np.array(mask)))
    weight = None if weight is None else np.array(weight, dtype="float64")
    out[name] = keras.ops.convert_to_numpy(loss(np.array(y_true), y_pred, sample_weight=weight)).tolist()
print(json.dumps(out))
"""
FROM_LOGITS = {"from_logits": True}


def numbers(name):
    """Value by value, then the mean of each row where Keras gives rows."""

    def call(x, y, **kw):
        each = getattr(functional, name[0] if isinstance(name, tuple) else name)
        options = name[1] if isinstance(name, tuple) else {}
        value = each(x, y, **options, **kw)
        return value.mean(-1) if kw["reduction"] == "none" else value / (x.shape[-1] if kw["reduction"] == "sum" else 1)

    return call


def rows(name, **options):
    """One value a row on both sides."""
    return lambda x, y, **kw: getattr(functional, name)(x, y, **options, **kw)


def one_hot_to_index(call):
    return lambda x, y, **kw: call(x, y.argmax(-1), **kw)


def signed(call):
    """Keras maps 0/1 labels to -1/+1 by itself, if the whole batch is 0 and 1; here that is the caller's word."""
    return lambda x, y, **kw: call(x, 2 * y - 1, **kw)


def logs(call):
    """Keras takes probabilities for its cross-entropies where not told otherwise; ours takes logits, and log p is one."""
    return lambda x, y, **kw: call(x.log(), y, **kw)


A = ([[1, 9, 2], [-5, -2, 6]], [[4, 8, 12], [8, 1, 3]])
POSITIVE = ([[1, 9, 2], [0, 5, 6]], [[4, 8, 12], [8, 1, 3]])
NEAR = ([[0.9, 0.2, 0.2], [0.8, 0.4, 0.6]], [[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
COUNTS = ([[1, 9, 2], [5, 2, 6]], [[4, 8, 12], [8, 1, 3]])
PARTS = ([[0.5, 0.8, 0.12], [0.7, 0.43, 0.8]], [[0.4, 0.9, 0.12], [0.36, 0.3, 0.4]])
BITS = ([[0, 1, 0, 1], [0, 0, 1, 1]], [[-0.3, 0.2, -0.1, 1.6], [-0.25, -1.0, 0.5, 0.6]])
PROBABLE = ([[1, 0, 1], [0, 1, 1]], [[0.9, 0.2, 0.7], [0.4, 0.6, 0.05]])
BIT_LOGITS = ([[1, 0, 1], [0, 1, 1]], [[100.0, -100.0, 100.0], [100.0, 100.0, -100.0]])
CLASSES = ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[8.0, 1.0, 1.0], [0.0, 9.0, 1.0], [2.0, 3.0, 5.0]])
SHARES = ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[0.9, 0.05, 0.05], [0.05, 0.89, 0.06], [0.05, 0.01, 0.94]])
SPARSE = ([0, 1, 2], CLASSES[1])
FIVE = ([[0, 0, 1]], [[100.0, -100.0, -100.0]])

# name: Keras' class, its options, inputs, ours
LOSSES = {
    "mse": ("MeanSquaredError", {}, A, numbers("mse")),
    "mae": ("MeanAbsoluteError", {}, A, numbers("mae")),
    "msle": ("MeanSquaredLogarithmicError", {}, POSITIVE, numbers("msle")),
    "huber": ("Huber", {}, NEAR, numbers("huber")),
    "huber 0.8": ("Huber", {"delta": 0.8}, NEAR, numbers(("huber", {"delta": 0.8}))),
    "log_cosh": ("LogCosh", {}, A, numbers("log_cosh")),
    "poisson": ("Poisson", {}, COUNTS, numbers(("poisson_nll", {"input_from": "rate"}))),
    "kl": ("KLDivergence", {}, PARTS, rows("kl_divergence", input_from="probabilities", validate=False)),
    "hinge": ("Hinge", {}, BITS, signed(numbers("hinge"))),
    "squared hinge": ("SquaredHinge", {}, BITS, signed(numbers("squared_hinge"))),
    "bce": ("BinaryCrossentropy", {}, PROBABLE, numbers(("binary_cross_entropy", {"input_from": "probabilities"}))),
    "bce logits": ("BinaryCrossentropy", FROM_LOGITS, BIT_LOGITS, numbers("binary_cross_entropy")),
    "ce": ("CategoricalCrossentropy", FROM_LOGITS, CLASSES, rows("cross_entropy")),
    "ce probabilities": ("CategoricalCrossentropy", {}, SHARES, logs(rows("cross_entropy"))),
    "ce smoothing": (
        "CategoricalCrossentropy",
        {**FROM_LOGITS, "label_smoothing": 0.1},
        CLASSES,
        rows("cross_entropy", label_smoothing=0.1),
    ),
    "ce smoothing far": (
        "CategoricalCrossentropy",
        {**FROM_LOGITS, "label_smoothing": 0.1},
        FIVE,
        rows("cross_entropy", label_smoothing=0.1),
    ),
    "sparse ce": ("SparseCategoricalCrossentropy", FROM_LOGITS, SPARSE, rows("cross_entropy")),
    "focal": (
        "CategoricalFocalCrossentropy",
        {**FROM_LOGITS, "alpha": 1.0},
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[2.0, 1.0, 1.0], [0.0, 1.0, 1.5], [2.0, 3.0, 0.5]]),
        one_hot_to_index(rows("focal")),
    ),
    "gce": (
        "CategoricalGeneralizedCrossEntropy",
        {"q": 0.5},
        ([0, 1, 2], SHARES[1]),
        logs(rows("generalized_cross_entropy", q=0.5)),
    ),
}
REDUCTIONS = {"sum_over_batch_size": "mean", "sum": "sum", "none": "none"}


def weights(n):
    return [1.2, 3.4, 5.6][:n]


def plan(losses):
    """Every loss in each reduction, plain, weighted and masked, as Keras' script takes it."""
    jobs = {}
    for name, (kind, options, (y_true, y_pred), _) in losses.items():
        n = len(y_pred)
        for theirs in REDUCTIONS:
            settings = {**options, "reduction": theirs}
            jobs[f"{name} | {theirs}"] = (kind, settings, y_true, y_pred, None, None)
            jobs[f"{name} | {theirs} | weights"] = (kind, settings, y_true, y_pred, weights(n), None)
        jobs[f"{name} | mean_with_sample_weight | weights"] = (
            kind,
            {**options, "reduction": "mean_with_sample_weight"},
            y_true,
            y_pred,
            weights(n),
            None,
        )
        mask = [i != 1 for i in range(n)]
        jobs[f"{name} | sum_over_batch_size | mask"] = (kind, {**options, "reduction": "sum_over_batch_size"}, y_true, y_pred, None, mask)
    return jobs


def ours(losses, title):
    name, theirs, *how = title.split(" | ")
    _, _, (y_true, y_pred), call = losses[name]
    x, y = torch.tensor(y_pred, dtype=torch.float64), torch.tensor(y_true)
    y = y.to(torch.float64) if y.ndim > 1 else y
    kw = {"reduction": REDUCTIONS.get(theirs, "mean"), "normalize": "weight" if theirs == "mean_with_sample_weight" else "count"}
    if how == ["weights"]:
        kw["sample_weight"] = torch.tensor(weights(len(y_pred)), dtype=torch.float64)
    if how == ["mask"]:
        kw["mask"] = torch.arange(len(y_pred)) != 1
    return call(x, y, **kw).tolist()


COLUMNS = (
    "sum",
    "sum | weights",
    "sum_over_batch_size",
    "sum_over_batch_size | weights",
    "mean_with_sample_weight | weights",
    "sum_over_batch_size | mask",
)
KERAS = {  # by the columns above, to 9 digits
    "mse": (99, 255.933331, 49.5, 127.966667, 55.6376839, 36.6666679),
    "mae": (11, 27.1333337, 5.5, 13.5666666, 5.89855099, 4.66666651),
    "msle": (3.11624968, 8.39463758, 1.55812478, 4.19731903, 1.82492137, 1.00027788),
    "huber": (0.208333336, 0.455333337, 0.104166672, 0.227666676, 0.0989855155, 0.115000002),
    "huber 0.8": (0.208333336, 0.455333337, 0.104166672, 0.227666676, 0.0989855155, 0.115000002),
    "log_cosh": (9.65849113, 24.00223, 4.82924557, 12.0011148, 5.21787596, 4.01665449),
    "poisson": (-2.01998803, -6.08249906, -1.00999403, -3.04124951, -1.32228243, -0.357027382),
    "kl": (1.19214768, 4.01514235, 0.596073866, 2.00757122, 0.872857094, 0.0173453465),
    "hinge": (1.01250002, 2.12250001, 0.506250024, 1.06124997, 0.461413026, 0.600000024),
    "squared hinge": (0.728124991, 1.408625, 0.364062488, 0.704312503, 0.306222826, 0.484999985),
    "bce": (1.5675209, 4.82710646, 0.783760428, 2.41355324, 1.049371, 0.228393003),
    "bce logits": (66.6666641, 226.666658, 33.3333321, 113.333328, 49.2753601, 2.52233724e-44),
    "ce": (0.17212689, 0.954884041, 0.0573756285, 0.318294674, 0.0936160833, 0.0858340636),
    "ce probabilities": (0.283769736, 0.869149855, 0.0945899114, 0.289716631, 0.0852107704, 0.0836179554),
    "ce smoothing": (1.37212689, 4.37488404, 0.457375646, 1.45829475, 0.428910226, 0.402500719),
    "ce smoothing far": (193.333333, 232, 193.333328, 232, 193.333328, 193.333328),
    "sparse ce": (0.17212689, 0.954884041, 0.0573756285, 0.318294674, 0.0936160833, 0.0858340636),
    "focal": (3.14812722, 16.1080085, 1.04937577, 5.36933661, 1.5792166, 1.32734907),
    "gce": (0.276765235, 0.849250034, 0.0922550783, 0.283083349, 0.083259806, 0.0817807317),
}
LITERALS = {  # as they stand in Keras' losses_test.py
    "mse | sum_over_batch_size": 49.5,
    "mse | sum_over_batch_size | weights": 767.8 / 6,
    "mae | sum_over_batch_size": 5.5,
    "mae | sum_over_batch_size | weights": 81.4 / 6,
    "huber | sum_over_batch_size": 0.10416666666666669,
    "huber | sum_over_batch_size | weights": 0.22766666666666668,
    "kl | sum_over_batch_size": 0.5960738398643668,
    "kl | sum_over_batch_size | weights": 2.0075711736936492,
    "hinge | sum_over_batch_size": 0.50625,
    "squared hinge | sum_over_batch_size": 0.364062,
    "bce logits | sum_over_batch_size": 100 / 3,
    "ce | sum_over_batch_size": 0.0573,
    "ce | sum_over_batch_size | weights": 0.31829,
    "sparse ce | sum_over_batch_size": 0.0573,
}


@pytest.mark.parametrize("name", LOSSES)
def test_equals_what_keras_gave(name):
    for column, expected in zip(COLUMNS, KERAS[name], strict=True):
        got = ours(LOSSES, f"{name} | {column}")
        assert abs(got - expected) < 1e-6 * max(1, abs(expected)), column  # Keras divides in float32, and clips at 1e-7


@pytest.mark.parametrize("title", LITERALS)
def test_equals_the_literals_of_keras_tests(title):
    assert abs(ours(LOSSES, title) - LITERALS[title]) < 1e-4  # some are written with four digits


def theirs(losses):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(plan(losses)),
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "torch"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def further(seed):
    """The same losses on inputs drawn anew, of the form that each takes."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, (kind, options, (y_true, y_pred), call) in LOSSES.items():
        true, pred = np.array(y_true), np.array(y_pred, dtype=float)
        new = rng.normal(size=pred.shape) * 3
        if (pred >= 0).all() and (pred <= 1).all():
            new = rng.uniform(0.05, 0.95, size=pred.shape)
            new = new / new.sum(-1, keepdims=True) if np.allclose(pred.sum(-1), 1) else new
        if kind in {"Poisson", "MeanSquaredLogarithmicError"}:
            new = np.abs(new) + 0.1
        if kind in {"MeanSquaredError", "MeanAbsoluteError", "Huber", "LogCosh"}:
            true = rng.normal(size=pred.shape) * 3
        drawn[name] = (kind, options, (true.tolist(), new.tolist()), call)
    return drawn


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="keras is a peer, installed for development only")
@pytest.mark.parametrize("losses", [LOSSES, further(0), further(1)], ids=["its tests", "drawn 0", "drawn 1"])
def test_equals_keras_itself(losses):
    for title, expected in theirs(losses).items():
        np.testing.assert_allclose(ours(losses, title), expected, rtol=1e-6, atol=1e-6, err_msg=title)


# Where we mean to differ; the reason stands beside each.


def test_categorical_hinge_is_another_loss():
    # max(1 - s_y + max_c (1 - t_c) s_c, 0) takes 0 for the true class into the maximum: Keras gives 0.5 where the margin of 1 is kept.
    assert functional.multiclass_hinge(torch.tensor([[0.5, -5.0, -5.0]]), torch.tensor([0])).item() == 0


def test_msle_below_minus_one_is_refused():
    # Keras' own test has y = -5 and -2: it raises them to 1e-7, where the gradient is 0.
    with pytest.raises(FalllineError, match="above -1"):
        functional.msle(torch.tensor(A[1]).double(), torch.tensor(A[0]).double())


def test_distributions_that_do_not_sum_to_one_are_refused():
    with pytest.raises(FalllineError, match="sums to 1"):
        functional.kl_divergence(torch.tensor(PARTS[1]), torch.tensor(PARTS[0]), input_from="probabilities")


def test_the_coding_of_labels_is_not_guessed():
    # Keras maps 0/1 to -1/+1 batch by batch, if all of a batch is 0 and 1.
    with pytest.raises(FalllineError, match="2 \\* target - 1"):
        functional.hinge(torch.tensor(BITS[1]), torch.tensor(BITS[0]))


def test_cosine_similarity_is_a_distance():
    # Keras gives minus the similarity, so that -1 is a match; its tests have 0.720488 and -0.3460499 for these rows.
    x, y = (torch.tensor(side, dtype=torch.float64) for side in (A[1], A[0]))
    got = functional.cosine_similarity(x, y, reduction="none") - 1
    assert torch.allclose(got, -torch.tensor([0.720488, -0.3460499], dtype=torch.float64), atol=1e-6)
