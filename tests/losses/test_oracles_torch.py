"""Every loss that torch has too, on torch's own test inputs against torch's own plain-Python references.

The inputs and references are those of torch's test suite (`torch.testing._internal`: `module_db` and `loss_reference_fns`), which a child
process reads, as importing them changes global flags. `DIFFERENCES` holds every case in which we mean to differ, with the reason; each of
them is tested to differ.
"""

import subprocess
import sys

import pytest
import torch

from fallline.losses import functional

CHILD = """
import sys, torch
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_nn import loss_reference_fns as references

names, out = set(sys.argv[2:]) - {"LinearCrossEntropyLoss", "TripletMarginLoss"}, []  # these two by `more` below
for dtype in (torch.float64, torch.float32):
    torch.manual_seed(0)
    for info in module_db:
        name = info.module_cls.__name__
        if name in names:
            for case in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=True):
                made, args = dict(case.constructor_input.kwargs), case.forward_input.args
                if made.get("weight") is not None:
                    made["weight"].abs_()  # torch draws them from -9 to 9; the reference reads the same tensor
                module = info.module_cls(**made)
                out.append((name, made, args, case.reference_fn(module, *args)))

    def more(name, options, *args):
        for reduction in ("mean", "sum", "none"):
            out.append((name, {**options, "reduction": reduction}, args, references[name](*args, **options, reduction=reduction)))

    x, y = torch.randn(6, 5, dtype=dtype) * 4, torch.randn(6, 5, dtype=dtype)
    labels, w = torch.randint(0, 5, (6,)), torch.rand(5, dtype=dtype) + 0.1
    soft = y.softmax(-1)
    pixels, at = torch.randn(3, 4, 2, 3, dtype=dtype), torch.randint(0, 4, (3, 2, 3))
    for size in (0.25, 1.0, 3.0):
        more("HuberLoss", {"delta": size}, x, y)
        more("SmoothL1Loss", {"beta": size}, x, y)
    for p in (1, 2):
        for margin in (0.5, 1.0, 8.0):
            more("MultiMarginLoss", {"p": p, "margin": margin}, x, labels)
            more("MultiMarginLoss", {"p": p, "margin": margin, "weight": w}, x, labels)
    for smoothing in (0.0, 0.1, 0.9):
        more("CrossEntropyLoss", {"label_smoothing": smoothing}, x, labels)
        more("CrossEntropyLoss", {"label_smoothing": smoothing, "ignore_index": int(labels[0])}, x, labels)
        more("CrossEntropyLoss", {"label_smoothing": smoothing}, x, soft)
        more("CrossEntropyLoss", {"label_smoothing": smoothing}, pixels, at)
        more("CrossEntropyLoss", {"label_smoothing": smoothing, "weight": w}, x, labels)
        more("CrossEntropyLoss", {"label_smoothing": smoothing, "weight": w}, x, soft)
    more("CrossEntropyLoss", {"ignore_index": 3}, x, torch.full((6,), 3))
    more("NLLLoss", {"weight": w, "ignore_index": int(labels[1])}, x.log_softmax(1), labels)
    more("NLLLossNd", {"weight": w[:4], "ignore_index": 2}, pixels.log_softmax(1), at)
    more("KLDivLoss", {}, x.log_softmax(-1), soft)
    more("KLDivLoss", {"log_target": True}, x.log_softmax(-1), soft.log())
    more("SoftMarginLoss", {}, x, y.sign())
    for margin in (-0.5, 0.0, 0.3):
        more("CosineEmbeddingLoss", {"margin": margin}, x, y, torch.tensor([1, -1, 1, -1, -1, 1]))
    for margin in (0.5, 4.0):  # torch adds 1e-6 to every difference unless told not to
        more("TripletMarginLoss", {"margin": margin, "eps": 0.0}, x, y, torch.randn(6, 5, dtype=dtype))
    for smoothing in (0.0, 0.1):
        heads, bias = torch.randn(7, 5, dtype=dtype), torch.randn(7, dtype=dtype)
        options = {"label_smoothing": smoothing, "linear_bias": bias}
        more("LinearCrossEntropyLoss", options, x, heads, labels)
        more("LinearCrossEntropyLoss", {**options, "ignore_index": int(labels[0])}, x, heads, labels)
torch.save(out, sys.argv[1])
"""


def shaped(weight, x):
    """A weight of each element, of the input's own shape: torch broadcasts, we do not."""
    return None if weight is None else weight.expand_as(x).contiguous()


def mean_of_all(made):
    return made.get("reduction", "mean") in {"mean", "batchmean"}


def huber(made, x, y):
    return functional.huber(x, y, **made)


def smooth_l1(made, x, y):
    return functional.smooth_l1(x, y, **made)


def bce(form):
    def call(made, x, y):
        made = dict(made)
        weight = shaped(made.pop("weight", None), x)
        return functional.binary_cross_entropy(x, y, input_from=form, sample_weight=weight, normalize="count", **made)

    return call


def cross_entropy(made, x, y):
    made = dict(made)
    return functional.cross_entropy(x, y, class_weight=made.pop("weight", None), **made)


def kl_divergence(made, x, y):
    """torch takes any numbers for distributions, so the check is off; its mean divides by the classes too."""
    made = dict(made)
    form = "log_probabilities" if made.pop("log_target", False) else "probabilities"
    by_row = made.get("reduction") == "batchmean"
    made["reduction"] = "mean" if mean_of_all(made) else made["reduction"]
    value = functional.kl_divergence(x, y, input_from="log_probabilities", target_from=form, validate=False, **made)
    return value / x.shape[-1] if made["reduction"] == "mean" and not by_row else value


def multi_margin(made, x, y):
    made = {"p": 1, "margin": 1.0, "weight": None, **made}
    squared, delta, weight = made.pop("p") == 2, made.pop("margin"), made.pop("weight")
    return functional.multiclass_hinge(x, y, squared=squared, delta=delta, class_weight=weight, normalize="count", **made) / x.shape[1]


def gaussian(made, x, y, var):
    both = torch.stack([x, var.expand_as(x)], -1)
    return functional.gaussian_nll(both, y, variance_from="variance", **made)


def poisson(made, x, y):
    made = dict(made)
    form = "log_rate" if made.pop("log_input", True) else "rate"
    return functional.poisson_nll(x, y, input_from=form, **made)


def soft_margin(made, x, y):
    """The cross-entropy of a logit, written with labels -1/+1."""
    return functional.binary_cross_entropy(x, (y + 1) / 2, **made)


def multilabel_soft_margin(made, x, y):
    """The mean over the classes of the cross-entropy of each; "sum" and "none" are of those means."""
    made = dict(made)
    weight = shaped(made.pop("weight", None), x)
    rows = functional.binary_cross_entropy(x, y, sample_weight=weight, reduction="none").mean(-1)
    return {"mean": rows.mean(), "sum": rows.sum(), "none": rows}[made.get("reduction", "mean")]


def triplet(made, a, p, n):
    """Given triplets; torch adds eps = 1e-6 to each difference, ours adds nothing, so its distance is 0 where two points are one."""
    made = {k: v for k, v in made.items() if k != "eps"}
    return functional.triplet(a, p, n, **made)


def linear_cross_entropy(made, x, heads, y):
    made = dict(made)
    return functional.linear_cross_entropy(x, heads, y, bias=made.pop("linear_bias"), **made)


OURS = {
    "MSELoss": lambda made, x, y: functional.mse(x, y, **made),
    "L1Loss": lambda made, x, y: functional.mae(x, y, **made),
    "HuberLoss": huber,
    "SmoothL1Loss": smooth_l1,
    "KLDivLoss": kl_divergence,
    "NLLLoss": cross_entropy,
    "NLLLossNd": cross_entropy,
    "CrossEntropyLoss": cross_entropy,
    "BCELoss": bce("probabilities"),
    "BCEWithLogitsLoss": bce("logits"),
    "GaussianNLLLoss": gaussian,
    "PoissonNLLLoss": poisson,
    "MultiMarginLoss": multi_margin,
    "SoftMarginLoss": soft_margin,
    "MultiLabelSoftMarginLoss": multilabel_soft_margin,
    "CosineEmbeddingLoss": lambda made, a, b, y: functional.cosine_embedding(a, b, y, **made),
    "TripletMarginLoss": triplet,
    "LinearCrossEntropyLoss": linear_cross_entropy,
}
FITTING = {
    "by the sum over classes": "multi_margin_loss divides by the number of classes; Weston and Watkins do not: divided above",
    "by rows": "kl_div's mean divides by every element and its 'none' gives each; a divergence is a sum over classes: divided, summed",
    "weight of an element": "binary_cross_entropy's mean ignores the weights in the divisor: normalize='count' above",
}
"""How the forms are brought together where the numbers are the same."""


def soft(x, y):
    return y.is_floating_point() and y.shape == x.shape


DIFFERENCES = {
    "class weights with label smoothing": (
        "torch weighs each smoothed class by its own weight, so a heavy class draws mass from every example (pytorch#104776)",
        lambda name, made, args: name == "CrossEntropyLoss" and made.get("weight") is not None and made.get("label_smoothing"),
    ),
    "class weights with soft targets": (
        "torch weighs each term and divides by N; here an example weighs the sum of t_c w_c, so one-hot equals sparse",
        lambda name, made, args: name == "CrossEntropyLoss" and made.get("weight") is not None and soft(*args),
    ),
    "nothing but ignored labels": (
        "torch's mean is 0/0, NaN; here a batch in which nothing counts is 0 with a gradient of 0",
        lambda name, made, args: "ignore_index" in made and mean_of_all(made) and bool((args[1] == made["ignore_index"]).all()),
    ),
    "log y! in full": (
        "poisson_nll_loss(full=True) adds Stirling's approximation of log y!; here it is exact",
        lambda name, made, args: name == "PoissonNLLLoss" and made.get("full"),
    ),
}
UNTESTED = {
    "a scalar distribution": (
        "one number is no distribution over classes: refused",
        lambda name, made, args: name == "KLDivLoss" and args[0].ndim == 0,
    ),
    "the logarithm of a negative number": (
        "torch's own cases for kl_div take it of numbers from -9 to 9, and expect NaN",
        lambda name, made, args: any(bool(a.isnan().any()) for a in args),
    ),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    path = tmp_path_factory.mktemp("torch") / "cases.pt"
    done = subprocess.run([sys.executable, "-c", CHILD, str(path), *OURS], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return torch.load(path)


def which(table, case):
    return next((title for title, (_, holds) in table.items() if holds(*case)), None)


def close(ours, theirs):
    tolerance = 1e-10 if theirs.dtype == torch.float64 else 1e-5
    return ours.shape == theirs.shape and torch.allclose(ours, theirs.to(ours.dtype), rtol=tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore:.*as probabilities do")  # torch's cases of logits lie between 0 and 1
@pytest.mark.parametrize("name", OURS)
def test_equals_torchs_reference(cases, name):
    seen = 0
    for kind, made, args, expected in cases:
        if kind != name or which(DIFFERENCES, (kind, made, args)) or which(UNTESTED, (kind, made, args)):
            continue
        seen += 1
        if name == "KLDivLoss" and made.get("reduction") == "none":
            expected = expected.sum(-1)
        assert close(OURS[name](made, *args), expected), (made, [tuple(a.shape) for a in args])
    assert seen >= 6  # two types, three reductions


@pytest.mark.parametrize("title", DIFFERENCES)
def test_each_intended_difference_is_one(cases, title):
    found = [case for case in cases if which(DIFFERENCES, case[:3]) == title]
    assert found
    assert any(not close(OURS[name](made, *args), expected) for name, made, args, expected in found), DIFFERENCES[title][0]
