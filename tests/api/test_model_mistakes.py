"""Mistakes in a model of one's own: every way to train says them in the same sentence, before anything is trained."""

import pytest
import torch
from torch import nn

import fallline as fl
from fallline import FalllineError


class Mine(nn.Module):
    def __init__(self, wide: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(wide, 3)

    def forward(self, x):
        return self.layer(x)


class Tuple(Mine):
    def forward(self, x):
        return self.layer(x), x


class Unknown(Mine):
    def forward(self, x):
        return self.layer(there_is_no_such_name)  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


class Cut(Mine):
    def forward(self, x):
        return self.layer(x).detach()


MISTAKES = {
    "narrow": (lambda: nn.Linear(4, 7), r"must give shape \(8, 3\) for 8 rows, but it gave \(8, 7\); make its last layer 3 wide"),
    "first layer": (lambda: Mine(5), r"the model \(Mine\), run on 8 rows of shape \(4,\), raised RuntimeError in line \d+: mat1 and mat2"),
    "tuple": (Tuple, "must give one tensor, but it gave a tuple; return its first part alone"),
    "name": (Unknown, r"the model \(Unknown\), run on 8 rows of shape \(4,\), raised NameError in line \d+: name 'there_is_no_such_name'"),
    "cut off": (Cut, "no parameter has a gradient"),
}
WAYS = {
    "compare": lambda model, out: fl.compare(model, "iris", ["sgd", "adam"], lrs=0.1, seeds=2, epochs=1, quiet=True, out=out),
    "table": lambda model, out: fl.table("iris", model, batch_sizes=[8], epochs=[1], seeds=2, quiet=True, out=out),
    "tune": lambda model, out: fl.tune(model, "iris", 2, epochs=1, quiet=True, out=out),
    "fit": lambda model, out: fl.fit(model, "iris", lr=0.1, epochs=1, quiet=True, out=out),
    "find_lr": lambda model, out: fl.find_lr(model, "iris"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_everywhere(mistake, way, tmp_path):
    make, words = MISTAKES[mistake]
    with pytest.raises(FalllineError, match=words) as caught:
        WAYS[way](make, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_three_outputs_for_a_target_of_numbers(tmp_path):
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(FalllineError, match=r"must give shape \(8, 1\) for 8 rows, but it gave \(8, 3\)"):
        fl.compare(nn.Linear(4, 3), (x, x[:, 0]), ["sgd"], lrs=0.1, seeds=2, epochs=1, quiet=True)


@pytest.mark.parametrize(
    ("model", "y", "words"),
    [
        (Mine(5), torch.zeros(6, 3), r"the model \(Mine\), run on a batch of shape \(6, 4\), raised RuntimeError"),
        (Mine(), torch.zeros(6), r"the loss, given the model's output of shape \(6, 3\) and a target of shape \(6,\), raised RuntimeError"),
        (Tuple(), torch.zeros(6, 3), "the loss, given the model's output of a tuple"),
        (Cut(), torch.zeros(6, 3), "no gradient comes back"),
    ],
    ids=["first layer", "shapes", "tuple", "cut off"],
)
def test_the_same_in_plain_torch(model, y, words):
    with pytest.raises(FalllineError, match=words):
        fl.find_lr(model, [(torch.ones(6, 4), y)] * 3, nn.functional.mse_loss, torch.optim.SGD)


def test_a_frozen_part_is_no_mistake():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    model[0].requires_grad_(False)
    assert fl.fit(model, "iris", lr=0.1, epochs=1, quiet=True).status == "finished"


def test_no_cell_is_blamed_for_what_all_share():
    for more in ({"schedule": "cosin"}, {"device": "abacus"}):
        with pytest.raises(FalllineError, match=r"^there is no"):
            fl.compare("linear", "iris", ["sgd", "adam"], lrs=0.1, seeds=2, epochs=1, quiet=True, **more)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda **more: fl.compare("linear", "iris", ["sgd"], **more), "compare has no setting 'learning_rate'; did you mean lrs="),
        (lambda **more: fl.table("iris", "linear", **more), "table has no setting 'learning_rate'; did you mean lr"),
        (lambda **more: fl.tune("linear", "iris", 2, **more), "tune has no setting 'learning_rate'; did you mean space={'lr'"),
        (lambda **more: fl.fit("linear", "iris", **more), "fit has no setting 'learning_rate'; did you mean lr"),
        (lambda **more: fl.find_lr("linear", "iris", **more), "find_lr has no setting 'learning_rate'; did you mean no rate at all"),
    ],
    ids=["compare", "table", "tune", "fit", "find_lr"],
)
def test_what_others_call_it_is_named(call, words):
    with pytest.raises(FalllineError) as caught:
        call(learning_rate=0.1)
    assert str(caught.value).startswith(words)
    with pytest.raises(FalllineError, match="did you mean 'dropout'"):
        call(dropuot=0.1)


def test_a_class_is_no_name_and_the_order_of_arguments_is_told():
    with pytest.raises(FalllineError, match="but got the class Adam"):
        fl.compare("linear", "iris", [torch.optim.Adam, "sgd"], lrs=0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(FalllineError, match="table takes the data first"):
        fl.table("mlp:16", "iris")
