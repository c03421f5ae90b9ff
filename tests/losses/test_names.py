"""The names that others give to losses: one table for `find`, `build`, the modules and `explain`."""

import pytest

import fallline as fl
from fallline._core.errors import FalllineError
from fallline.losses import FURTHER, LOSSES, build, canonical, find, functional
from fallline.losses._names import ALSO, ELSEWHERE, PERHAPS
from fallline.teach.concepts import resolve

EVERY = {**LOSSES, **FURTHER}
GIVEN = [(path, name) for name, paths in ELSEWHERE.items() for path in paths]


@pytest.mark.parametrize(("path", "name"), GIVEN)
def test_a_loss_is_found_by_its_name_elsewhere(path, name):
    path = path.partition(" (")[0].rpartition(" ")[2]
    for spelling in (path, path.rpartition(".")[2], path.rpartition(".")[2].lower()):
        assert find(spelling).name == name
        assert resolve(spelling) == name


def test_the_table_names_losses_that_there_are():
    assert {*ELSEWHERE, *ALSO.values(), *PERHAPS.values()} <= set(EVERY)
    assert not set(ALSO) & set(EVERY)
    assert not {other for other in PERHAPS if find_or_none(other)}


def find_or_none(name):
    try:
        return find(name)
    except FalllineError:
        return None


@pytest.mark.parametrize(
    ("name", "real"),
    [
        ("Huber", "huber"),
        ("nt-xent", "info_nce"),
        ("bce", "binary_cross_entropy"),
        ("pinball", "quantile"),
        ("l1_loss", "mae"),
        ("crossentropy", "cross_entropy"),
        ("SigLIP", "sig_lip"),
        ("torch.nn.L1Loss", "mae"),
        ("auc_hinge", "pairwise_auc"),
    ],
)
def test_spellings(name, real):
    assert find(name) is EVERY[real]
    assert resolve(name) == real


def test_build_takes_the_options_behind_a_name_of_another():
    assert build("HuberLoss:delta=2").delta == 2
    assert canonical(" HuberLoss : delta=2 ") == "huber:delta=2"


@pytest.mark.parametrize(("name", "real"), [("l1", "mae"), ("l2", "mse"), ("NLLLoss", "cross_entropy"), ("hubber", "huber")])
def test_what_is_no_name_of_a_loss_offers_the_one_meant(name, real):
    with pytest.raises(FalllineError, match=f"there is no loss '{name}'; did you mean '{real}'"):
        find(name)


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("HuberLoss", "Huber"),
        ("MSELoss", "MSE"),
        ("L1Loss", "MAE"),
        ("CrossEntropyLoss", "CrossEntropy"),
        ("SupConLoss", "SupCon"),
        ("NTXentLoss", "InfoNCE"),
        ("TripletMarginLoss", "Triplet"),
        ("Hubber", "Huber"),
        ("huber", "Huber"),
        ("biuld", "build"),
    ],
)
def test_the_module_says_what_may_be_meant(name, here):
    with pytest.raises(AttributeError, match=f"fl.losses has no '{name}'; did you mean '{here}'"):
        getattr(fl.losses, name)
    assert not hasattr(fl.losses, name)


@pytest.mark.parametrize(("name", "here"), [("hubber", "huber"), ("mse_loss", "mse"), ("bce", "binary_cross_entropy")])
def test_the_module_of_functions_says_it_too(name, here):
    with pytest.raises(AttributeError, match=f"functional has no '{name}'; did you mean '{here}'"):
        getattr(functional, name)


def test_a_name_like_none_points_at_the_list():
    with pytest.raises(AttributeError, match="fallline explain loss"):
        _ = fl.losses.Xyzzy
