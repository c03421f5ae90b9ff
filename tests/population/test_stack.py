"""A stack holds its members' weights, gives them back, and lets go of some."""

import pytest
import torch
from torch import nn

from fallline._core.errors import FalllineError
from fallline.population.noise import Unstackable
from fallline.population.stack import Stack


class Both(nn.Module):
    """Tied weights, a frozen one, a buffer that a checkpoint holds and one that it does not."""

    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.two = self.one
        self.frozen = nn.Parameter(torch.randn(2), requires_grad=False)
        self.register_buffer("scale", torch.randn(3), persistent=False)

    def forward(self, x):
        return self.two(self.norm(self.one(x) * self.scale))


def models(count=4):
    out = []
    for seed in range(count):
        torch.manual_seed(seed)
        out.append(Both())
    return out


def test_members_come_back_whole():
    made = models()
    stack = Stack(made)
    assert len(stack) == 4
    x = torch.randn(5, 3)
    for r, model in enumerate(made):
        back = stack.module(r)
        assert torch.equal(back.eval()(x), model.eval()(x))
        assert back.two is back.one
        assert not back.frozen.requires_grad
        assert back.one.weight.data_ptr() != model.one.weight.data_ptr()
        assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), model.state_dict().values(), strict=True))


def test_take_keeps_the_chosen_in_their_order():
    made = models()
    stack = Stack(made)
    stack.take(torch.tensor([2, 0]))
    assert len(stack) == 2
    assert torch.equal(stack.values["one.weight"][0], made[2].one.weight)
    assert torch.equal(stack.buffers["scale"][1], made[0].scale)
    assert stack.grads["one.weight"].shape == stack.values["one.weight"].shape
    assert all(t.is_contiguous() for t in stack.everything.values())


def test_copy_and_swap_go_there_and_back():
    stack = Stack(models())
    held = stack.copy(torch.tensor([1, 3]))
    was = {n: t.clone() for n, t in stack.everything.items()}
    for t in stack.everything.values():
        t.zero_()
    assert torch.equal(held["one.weight"][0], was["one.weight"][1])
    aside = stack.swap(held)
    assert len(stack) == 2
    assert torch.equal(stack.everything["frozen"][1], was["frozen"][3])
    assert torch.equal(stack.module(0).one.weight, was["one.weight"][1])
    stack.swap(aside)
    assert len(stack) == 4
    assert not stack.values["one.weight"].any()


def test_a_member_from_a_state_has_all_of_it():
    made = models()
    stack = Stack(made)
    state = stack.copy(torch.tensor([3]))
    assert torch.equal(stack.module(0, state).scale, made[3].scale)


def test_a_part_is_a_copy():
    stack = Stack(models())
    part = stack.part(2, ["one.weight"])
    assert list(part.values) == ["one.weight"]
    assert set(part.fixed) == {"one.bias", "norm.weight", "norm.bias", "frozen"}
    part.values["one.weight"].zero_()
    part.buffers["norm.running_mean"].add_(1)
    assert stack.values["one.weight"].any()
    assert not stack.buffers["norm.running_mean"].any()
    assert len(part) == 2


def test_models_are_left_alone_and_one_may_be_given_often():
    model = Both()
    model.one.weight.grad = torch.ones(3, 3)
    stack = Stack([model] * 3)
    stack.values["one.weight"].zero_()
    assert model.one.weight.any()
    assert model.one.weight.grad is not None
    assert stack.template.one.weight.grad is None


def test_models_of_two_shapes_are_refused_by_name():
    with pytest.raises(FalllineError, match=r"'weight' is .* in member 1"):
        Stack([nn.Linear(3, 2), nn.Linear(3, 4)])


def test_a_model_that_cannot_be_copied_is_refused_in_words():
    model = nn.Linear(3, 2)
    model.twice = model.weight * 2  # part of a graph
    with pytest.raises(Unstackable, match="the model cannot be copied"):
        Stack([model])
