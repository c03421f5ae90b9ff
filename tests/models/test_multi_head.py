"""Networks with several heads: shapes that fit the losses, seeds, shared parameters, refusals."""

import pytest
import torch
from torch import nn

from fallline import FalllineError, losses, models

HEADS = {"class": 10, "brightness": 1}


@pytest.mark.parametrize("trunk", ["cnn", "mlp:16", "mlp:16,8", "linear"])
def test_heads_fit_their_losses(trunk):
    model = models.MultiHead(trunk, HEADS, input_shape=(1, 8, 8))
    out = model(torch.randn(5, 1, 8, 8))
    assert {name: tuple(y.shape) for name, y in out.items()} == {"class": (5, 10), "brightness": (5,)}
    loss = losses.MultiTask({"class": "cross_entropy", "brightness": "mse"})
    loss(out, {"class": torch.randint(0, 10, (5,)), "brightness": torch.rand(5)}).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model(torch.randn(1, 1, 8, 8))["brightness"].shape == (1,)
    assert model(torch.randn(0, 1, 8, 8))["brightness"].shape == (0,)


def test_the_trunk_is_the_network_of_the_same_seed_without_its_last_layer():
    model, single = models.MultiHead("cnn", HEADS, input_shape=(1, 8, 8), seed=3), models.build("cnn", (1, 8, 8), 10, seed=3)
    assert all(a.equal(b) for a, b in zip(model.trunk.parameters(), single.parameters(), strict=False))
    assert len(list(model.trunk.parameters())) == len(list(single.parameters())) - 2


def test_the_seed_and_the_name_decide_a_head():
    state = torch.get_rng_state()
    one = models.MultiHead("mlp:8", HEADS, input_shape=(4,), seed=1)
    more = models.MultiHead("mlp:8", {"first": 4, **HEADS}, input_shape=(4,), seed=1)
    other = models.MultiHead("mlp:8", HEADS, input_shape=(4,), seed=2)
    assert torch.get_rng_state().equal(state)
    assert one.head("class").weight.equal(more.head("class").weight)
    assert not one.head("class").weight.equal(other.head("class").weight)
    assert (
        not models.MultiHead("mlp:8", {"a": 3, "b": 3}, input_shape=(4,))
        .head("a")
        .weight.equal(models.MultiHead("mlp:8", {"a": 3, "b": 3}, input_shape=(4,)).head("b").weight)
    )
    assert one.head("class").weight.abs().max() <= (6 / 18) ** 0.5
    assert not one.head("class").bias.any()


def test_a_trunk_of_ones_own_and_a_head_of_ones_own():
    trunk = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten())
    before = trunk[1].running_mean.clone()
    head = nn.Linear(108, 1)
    model = models.MultiHead(trunk, {"class": 4, "raw": head}, input_shape=(1, 8, 8))
    assert model.features == 108
    assert trunk.training
    assert trunk[1].running_mean.equal(before)
    assert model(torch.randn(2, 1, 8, 8))["raw"].shape == (2, 1)  # a module's output is passed on as it is
    assert model.head("raw") is head
    assert models.MultiHead(nn.Linear(4, 6), {"a": 1}, features=6)(torch.zeros(3, 4))["a"].shape == (3,)


def test_shared_is_the_last_layer_of_the_trunk_that_learns():
    model = models.MultiHead("mlp:16,8", HEADS, input_shape=(4,))
    assert [tuple(p.shape) for p in model.shared] == [(8, 16), (8,)]
    model.trunk[3].requires_grad_(False)
    assert [tuple(p.shape) for p in model.shared] == [(16, 4), (16,)]
    with pytest.raises(FalllineError, match="parameters that learn"):
        models.MultiHead("linear", HEADS, input_shape=(4,)).shared  # noqa: B018


def test_a_file_gives_the_trunk(tmp_path):
    file = tmp_path / "trunk.py"
    file.write_text("from torch import nn\ndef make(input_shape, outputs):\n    return nn.Linear(input_shape[0], outputs)\n")
    model = models.MultiHead(f"{file}:make", HEADS, input_shape=(4,), features=7)
    assert model(torch.zeros(2, 4))["class"].shape == (2, 10)
    with pytest.raises(FalllineError, match="features is given"):
        models.MultiHead(f"{file}:make", HEADS, input_shape=(4,))


def test_any_name_of_a_head_but_one_with_a_dot():
    names = ["type", "keys", "forward", "trunk", "features", "names", "training"]
    model = models.MultiHead("mlp:4", dict.fromkeys(names, 2), input_shape=(3,))
    assert list(model(torch.zeros(1, 3))) == names
    loss = losses.MultiTask(dict.fromkeys(names, "cross_entropy"), weighting="uncertainty")
    assert loss(model(torch.zeros(1, 3)), dict.fromkeys(names, torch.tensor([1]))).isfinite()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: models.MultiHead("mlp", {}, input_shape=(4,)), "one head at least"),
        (lambda: models.MultiHead("mlp", ["a"], input_shape=(4,)), "mapping"),
        (lambda: models.MultiHead("mlp", {"a.b": 1}, input_shape=(4,)), "without a dot"),
        (lambda: models.MultiHead("mlp", {"a": 0}, input_shape=(4,)), "width of head 'a'"),
        (lambda: models.MultiHead("mlp", {"a": True}, input_shape=(4,)), "width of head 'a'"),
        (lambda: models.MultiHead("mlp", {"a": 1}), "write input_shape="),
        (lambda: models.MultiHead("mlpp", {"a": 1}, input_shape=(4,)), "did you mean 'mlp'"),
        (lambda: models.MultiHead("mlp:8", {"a": 1}, input_shape=(4,), features=9), "features = 8"),
        (lambda: models.MultiHead(nn.Linear(2, 3), {"a": 1}), "features or input_shape"),
        (lambda: models.MultiHead(nn.Conv2d(1, 3, 3), {"a": 1}, input_shape=(1, 8, 8)), "nn.Flatten"),
        (lambda: models.MultiHead(nn.Linear(2, 3), {"a": 1}, features=4)(torch.zeros(1, 2)), r"\(rows, 4\)"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(FalllineError, match=words):
        make()
