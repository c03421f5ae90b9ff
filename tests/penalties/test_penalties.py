"""Penalties: closed forms, and what they leave out."""

import pytest
import torch
from torch import nn

from fallline import penalties
from fallline._core.errors import FalllineError


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()


def weights(net):
    return [net[0].weight, net[2].weight]


def test_closed_forms_leave_biases_and_norms_out():
    net = model()
    l1 = sum(w.abs().sum() for w in weights(net))
    l2 = sum((w**2).sum() for w in weights(net))
    torch.testing.assert_close(penalties.l1(net.named_parameters()), l1)
    torch.testing.assert_close(penalties.l2(net.named_parameters()), l2)
    torch.testing.assert_close(penalties.elastic(net.named_parameters(), ratio=0.3), 0.3 * l1 + 0.7 * l2)


def test_gradients():
    net = model()
    penalties.l2(net.named_parameters()).backward()
    torch.testing.assert_close(net[0].weight.grad, 2 * net[0].weight)
    assert net[0].bias.grad is None
    assert net[1].weight.grad is None
    net.zero_grad()
    penalties.l1(net.named_parameters()).backward()
    torch.testing.assert_close(net[0].weight.grad, net[0].weight.sign())


def test_only_chooses():
    net = model()
    everything = penalties.l2(net.named_parameters(), only=lambda name, p: True)
    torch.testing.assert_close(everything, sum((p**2).sum() for p in net.parameters()))
    one = penalties.l2(net.named_parameters(), only=lambda name, p: name == "0.bias")
    torch.testing.assert_close(one, (net[0].bias ** 2).sum())


def test_frozen_weights_are_left_out_and_nothing_left_is_zero():
    net = model()
    net[0].weight.requires_grad_(False)
    torch.testing.assert_close(penalties.l2(net.named_parameters()), (net[2].weight ** 2).sum())
    assert penalties.l1([]).item() == 0


def test_wrong_use():
    net = model()
    with pytest.raises(FalllineError, match="named_parameters"):
        penalties.l2(net.parameters())
    with pytest.raises(FalllineError, match="0 <= ratio <= 1"):
        penalties.elastic(net.named_parameters(), ratio=2)


@pytest.mark.parametrize("name", list(penalties.PENALTIES))
def test_each_says_what_it_is(name):
    e = penalties.describe(name)
    assert e.family == "penalty"
    assert all((e.summary, e.formula, e.when, e.when_not, e.source))
    with pytest.raises(FalllineError, match="elastic"):
        penalties.describe("elastik")


def test_half_of_weight_decay_is_the_same_step_of_sgd():
    a, b = model(), model()
    lr, decay = 0.1, 0.02
    for net, wd in ((a, 0.0), (b, decay)):
        matrices = weights(net)
        optimizer = torch.optim.SGD(matrices, lr=lr, weight_decay=wd)
        cost = net(torch.ones(2, 3, dtype=torch.float64)).square().sum()
        (cost if wd else cost + decay / 2 * penalties.l2(net.named_parameters())).backward()
        optimizer.step()
    for one, other in zip(weights(a), weights(b), strict=True):
        torch.testing.assert_close(one, other)
