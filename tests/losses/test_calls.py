"""Arguments that a loss does not have: one sentence that says what to write, as a TypeError."""

import inspect

import pytest
import torch

import fallline as fl
from fallline._core.errors import FalllineError, FalllineTypeError
from fallline.losses import FURTHER, LOSSES

L, F = fl.losses, fl.losses.functional
X, Y = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])
E, C = torch.eye(4), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: L.Huber(0.5), r"write Huber\(delta=0.5\)"),
        (lambda: L.ArcFace(10, 64), r"write ArcFace\(classes=10, dim=64\)"),
        (lambda: L.CrossEntropy([1.0, 2.0]), r"write CrossEntropy\(class_weight=\[1.0, 2.0\]\)"),
        (lambda: L.CrossEntropy(X), r"write CrossEntropy\(class_weight=...\)"),
        (lambda: L.MSE("sum"), r"write MSE\(reduction='sum'\)"),
        (lambda: L.SigLIP(10.0), r"write SigLIP\(scale=10.0\)"),
        (lambda: L.MSE(object()), "its options are reduction, normalize, validate"),
    ],
)
def test_options_by_place(make, said):
    with pytest.raises(FalllineTypeError, match=f"options are given by name.*{said}"):
        make()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: L.Huber(dleta=1), "did you mean 'delta'"),
        (lambda: F.huber(X, Y, delt=2), "did you mean 'delta'"),
        (lambda: L.build("huber:delt=2"), "did you mean 'delta'"),
        (lambda: L.CrossEntropy(weight=X), "weights of classes are class_weight=, weights of examples are sample_weight="),
        (lambda: L.MSE(weight=X), "'weight'; weights of examples are sample_weight="),
        (lambda: L.BinaryCrossEntropy(from_logits=False), r"did you mean 'input_from' \(logits, probabilities\)"),
        (lambda: L.CrossEntropy(from_logits=True), "it takes logits always"),
        (lambda: L.PoissonNLL(log_input=True), "'input_from'"),
        (lambda: L.KLDivergence(log_target=True), "'target_from'"),
        (lambda: L.Triplet(type_of_triplets="hard"), "'mining'"),
        (lambda: L.Triplet(p=2), "'distance'"),
        (lambda: L.Contrastive(pos_margin=1), "'margin'"),
        (lambda: L.ArcFace(num_classes=3, dim=4), "'classes'"),
        (lambda: L.ArcFace(classes=3, embedding_size=4), "'dim'"),
        (lambda: L.InfoNCE(tau=0.1), "'temperature'"),
        (lambda: L.MSE(sample_weight=X), "given in the call"),
        (lambda: L.LinearCrossEntropy(4, 3, smoothing=0.1), "'label_smoothing'"),
    ],
)
def test_an_option_that_there_is_not(make, said):
    with pytest.raises(FalllineTypeError, match=f"there is no option of .*{said}.* Known: reduction, "):
        make()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: L.Triplet(mining="semihard"), "'semi_hard' may be meant"),
        (lambda: L.Triplet(mining="batch-hard"), "'batch_hard' may be meant"),
        (lambda: L.Triplet(mining="hard"), "'batch_hard' may be meant"),
        (lambda: L.KLDivergence(reduction="batchmean"), "'mean' may be meant"),
    ],
)
def test_a_choice_that_there_is_not(make, said):
    with pytest.raises(FalllineError, match=said):
        make()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: L.ArcFace(classes=2, dim=4)(E, C, reference=E), "no argument 'reference'"),
        (lambda: L.SupCon()(E, C, ref_emb=E, ref_labels=C), r"no argument 'ref_emb': .* reference=\(embeddings, labels\)"),
        (lambda: F.mse(X, Y, "sum"), "write reduction='sum'"),
        (lambda: F.mse(X, Y, X), r"what follows the target is given by name \(.*sample_weight, mask\)"),
        (lambda: F.gaussian_nll(X, Y, X), r"write torch.stack\(\[mean, variance\], -1\), with variance_from='variance'"),
        (lambda: F.triplet(anchor=E, positive=E, negative=E), "give anchor, positive and negative by place"),
        (lambda: F.mse(y_true=X, y_pred=Y), r"fallline takes \(input, target\)"),
        (lambda: L.Huber()(X, Y, delta=2), r"delta is an option: write Huber\(delta=...\)\(input, target\)"),
        (lambda: L.Huber()(X), "missing a required argument: 'target'"),
        (lambda: L.Huber()(X, Y, weight=X), "weights of examples are sample_weight="),
        (lambda: L.Huber()(X, Y, maks=X > 0), "did you mean 'mask'"),
    ],
)
def test_calls(call, said):
    with pytest.raises(FalllineTypeError, match=said):
        call()


def test_a_type_error_from_within_is_left_as_it_is():
    class Broken(L.MSE):
        def values(self, input, target):
            raise TypeError("from within")

    with pytest.raises(TypeError, match=r"^from within$"):
        Broken()(X, Y, sample_weight=X + 1)


@pytest.mark.parametrize("cls", [*LOSSES.values(), *FURTHER.values()])
def test_the_signature_of_a_class_shows_every_option_by_name(cls):
    shown = inspect.signature(cls).parameters
    assert set(cls.options) <= set(shown)
    for name, option in cls.options.items():
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert shown[name].default == option.default
    assert not {"options", "places"} & set(shown)


def test_the_signature_of_a_loss_with_its_own_constructor_is_that():
    class Own(L.MSE):
        def __init__(self, size: int, **options):
            super().__init__(**options)

    assert list(inspect.signature(Own).parameters) == ["size", "reduction", "normalize", "validate"]
    assert "size" not in inspect.signature(Own(1)).parameters
    assert Own.name == "mse"


def test_a_class_without_a_name_is_called_by_its_own():
    class MyOwnMSE(L.Loss):
        pass

    class Next2Loss(MyOwnMSE):
        pass

    assert (MyOwnMSE.name, Next2Loss.name, MyOwnMSE().name) == ("my_own_mse", "next2_loss", "my_own_mse")
