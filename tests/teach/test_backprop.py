"""The trace against closed forms worked by hand, and against autograd run separately on the model itself."""

import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

import fallline as fl
from fallline._core.errors import FalllineError
from fallline.losses import LOSSES
from fallline.teach.topmost import relative

sigma = lambda z: 1 / (1 + math.exp(-z))  # noqa: E731


def text_network(last: bool = True) -> nn.Sequential:
    """The 2-2-1 network of the teaching text: w11=.2 w21=.4 b1=.1, w12=.3 w22=.1 b2=.2, w13=.7 w23=.5 b3=.3."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 1), *([nn.Sigmoid()] if last else []))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.2, 0.4], [0.3, 0.1]]))
        net[0].bias.copy_(torch.tensor([0.1, 0.2]))
        net[2].weight.copy_(torch.tensor([[0.7, 0.5]]))
        net[2].bias.copy_(torch.tensor([0.3]))
    return net.double().float()


def by_hand(delta3_from: str) -> dict[str, float]:
    """Every gradient of the text's network by exact arithmetic; `delta3_from`: "cross-entropy" or "square"."""
    a1, a2 = sigma(0.3), sigma(0.5)
    y_hat = sigma(0.7 * a1 + 0.5 * a2 + 0.3)
    d3 = y_hat - 1 if delta3_from == "cross-entropy" else (y_hat - 1) * y_hat * (1 - y_hat)
    d1, d2 = 0.7 * d3 * a1 * (1 - a1), 0.5 * d3 * a2 * (1 - a2)
    return {
        "dL/dw13": d3 * a1, "dL/dw23": d3 * a2, "dL/db3": d3,
        "dL/dw11": d1, "dL/dw21": 0.0, "dL/db1": d1, "dL/dw12": d2, "dL/dw22": 0.0, "dL/db2": d2,
    }  # fmt: skip


def scalars(trace) -> dict[str, float]:
    return {f.symbol: f.value for step in trace.steps for g in step.gradients for f in g.scalars}


half_square = lambda p, y: ((p - y) ** 2).sum() / 2  # noqa: E731


@pytest.mark.parametrize(
    ("loss", "last", "kind"),
    [
        (nn.BCELoss(), True, "cross-entropy"),
        (nn.BCEWithLogitsLoss(), False, "cross-entropy"),
        ("binary_cross_entropy", False, "cross-entropy"),
        (half_square, True, "square"),
    ],
    ids=["probability", "logit", "by name", "half square"],
)
def test_the_text_network_has_its_exact_values(loss, last, kind):
    # the output delta that the text gives, ŷ − y, is that of a sigmoid with cross-entropy; half the square adds the factor σ′(z3)
    trace = fl.trace_backprop(text_network(last), [1.0, 0.0], [1.0], loss)
    found, exact = scalars(trace), by_hand(kind)
    assert set(found) == set(exact)
    for symbol, value in exact.items():
        assert found[symbol] == pytest.approx(value, rel=1e-6, abs=1e-12), symbol  # the weights are float32
    assert trace.agrees


def test_the_text_network_forward():
    steps = fl.trace_backprop(text_network(), [1.0, 0.0], 1.0, nn.BCELoss()).steps
    assert steps[0].z[0].tolist() == pytest.approx([0.3, 0.5], rel=1e-6)
    assert steps[1].a[0].tolist() == pytest.approx([0.5744, 0.6225], abs=5e-5)
    assert float(steps[2].z) == pytest.approx(1.0133, abs=5e-5)
    assert float(steps[3].a) == pytest.approx(0.7337, abs=5e-5)
    assert float(steps[3].delta_out) == pytest.approx(float(steps[3].a) - 1, rel=1e-9)
    assert [s.names_out for s in steps] == [("z1", "z2"), ("a1", "a2"), ("z3",), ("ŷ",)]


def test_each_scalar_is_the_product_of_its_factors():
    trace = fl.trace_backprop(text_network(), [[1.0, 0.0], [0.5, -2.0]], [[1.0], [0.0]], nn.BCELoss())
    factors = [f for s in trace.steps for g in s.gradients for f in g.scalars]
    assert len(factors) == 9
    for f in factors:
        assert f.value == pytest.approx(sum(math.prod(row) for row in f.terms), rel=1e-12)
        assert f.value == pytest.approx(f.autograd, rel=1e-9)
        assert len(f.terms) == 2


OPENED = [
    nn.Sigmoid(), nn.Tanh(), nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(0.2), nn.PReLU(), nn.RReLU(), nn.ReLU6(), nn.ELU(1.3),
    nn.SELU(), nn.CELU(0.7), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Softplus(2.0, 3.0), nn.Softsign(), nn.Tanhshrink(),
    nn.Softshrink(0.3), nn.Hardshrink(0.4), nn.Hardtanh(-0.7, 0.9), nn.Hardsigmoid(), nn.Hardswish(), nn.LogSigmoid(),
    nn.Threshold(0.2, -1.0), nn.GLU(), nn.Softmax(1), nn.LogSoftmax(1), nn.Softmin(1),
]  # fmt: skip


def precision(activation: nn.Module) -> float:
    """Torch keeps a float32 constant in two of its derivatives, in float64 too."""
    return 1e-7 if isinstance(activation, nn.Hardsigmoid | nn.CELU) else 1e-10


@pytest.mark.parametrize("activation", OPENED, ids=repr)
def test_every_activation_is_opened_and_agrees_with_autograd(activation):
    torch.manual_seed(3)
    wide = 3 if isinstance(activation, nn.GLU) else 6
    model = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(wide, 2))
    with torch.no_grad():
        model[0].weight.mul_(6)  # reach both sides of every kink
    trace = fl.trace_backprop(model, torch.randn(40, 4), torch.randn(40, 2), nn.MSELoss())
    step = trace.steps[1]
    assert step.family == "activation"
    assert "autograd" not in step.formula
    assert trace.largest_error < precision(activation)


@pytest.mark.parametrize("name", sorted(nn.modules.activation.__all__))
def test_no_activation_of_torch_is_forgotten(name):
    from fallline.teach.layers import RULES

    if name == "MultiheadAttention":  # a layer with weights, traced as a whole
        assert nn.MultiheadAttention not in RULES
    else:
        assert getattr(nn, name) in RULES


@pytest.mark.parametrize("activation", [a for a in OPENED if not isinstance(a, nn.GLU | nn.Softmax | nn.LogSoftmax | nn.Softmin)], ids=repr)
def test_kinks_follow_the_choice_of_torch(activation):
    spots = [-3.0, -1.0, -0.7, -0.4, -0.3, 0.0, 0.2, 0.3, 0.4, 0.9, 1.0, 1.5, 3.0, 6.0, 1000.0, -1000.0]
    model = nn.Sequential(nn.Linear(1, 1, bias=False), activation).double()
    nn.init.ones_(model[0].weight)
    x = torch.tensor(spots, dtype=torch.float64)[:, None]
    assert fl.trace_backprop(model, x, torch.zeros_like(x), lambda p, y: p.sum()).largest_error < precision(activation)


IMAGES = {
    "stride and padding": lambda: [nn.Conv2d(2, 4, 3, stride=2, padding=1)],
    "groups and dilation": lambda: [nn.Conv2d(2, 4, 2, groups=2, dilation=2, bias=False)],
    "same, even kernel": lambda: [nn.Conv2d(2, 3, (2, 3), padding="same")],
    "max pool": lambda: [nn.Conv2d(2, 3, 3), nn.MaxPool2d(3, 2, 1)],
    "max pool, ceil": lambda: [nn.Conv2d(2, 3, 3), nn.MaxPool2d(2, ceil_mode=True)],
    "average pool": lambda: [nn.Conv2d(2, 3, 3), nn.AvgPool2d(3, 2, 1)],
    "average pool, ceil": lambda: [nn.Conv2d(2, 3, 3), nn.AvgPool2d(2, ceil_mode=True)],
    "adaptive average": lambda: [nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d((2, 5))],
    "adaptive maximum": lambda: [nn.Conv2d(2, 3, 3), nn.AdaptiveMaxPool2d((2, None))],
    "batch norm": lambda: [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True)],
    "batch norm, no statistics": lambda: [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)],
    "reflection": lambda: [nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")],
    "prelu by channel": lambda: [nn.Conv2d(2, 3, 3), nn.PReLU(3)],
    "softmax over channels": lambda: [nn.Conv2d(2, 3, 3), nn.Softmax2d()],
    "transposed": lambda: [nn.ConvTranspose2d(2, 3, 3, stride=2)],
    "group norm": lambda: [nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)],
}
WHOLE = {"average pool, ceil", "batch norm, no statistics", "reflection", "transposed", "group norm"}


@pytest.mark.parametrize("name", IMAGES)
def test_every_picture_layer_agrees_with_autograd(name):
    torch.manual_seed(1)
    body = IMAGES[name]()
    x = torch.randn(4, 2, 7, 8)
    for layer in body:
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    warnings.simplefilter("ignore")  # torch on even kernels with padding "same"
    features = nn.Sequential(*body).eval()(x).flatten(1).shape[1]
    model = nn.Sequential(nn.Sequential(*body), nn.Flatten(), nn.Dropout(0.5), nn.Linear(features, 3))
    trace = fl.trace_backprop(model, x, torch.tensor([0, 2, 1, 1]), nn.CrossEntropyLoss())
    assert trace.largest_error < 1e-10
    assert (any(s.family == "module" for s in trace.steps)) == (name in WHOLE)
    assert [s.layer for s in trace.steps][-1] == "3"
    assert trace.steps[0].layer == "0.0"
    for step in trace.steps:
        if step.family == "module":
            assert "inner factors are not shown" in step.note


def test_gradients_equal_those_of_the_model_itself():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    x, y = torch.randn(7, 2, 4, dtype=torch.float64), torch.randint(0, 3, (7,))
    trace = fl.trace_backprop(model, x, y, functional.cross_entropy)
    functional.cross_entropy(model(x), y).backward()
    for name, parameter in model.named_parameters():
        assert relative(trace.gradients[name].value, parameter.grad) < 1e-12
        assert not trace.gradients[name].by_autograd
    assert list(trace.gradients) == [name for name, _ in model.named_parameters()]


def test_a_batch_is_the_sum_of_its_examples_as_the_loss_reduces():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    whole = fl.trace_backprop(model, x, y, nn.MSELoss())
    ones = [fl.trace_backprop(model, x[i], y[i], nn.MSELoss()) for i in range(5)]
    mean = sum(t.gradients["0.weight"].value for t in ones) / 5
    assert relative(whole.gradients["0.weight"].value, mean) < 1e-12
    assert whole.steps[0].delta_in.shape == (5, 4)
    assert relative(whole.steps[0].delta_in[3] * 5, ones[3].steps[0].delta_in[0]) < 1e-12
    assert whole.examples == 5


def deep_sigmoid() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(m for _ in range(10) for m in (nn.Linear(8, 8), nn.Sigmoid())))


def test_ten_sigmoids_vanish_at_the_derivative_of_the_sigmoid():
    trace = fl.trace_backprop(deep_sigmoid(), torch.randn(6, 8), torch.rand(6, 8), nn.MSELoss())
    assert trace.verdict.problem == "vanishing"
    assert trace.verdict.ratio < 1e-3
    assert {s.kind for s in trace.marked} == {"Sigmoid"}
    assert len(trace.marked) == 10
    for step in trace.marked:
        assert step.mark.factor == "σ′"
        assert step.mark.gain == pytest.approx(step.gain)
        assert step.gain <= 0.25
    assert "σ′" in trace.verdict.say


def test_ten_linear_layers_of_weight_three_explode_at_the_weights():
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(10)))
    for layer in model:
        nn.init.constant_(layer.weight, 3.0)
    trace = fl.trace_backprop(model, [[1.0]], [[0.0]], nn.MSELoss())
    assert trace.verdict.problem == "exploding"
    assert trace.verdict.ratio == pytest.approx(3.0**9)
    assert [s.layer for s in trace.marked] == [str(i) for i in range(1, 10)]  # the first layer's weight is in no parameter's gradient
    assert {s.mark.factor for s in trace.marked} == {"the weights"}
    assert sum(s.mark.share for s in trace.marked) == pytest.approx(1.0)


def test_small_weights_are_blamed_where_they_did_it():
    torch.manual_seed(0)
    model = nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(8, 8), nn.Tanh())))
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.mul_(0.05)
    trace = fl.trace_backprop(model, torch.randn(6, 8), torch.rand(6, 8), nn.MSELoss())
    assert {s.kind for s in trace.marked} == {"Linear"}
    assert all(s.mark.factor == "the weights" for s in trace.marked)


def test_dead_relus_are_named():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    nn.init.constant_(model[0].bias, -100.0)
    trace = fl.trace_backprop(model, [0.5, 0.5], [1.0], nn.MSELoss())
    assert [s.layer for s in trace.marked] == ["1"]
    assert trace.marked[0].mark.factor == "ReLU′"
    assert trace.verdict.ratio == 0


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(6))
        for layer in self.layers:
            nn.init.orthogonal_(layer.weight)

    def forward(self, x):
        for layer in self.layers:
            x = 0.1 * layer(x)
        return x


def test_what_the_modules_do_not_explain_is_laid_at_the_code_between_them():
    torch.manual_seed(0)
    trace = fl.trace_backprop(Squeezed(), torch.randn(4, 6), torch.randn(4, 6), nn.MSELoss())
    assert trace.verdict.problem == "vanishing"
    assert "Code between the modules did 100% of it" in trace.verdict.say
    assert trace.marked == []


@pytest.mark.parametrize("depth", [2, 6, 12])
def test_a_healthy_network_has_no_mark(depth):
    torch.manual_seed(depth)
    model = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(64, 64), nn.ReLU())), nn.Linear(64, 10))
    for layer in model[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    trace = fl.trace_backprop(model, torch.randn(32, 64), torch.randint(0, 10, (32,)), nn.CrossEntropyLoss())
    assert trace.marked == []
    assert trace.verdict.problem == "none"


def test_a_loss_at_its_minimum_is_no_vanishing_gradient():
    model = nn.Sequential(nn.Linear(1, 1))
    with torch.no_grad():
        y = model(torch.ones(1, 1))
    trace = fl.trace_backprop(model.double(), torch.ones(1, 1), model(torch.ones(1, 1, dtype=torch.float64)).detach(), nn.MSELoss())
    assert y.shape == (1, 1)
    assert trace.marked == []
    assert "0" in trace.verdict.say


def test_overflow_is_marked_where_it_happens():
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(12))).double()
    for layer in model:
        nn.init.constant_(layer.weight, 1e60)
    trace = fl.trace_backprop(model, [[1e-300]], [[0.0]], lambda p, y: p.clamp(max=1e300).sum())
    assert trace.verdict.problem in {"none", "not finite"}
    model2 = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(8))).double()
    for layer in model2:
        nn.init.constant_(layer.weight, 1e60)
    trace = fl.trace_backprop(model2, [[0.0]], [[0.0]], lambda p, y: p.sum())
    assert trace.verdict.problem == "not finite"
    assert [s.layer for s in trace.marked] == ["2"]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        h = torch.relu_(self.first(x))
        h = h + self.second(h)
        h = torch.nn.functional.relu_(self.second(h))
        return self.head(h)


def test_a_model_of_ones_own_is_followed_through_its_modules():
    torch.manual_seed(0)
    model = Residual().double()
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    trace = fl.trace_backprop(model, x, y, nn.MSELoss())
    assert [s.layer for s in trace.steps] == ["first", "second (use 1)", "second (use 2)", "head"]
    nn.MSELoss()(model(x), y).backward()
    for name, parameter in model.named_parameters():  # `second` is used twice, with work in place between
        assert relative(trace.gradients[name].value, parameter.grad) < 1e-10, name
        assert not trace.gradients[name].by_autograd
    assert any("between the modules" in n for n in trace.notes)
    assert any("several times" in n for n in trace.notes)
    assert trace.agrees


def test_a_module_used_twice_in_a_sequential_adds_its_parts():
    torch.manual_seed(0)
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(3, 1))
    trace = fl.trace_backprop(model, torch.randn(4, 3), torch.randn(4, 1), nn.MSELoss())
    parts = [g.value for s in trace.steps for g in s.gradients if g.parameter == "0.weight"]
    assert len(parts) == 2
    assert relative(parts[0] + parts[1], trace.gradients["0.weight"].autograd) < 1e-12
    assert relative(parts[0], trace.gradients["0.weight"].autograd) > 1e-3
    assert trace.agrees
    assert "use 2" in trace.text()


class Cube(nn.Module):
    def forward(self, x):
        return x**3


class Mixing(nn.Module):
    def forward(self, x):
        return x * x.sum(1, keepdim=True)


def test_an_unknown_module_shows_its_derivative_only_where_it_works_element_by_element():
    cube = fl.trace_backprop(nn.Sequential(nn.Linear(2, 3), Cube()), [1.0, 2.0], [1.0, 0.0, 0.0], nn.MSELoss()).steps[1]
    assert relative(cube.local, 3 * cube.input**2) < 1e-12
    mixing = fl.trace_backprop(nn.Sequential(nn.Linear(2, 3), Mixing()), [1.0, 2.0], [1.0, 0.0, 0.0], nn.MSELoss()).steps[1]
    assert mixing.local is None
    assert "inner factors are not shown" in mixing.note


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.inner(x)[0][:, -1])


def test_modules_that_are_not_opened_are_traced_as_a_whole():
    torch.manual_seed(0)
    trace = fl.trace_backprop(Recurrent(), torch.randn(2, 5, 3), torch.tensor([0, 1]), nn.CrossEntropyLoss())
    assert [s.family for s in trace.steps] == ["module", "linear"]
    assert "inner factors are not shown" in trace.steps[0].note
    assert trace.agrees
    block = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(12, 2))
    trace = fl.trace_backprop(block, torch.randn(2, 3, 4), torch.tensor([0, 1]), nn.CrossEntropyLoss())
    assert [s.kind for s in trace.steps] == ["TransformerEncoderLayer", "Flatten", "Linear"]
    assert trace.agrees


def test_weight_norm_is_not_taken_for_a_plain_weight():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.Tanh(), nn.Linear(3, 1))
    trace = fl.trace_backprop(model, torch.randn(4, 3), torch.randn(4, 1), nn.MSELoss())
    assert trace.steps[0].family == "module"
    assert trace.agrees


def test_frozen_weights_get_no_gradient_and_pass_the_delta_on():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    model[2].requires_grad_(False)
    trace = fl.trace_backprop(model, torch.randn(4, 3), torch.randn(4, 1), nn.MSELoss())
    assert list(trace.gradients) == ["0.weight", "0.bias"]
    assert trace.steps[2].gradients == ()
    assert "frozen" in trace.steps[2].note
    assert trace.agrees


def test_the_model_stays_as_it_was_bit_for_bit():
    seen = []
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(4, 1)).train()
    model[0].register_forward_hook(lambda *_: seen.append(1))
    model(torch.randn(8, 3)).sum().backward()
    seen.clear()
    loss = nn.MSELoss()
    before, grads = copy.deepcopy(model.state_dict()), [p.grad.clone() for p in model.parameters()]
    modes, stream = [m.training for m in model.modules()], torch.get_rng_state()
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    stream, given = torch.get_rng_state(), x.clone()
    fl.trace_backprop(model, x, y, loss).html()
    assert torch.equal(stream, torch.get_rng_state())
    assert torch.equal(given, x)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, model.parameters(), strict=True))
    assert modes == [m.training for m in model.modules()]
    assert model[2].inplace
    assert seen == []
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_dropout_in_training_mode_is_said():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)).train()
    trace = fl.trace_backprop(model, [1.0, 2.0, 3.0], [1.0], nn.MSELoss())
    assert any("eval mode" in n for n in trace.notes)
    assert "dropout" in trace.steps[1].note


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_of_fallline_can_be_traced_by_name(name):
    torch.manual_seed(0)
    loss = LOSSES[name]
    width = 3 if loss.target_kind in {"index", "distribution", "pair"} else 2 if loss.output == "mean_and_variance" else 1
    y = {
        "index": torch.tensor([0, 2, 1, 1]), "distribution": torch.softmax(torch.randn(4, 3), 1), "signed": torch.tensor([1, -1, 1, -1]),
        "binary": torch.tensor([0, 1, 1, 0]), "count": torch.tensor([0.0, 3.0, 1.0, 2.0]), "pair": torch.randn(4, 3),
    }.get(loss.target_kind, torch.rand(4))  # fmt: skip
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, width), *([nn.Softplus()] if name == "msle" or width == 2 else []))
    trace = fl.trace_backprop(model, torch.randn(4, 2), y, name)
    assert trace.agrees
    assert trace.loss.name == name
    assert f"{name}:  L = " in trace.text()


def test_one_example_may_come_without_an_axis_in_front():
    torch.manual_seed(0)
    picture = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 3))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    x = torch.randn(1, 6, 6)
    for model, alone in ((picture, x), (flat, x[0])):
        batch = alone[None]
        one, same = fl.trace_backprop(model, alone, 2, nn.CrossEntropyLoss()), fl.trace_backprop(model, batch, [2], nn.CrossEntropyLoss())
        assert one.loss.value == same.loss.value
        assert one.examples == 1
    scores = fl.trace_backprop(nn.Linear(2, 3), [1.0, 2.0], 1, nn.CrossEntropyLoss())
    assert scores.loss.closed_form


def test_indices_pass_no_delta_and_count_as_no_dead_layer():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    trace = fl.trace_backprop(model, torch.tensor([[0, 1], [4, 2]]), torch.tensor([0, 1]), nn.CrossEntropyLoss())
    assert trace.marked == []
    assert math.isnan(trace.steps[0].gain)
    assert "no delta passes" in trace.text()
    assert "0.weight" in trace.gradients
    assert trace.html()


def test_a_loss_with_float32_tensors_of_its_own_is_understood():
    weight = torch.tensor([1.0, 2.0, 3.0])
    trace = fl.trace_backprop(
        nn.Linear(2, 3), torch.randn(4, 2), torch.tensor([0, 1, 2, 0]), lambda p, y: functional.cross_entropy(p, y, weight=weight)
    )
    assert trace.agrees


class Narrow(nn.Linear):
    def forward(self, x):
        return x @ torch.ones(2, 3)


def test_a_model_with_float32_tensors_of_its_own_is_told_what_to_do():
    with pytest.raises(FalllineError, match=r"dtype=x\.dtype"):
        fl.trace_backprop(nn.Sequential(Narrow(2, 3)), torch.randn(4, 2), torch.randn(4, 3), nn.MSELoss())


def test_a_square_written_by_hand_is_recognised():
    model = nn.Sequential(nn.Linear(2, 2))
    x, y = torch.randn(3, 2), torch.randn(3, 2)
    assert fl.trace_backprop(model, x, y, lambda p, t: ((p - t) ** 2).mean()).loss.derivative == "2 (ŷ − y) / n"
    assert fl.trace_backprop(model, x, y, half_square).loss.derivative == "ŷ − y"
    assert fl.trace_backprop(model, x, y, lambda p, t: ((p - t) ** 2).sum() / 2 + 1).loss.derivative == "by autograd"


def test_a_saturated_unit_is_called_so():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sigmoid(), nn.Linear(2, 1))
    nn.init.constant_(model[0].bias, 20.0)
    trace = fl.trace_backprop(model, [0.1, 0.2], [5.0], nn.MSELoss())
    assert "saturated" in trace.marked[0].mark.say
    assert trace.marked[0].layer == "1"


def test_it_works_where_gradients_are_switched_off():
    model = nn.Sequential(nn.Linear(2, 1))
    with torch.no_grad():
        assert fl.trace_backprop(model, [1.0, 2.0], [1.0], nn.MSELoss()).agrees
    with torch.inference_mode():
        assert fl.trace_backprop(model, torch.ones(1, 2), torch.ones(1, 1), nn.MSELoss()).agrees


def test_a_column_of_targets_meets_a_column_of_outputs():
    model = nn.Sequential(nn.Linear(2, 1))
    x, y = torch.randn(6, 2), torch.randn(6)
    by_name, by_torch = fl.trace_backprop(model, x, y, "mse"), fl.trace_backprop(model, x, y, nn.MSELoss())
    expected = ((model.double()(x.double()).squeeze(1) - y.double()) ** 2).mean().item()
    assert by_name.loss.value == pytest.approx(expected, rel=1e-12)
    assert by_torch.loss.value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "loss",
    [nn.MSELoss(), nn.L1Loss(), nn.BCEWithLogitsLoss(), functional.mse_loss, "mse", "mae", "binary_cross_entropy"],
    ids=lambda loss: getattr(loss, "__name__", str(loss)),
)
def test_known_losses_start_from_their_closed_form(loss):
    torch.manual_seed(0)
    y = torch.randint(0, 2, (6, 1)).float()
    part = fl.trace_backprop(nn.Sequential(nn.Linear(2, 1)), torch.randn(6, 2), y, loss).loss
    assert part.closed_form
    assert part.error < 1e-12


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), "cross_entropy"], ids=str)
def test_cross_entropy_starts_from_its_closed_form(loss):
    part = fl.trace_backprop(nn.Sequential(nn.Linear(2, 3)), torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]), loss).loss
    assert part.closed_form


def test_a_loss_that_is_not_the_known_form_falls_back_to_autograd():
    part = fl.trace_backprop(
        nn.Sequential(nn.Linear(2, 3)), torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]), nn.CrossEntropyLoss(label_smoothing=0.1)
    ).loss
    assert not part.closed_form
    assert part.derivative == "by autograd"


NET = nn.Sequential(nn.Linear(2, 3))
BAD = {
    "rows": (NET, torch.randn(4, 2), torch.randn(3, 3), nn.MSELoss(), "len(y) == len(x)"),
    "columns": (NET, torch.randn(4, 2), torch.randn(4, 2), nn.MSELoss(), "(4, 3)"),
    "silent broadcast": (NET, torch.randn(4, 2), torch.randn(4, 1), nn.MSELoss(), "(4, 1)"),
    "class out of range": (NET, torch.randn(4, 2), torch.tensor([0, 1, 2, 3]), nn.CrossEntropyLoss(), "Target 3"),
    "no reduction": (NET, torch.randn(4, 2), torch.randn(4, 3), nn.MSELoss(reduction="none"), "one number"),
    "a float": (NET, torch.randn(4, 2), torch.randn(4, 3), lambda p, y: 1.0, "one number"),
    "detached": (NET, torch.randn(4, 2), torch.randn(4, 3), lambda p, y: p.detach().sum(), "differentiable"),
    "no parameters": (nn.Sequential(nn.ReLU()), torch.randn(4, 2), torch.randn(4, 2), nn.MSELoss(), "no parameter that needs a gradient"),
    "all frozen": (nn.Linear(2, 3).requires_grad_(False), torch.randn(4, 2), torch.randn(4, 3), nn.MSELoss(), "no parameter that needs"),
    "lazy": (nn.Sequential(nn.LazyLinear(3)), torch.randn(4, 2), torch.randn(4, 3), nn.MSELoss(), "lazy"),
    "features": (NET, torch.randn(4, 5), torch.randn(4, 3), nn.MSELoss(), "(4, 5)"),
    "empty": (NET, torch.randn(0, 2), torch.randn(0, 3), nn.MSELoss(), "at least one example"),
    "nan": (NET, torch.tensor([[float("nan"), 1.0]]), torch.randn(1, 3), nn.MSELoss(), "finite"),
    "complex": (NET, torch.randn(1, 2) + 1j, torch.randn(1, 3), nn.MSELoss(), "real numbers"),
    "text": (NET, "abc", torch.randn(1, 3), nn.MSELoss(), "`x` must be"),
    "not a model": (lambda x: x, torch.randn(4, 2), torch.randn(4, 3), nn.MSELoss(), "torch.nn.Module"),
    "not a loss": (NET, torch.randn(4, 2), torch.randn(4, 3), 3, "callable"),
    "a class": (NET, torch.randn(4, 2), torch.randn(4, 3), nn.MSELoss, "MSELoss()"),
    "unknown name": (NET, torch.randn(4, 2), torch.randn(4, 3), "mze", "mse"),
    "two outputs": (nn.LSTM(2, 3), torch.randn(4, 2), torch.randn(4, 3), nn.MSELoss(), "one tensor"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_wrong_use_gets_one_sentence(case):
    model, x, y, loss, words = BAD[case]
    with pytest.raises(FalllineError) as caught:
        fl.trace_backprop(model, x, y, loss)
    said = str(caught.value)
    assert words in said
    assert "\n" not in said
    assert said.endswith(".")
