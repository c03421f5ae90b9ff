"""The activations of MISSION section 2: every derivative is autograd's, and the section's proofs hold."""

import pytest
import torch

from fallline._core.errors import FalllineError
from fallline.activations import ACTIVATIONS, crelu, describe, maxout, prelu, softminus

D = torch.float64
X = torch.cat([torch.linspace(-8, 8, 97, dtype=D) + 0.0137, torch.tensor([-60.0, 25.0, 60.0], dtype=D)])
SINGLE = [name for name, a in ACTIVATIONS.items() if a.elementwise and name != "crelu"]
NAMES = "sigmoid tanh softmax softplus softminus relu leaky_relu prelu crelu relu6 maxout gelu silu elu selu mish"


def test_the_list_of_the_mission_is_complete():
    assert list(ACTIVATIONS) == NAMES.split()


@pytest.mark.parametrize("name", SINGLE)
def test_derivative_is_autograds(name):
    x = X.clone().requires_grad_()
    ACTIVATIONS[name].value(x).sum().backward()
    torch.testing.assert_close(ACTIVATIONS[name].derivative(X), x.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in SINGLE if ACTIVATIONS[name].kinks])
def test_derivative_at_a_kink_is_autograds(name):
    x = torch.tensor(ACTIVATIONS[name].kinks, dtype=D, requires_grad=True)
    ACTIVATIONS[name](x).sum().backward()
    torch.testing.assert_close(ACTIVATIONS[name].derivative(x.detach()), x.grad)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_kept(name, dtype):
    x = torch.tensor([[-1.0, 2.0, 0.5, -3.0]], dtype=dtype)
    assert ACTIVATIONS[name].value(x).dtype == dtype
    assert ACTIVATIONS[name].derivative(x).dtype == dtype


def test_softmax_jacobian_is_autograds():
    x = torch.tensor([0.3, -1.2, 2.0, 0.1], dtype=D)
    expected = torch.autograd.functional.jacobian(ACTIVATIONS["softmax"].value, x)
    torch.testing.assert_close(ACTIVATIONS["softmax"].derivative(x), expected)


@pytest.mark.parametrize("name", ["crelu", "maxout"])
def test_derivative_of_those_that_change_the_width(name):
    x = torch.tensor([0.3, -1.2, 2.0, 0.1], dtype=D)
    jacobian = torch.autograd.functional.jacobian(ACTIVATIONS[name].value, x)
    if name == "crelu":
        own = torch.cat([jacobian[:4].diagonal(), jacobian[4:].diagonal()])
        assert jacobian.abs().sum() == own.abs().sum()  # no output depends on another input
    else:
        own = jacobian.sum(0)
    torch.testing.assert_close(ACTIVATIONS[name].derivative(x), own)


def test_slope_of_softplus_is_sigmoid():
    x = X.clone().requires_grad_()
    ACTIVATIONS["softplus"].value(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.sigmoid(X))


def test_softplus_tends_to_sigmoid_as_x_falls_and_only_there():
    ratio = ACTIVATIONS["softplus"].value(torch.tensor([-5.0, -10.0, -20.0], dtype=D)) / torch.sigmoid(
        torch.tensor([-5.0, -10.0, -20.0], dtype=D)
    )
    gaps = (ratio - 1).abs()
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-8
    assert ACTIVATIONS["softplus"].value(torch.tensor(20.0, dtype=D)) > 19  # S1's "identical" is a slip: sigmoid(20) is 1


def test_softminus_is_x_less_softplus_and_tends_to_sigmoid_less_one_as_x_grows():
    torch.testing.assert_close(softminus(X), X - ACTIVATIONS["softplus"].value(X), rtol=1e-9, atol=1e-12)
    x = torch.tensor([5.0, 10.0, 20.0], dtype=D)
    gaps = (softminus(x) / -torch.sigmoid(-x) - 1).abs()  # sigmoid(x) - 1 without its cancellation
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-8


def test_softplus_has_no_seam_in_float64():
    x = torch.tensor(20.5, dtype=D)
    assert abs(float(ACTIVATIONS["softplus"].value(x) - 20.5) / 1.2501528e-9 - 1) < 1e-4  # log1p(exp(-20.5)); torch's softplus gives 0


def test_maxout_generalises_relu_and_the_absolute_value():
    pairs = torch.stack([torch.zeros_like(X), X], dim=-1).flatten()
    torch.testing.assert_close(maxout(pairs), torch.relu(X))
    torch.testing.assert_close(maxout(torch.stack([-X, X], dim=-1).flatten()), X.abs())


def test_maxout_refuses_a_width_that_does_not_divide():
    with pytest.raises(FalllineError, match="multiple of pieces=2"):
        maxout(torch.zeros(3))


def test_crelu_keeps_both_signs():
    x = torch.tensor([[1.0, -2.0]])
    assert crelu(x).tolist() == [[1.0, 0.0, 0.0, 2.0]]
    both = crelu(x)
    assert torch.equal(both[:, :2] - both[:, 2:], x)
    assert crelu(torch.zeros(2, 3, 4, 4), dim=1).shape == (2, 6, 4, 4)


def test_the_leak_of_prelu_is_learned():
    a = torch.tensor([0.25], dtype=D, requires_grad=True)
    prelu(torch.tensor([-2.0, 3.0], dtype=D), a).sum().backward()
    assert a.grad.tolist() == [-2.0]


def test_selu_reproduces_mean_and_variance():
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=D)
    y = ACTIVATIONS["selu"].value(x)
    assert abs(float(y.mean())) < 0.01
    assert abs(float(y.var()) - 1) < 0.02


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_each_says_what_it_is(name):
    e = describe(name)
    assert e.family == "activation"
    assert all((e.summary, e.formula, e.when, e.when_not, e.source))
    assert "slope" in e.formula or "′" in e.formula or "∂" in e.formula


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(FalllineError, match="leaky_relu"):
        describe("leakyrelu")
