"""Every pass gives each member the gradients, outputs and buffers it would have alone."""

import copy
import math
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fallline.losses import MSE, CrossEntropy
from fallline.population.dense import Dense
from fallline.population.layers import Layers
from fallline.population.mapped import Mapped
from fallline.population.noise import Noise, Unstackable
from fallline.population.parts import Highest
from fallline.population.passes import make_pass
from fallline.population.stack import Stack
from fallline.training.dense import dense_stack

ROWS, CLASSES = 6, 3


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second, self.last = nn.Linear(8, 9), nn.LayerNorm(9), nn.Linear(9, 9, bias=False), nn.Linear(9, CLASSES)
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        h = h + F.dropout(torch.relu(self.second(self.norm(h))), 0.2, self.training)
        return self.last(F.dropout(self.drop(h), training=self.training, p=0.1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.again = self.inner
        self.unused = nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.randn(8), requires_grad=False)

    def forward(self, x):
        return self.last(torch.tanh(self.again(torch.tanh(self.inner(x)))) * self.frozen)


class Convolved(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.other, self.last = nn.Conv2d(4, 4, 3, padding="same"), nn.BatchNorm2d(4, momentum=None), nn.Linear(4, CLASSES)

    def forward(self, x):
        h = torch.relu(self.norm(self.first(x.view(len(x), 1, 4, 2))))
        h = torch.relu(h + self.other(self.second(h)))
        return self.last(F.dropout2d(h, 0.2, self.training).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(4, 2, 8, dropout=dropout, batch_first=True)
        self.last = nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.last(self.inner(x.view(len(x), 2, 4)).flatten(1))


class ByHand(nn.Module):
    """Attention of linear layers: the keys' bias has a gradient of 0."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, CLASSES)

    def forward(self, x):
        x = x.view(len(x), 2, 4)
        return self.last((torch.softmax(self.q(x) @ self.k(x).transpose(1, 2), -1) @ self.v(x)).flatten(1))


class Turned(nn.Module):
    """Drops of a tensor whose numbers stand in another order in memory, in place, and all of another."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        h = F.dropout(self.first(x).view(len(x), 2, 4).transpose(1, 2), 0.4, self.training)
        h = h.reshape(len(x), 8) + F.dropout(x, 1.0, self.training)
        F.dropout(h, 0.3, self.training, True)
        return self.last(h)


class Averaged(nn.Module):
    """Keeps an average of its inputs in a buffer, which it changes in place."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(8, CLASSES)
        self.register_buffer("mean", torch.zeros(8), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.last(x - self.mean)


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(7, 5), nn.Linear(40, CLASSES)

    def forward(self, x):
        return self.last(self.table(x.long().abs() % 7).flatten(1))


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 9), nn.ReLU(), nn.Dropout(0.3), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, CLASSES))


def pictures():
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 2)),
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(4, 5, 1, bias=False), nn.GELU()),
        nn.Flatten(),
        nn.Linear(10, 7),
        nn.BatchNorm1d(7, momentum=None),
        nn.LeakyReLU(0.1),
        nn.Dropout(0.2),
        nn.Linear(7, CLASSES),
    )


def rows_of_time():
    return nn.Sequential(
        nn.Unflatten(1, (2, 4)),
        nn.Conv1d(2, 3, 2),
        nn.BatchNorm1d(3, track_running_stats=False),
        nn.ELU(),
        nn.AdaptiveAvgPool1d(2),
        nn.Flatten(),
        nn.LayerNorm(6),
        nn.SiLU(),
        nn.Linear(6, CLASSES),
    )


def normed():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 6)), nn.Sigmoid(), nn.Linear(6, CLASSES))


def frozen():
    model = pictures()
    for p in [*model[1].parameters(), model[2].weight]:
        p.requires_grad_(False)
    return model


MODELS = {
    "plain": (plain, Dense),
    "pictures": (pictures, Layers),
    "rows of time": (rows_of_time, Layers),
    "frozen": (frozen, Layers),
    "turned": (Turned, Mapped),
    "residual": (Residual, Mapped),
    "tied, frozen and unused": (Tied, Mapped),
    "custom convolutions": (Convolved, Layers),
    "attention": (Attention, Layers),
    "attention by hand": (ByHand, Layers),
    "an average in a buffer": (Averaged, Mapped),
    "embedding": (Embedded, Mapped),
    "parametrized": (normed, Mapped),
}


def members(make, count=3, dtype=torch.float64):
    out = []
    for seed in range(count):
        torch.manual_seed(seed)
        out.append(make().to(dtype))
    return out


def batches(count, rows=ROWS, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, rows, 8, generator=g, dtype=torch.float64).to(dtype), torch.randint(0, CLASSES, (count, rows), generator=g)


def alone(model, x, y, loss):
    """One step of one member by autograd, drawing from torch's own generator."""
    model.train()
    for p in model.parameters():
        p.grad = None
    raw = model(x)
    value = loss.quick(raw if raw.shape[-1] > 1 else raw.reshape(-1), y)
    value.backward()
    return value.detach(), raw.detach()


def compare(make, kind, *, count=3, rows=(ROWS, ROWS, 4), dtype=torch.float64, exact=False, limit=1e-12):
    loss = CrossEntropy()
    stack = Stack(members(make, count, dtype))
    models = members(make, count, dtype)
    noise = Noise([10 + r for r in range(count)])
    x, y = batches(count, dtype=dtype)
    made = make_pass(stack, x[0], noise, y[0], loss, short=min(rows))
    assert type(made) is kind
    states = [torch.Generator().manual_seed(10 + r).get_state() for r in range(count)]
    for turn, n in enumerate(rows):
        x, y = batches(count, n, dtype, seed=turn)
        values, raw = made.step(x, y, loss)
        for r, model in enumerate(models):
            torch.set_rng_state(states[r])
            value, expected = alone(model, x[r], y[r], loss)
            states[r] = torch.get_rng_state()
            near = 0.0 if exact else limit
            assert (values[r] - value).abs() <= limit
            assert (raw[r] - expected).abs().max() <= near
            for name, p in model.named_parameters():
                if p.grad is None:
                    assert name in stack.fixed
                else:
                    assert (stack.grads[name][r] - p.grad).abs().max() <= near, name
            for name, b in model.named_buffers():
                assert (stack.buffers[name][r] - b).abs().max() <= near, name
    held = batches(1, 5, dtype, seed=9)[0][0]
    with torch.inference_mode():
        seen = made.outputs(held)
        for r, model in enumerate(models):
            assert (seen[r] - model.eval()(held)).abs().max() <= limit
    return stack


@pytest.mark.parametrize("name", MODELS)
def test_gradients_outputs_and_buffers_equal_autograd(name):
    make, kind = MODELS[name]
    compare(make, kind, exact=kind is Layers)


def slope_of(loss, raw, y):
    if raw.shape[1] > 1:
        return loss.quick_slope(raw, y)
    value, slope = loss.quick_slope(raw[:, 0], y)
    return value, slope.unsqueeze(1)


@pytest.mark.parametrize("rows", [32, 9])
@pytest.mark.parametrize("outputs", [10, 1])
def test_a_plain_stack_gives_the_very_bits_of_the_run_alone(rows, outputs):
    """Alone it goes through `training.dense`, which calls the same products."""
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(200, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, outputs)) for _ in range(3)]
    x, loss = torch.randn(3, rows, 200), CrossEntropy() if outputs > 1 else MSE()
    y = torch.randint(0, 10, (3, rows)) if outputs > 1 else torch.randn(3, rows)
    loss.validate_targets(y.flatten())
    stack = Stack(models)
    made = make_pass(stack, x[0], Noise([0, 1, 2]), y[0], loss)
    assert type(made) is Dense
    made.step(x, y, loss)
    for r, model in enumerate(models):
        with torch.random.fork_rng():
            torch.manual_seed(r)
            one = dense_stack(model, x[r])
            assert one is not None
            one.step(x[r], lambda raw, r=r: slope_of(loss, raw, y[r]))
        assert all(torch.equal(stack.grads[name][r], p.grad) for name, p in model.named_parameters())


def test_highest_of_ties_infinities_and_nan():
    """The pooling with the channels last finds the numbers and the places that torch finds."""
    layer = nn.MaxPool2d(3, 2, 1)
    x = torch.randint(0, 3, (4, 5, 7, 7)).float()
    x[0, 0, 2], x[1, 1, 3, 3], x[2, 2] = math.inf, math.nan, -math.inf
    value, places = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    part = Highest(layer)
    assert torch.allclose(part.forward(0, x, True), value, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(part.where, places)
    leaf, delta = x.clone().requires_grad_(), torch.randn_like(value)
    layer(leaf).backward(delta)
    assert torch.equal(part.backward(0, delta, True), leaf.grad)


@pytest.mark.parametrize("name", ["pictures", "frozen", "rows of time", "custom convolutions", "attention"])
def test_members_in_turn_do_not_differ_by_one_bit_in_float32(name):
    compare(*MODELS[name], dtype=torch.float32, exact=True, limit=1e-5)


ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.ELU, nn.SiLU, nn.LeakyReLU, nn.Identity, lambda: nn.Dropout(0.3), nn.Softplus]


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    acts=st.lists(st.integers(0, len(ACTIVATIONS) - 1), min_size=3, max_size=3),
    norms=st.lists(st.booleans(), min_size=3, max_size=3),
    convolution=st.booleans(),
    biased=st.booleans(),
    rows=st.integers(2, 9),
    count=st.integers(1, 4),
)
def test_any_stack_of_layers(widths, acts, norms, convolution, biased, rows, count):
    def make():
        layers, width = [], 8
        if convolution:
            layers += [nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 3, 2, stride=2, bias=biased), nn.Flatten()]
            width = 6
        for out, act, norm in zip(widths, acts, norms, strict=False):
            layers += [nn.Linear(width, out, bias=biased), *([nn.BatchNorm1d(out)] if norm else []), ACTIVATIONS[act]()]
            width = out
        return nn.Sequential(*layers, nn.Linear(width, CLASSES))

    model = make()
    x, y = batches(1, rows)
    kind = type(make_pass(Stack([model.double()] * 2), x[0], Noise([0, 1]), y[0], CrossEntropy()))
    compare(make, kind, count=count, rows=(rows, rows), exact=kind is Layers, limit=1e-10)


class Still(Residual):
    """Always in evaluation mode: without dropout."""

    def train(self, mode=True):
        del mode
        return super().train(False)


def test_torch_func_agrees():
    """`stack_module_state`, `vmap` and `grad`, as torch's documentation puts them together, as a second opinion."""
    models = [m.train() for m in members(Still)]
    x, y = batches(3)
    base = copy.deepcopy(models[0])

    def cost(params, buffers, xs, ys):
        return F.cross_entropy(torch.func.functional_call(base, (params, buffers), (xs,)), ys)

    expected = torch.func.vmap(torch.func.grad(cost))(*torch.func.stack_module_state(models), x, y)
    for kind in (Mapped, Layers):
        stack = Stack(models)
        made = Mapped(stack, Noise([0, 1, 2]), {ROWS: []}) if kind is Mapped else Layers(stack, Noise([0, 1, 2]), x[0], drops=False)
        made.step(x, y, CrossEntropy())
        for name, grad in expected.items():
            assert (stack.grads[name] - grad).abs().max() < 1e-13


def test_one_output_and_no_column():
    class Column(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.last = nn.BatchNorm1d(8), nn.Linear(8, 1)

        def forward(self, x):
            return self.last(self.norm(x)).squeeze(-1)

    for make in (Column, lambda: nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 1)), lambda: nn.Sequential(nn.Linear(8, 1))):
        stack, models = Stack(members(make)), members(make)
        x, _ = batches(3)
        y = torch.randn(3, ROWS, dtype=torch.float64)
        made = make_pass(stack, x[0], Noise([0, 1, 2]), y[0], MSE())
        _, raw = made.step(x, y, MSE())
        assert raw.shape == (3, ROWS, 1)
        assert made.outputs(x[0]).shape == (3, ROWS, 1)
        for r, model in enumerate(models):
            alone(model, x[r], y[r], MSE())
            for name, p in model.named_parameters():
                assert (stack.grads[name][r] - p.grad).abs().max() < 1e-13


# --- what cannot be done together --------------------------------------------------------------------------------------------------------


class Forward(nn.Module):
    """A linear layer and a forward that is given."""

    def __init__(self, run):
        super().__init__()
        self.last, self.run = nn.Linear(8, CLASSES), run
        self.register_buffer("held", torch.zeros(8))
        self.count = 0

    def forward(self, x):
        return self.run(self, x)


def counted(self, x):
    self.count += 1
    return self.last(x)


def replaced(self, x):
    self.held = self.held * 0.9 + x.mean(0) * 0.1
    return self.last(x)


def hooked():
    model = Forward(lambda self, x: self.last(x))
    model.last.register_forward_hook(lambda module, args, out: None)
    return model


def watched():
    model = nn.Sequential(nn.Linear(8, CLASSES))
    model[0].weight.register_hook(lambda g: g)
    return model


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.inner, self.last = kind(4, 5, batch_first=True, **options), nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.last(self.inner(x.view(len(x), 2, 4))[0][:, -1])


REFUSED = {
    "chooses": (lambda: Forward(lambda s, x: s.last(x) if x.sum() > 0 else s.last(-x)), "chooses its way by the values"),
    "item": (lambda: Forward(lambda s, x: s.last(x) * x.sum().item()), "reads a tensor's value|chooses its way"),
    "numpy": (lambda: Forward(lambda s, x: s.last(torch.from_numpy(x.numpy() * 2))), "leaves torch"),
    "randn": (lambda: Forward(lambda s, x: s.last(x + torch.randn_like(x))), "draws random numbers"),
    "numpy's random": (lambda: Forward(lambda s, x: s.last(x * np.random.rand())), "draws random numbers"),  # noqa: NPY002
    "python's random": (lambda: Forward(lambda s, x: s.last(x * random.random())), "draws random numbers"),
    "gumbel": (lambda: Forward(lambda s, x: F.gumbel_softmax(s.last(x))), "draws random numbers"),
    "rrelu": (lambda: nn.Sequential(nn.Linear(8, CLASSES), nn.RReLU()), "rrelu draws random numbers"),
    "alpha dropout": (lambda: nn.Sequential(nn.Linear(8, CLASSES), nn.AlphaDropout(0.2)), "alpha_dropout draws random numbers"),
    "attention with dropout": (lambda: Attention(0.1), "attention drops out inside"),
    "hooks": (hooked, "Linear has hooks"),
    "hooks of a parameter": (watched, "parameter has hooks"),
    "counts": (lambda: Forward(counted), r"keeps something of its own from call to call \('count'\)"),
    "a buffer put in the place of another": (lambda: Forward(replaced), "its buffer 'held' is not what it is alone"),
    "a tuple": (lambda: Forward(lambda s, x: (s.last(x), x)), "returns a tuple"),
    "nothing to learn": (lambda: Forward(lambda s, x: s.last(x).detach()), "no parameter of the model has a gradient"),
    "rnn": (lambda: Recurrent(nn.RNN), "recurrent"),
    "lstm": (lambda: Recurrent(nn.LSTM), "recurrent"),
    "gru": (lambda: Recurrent(nn.GRU), "recurrent"),
    "lstm with dropout": (lambda: Recurrent(nn.LSTM, num_layers=2, dropout=0.2), "draws random numbers"),
    "fails": (lambda: Forward(lambda s, x: s.last(x[:, :3])), "cannot be run on a mini-batch"),
    "fails on fewer rows": (lambda: Forward(lambda s, x: s.last(x.view(ROWS, 8))), "cannot be run on a mini-batch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_stands_in_the_way_is_said_and_nothing_is_changed(name):
    make, words = REFUSED[name]
    torch.manual_seed(0)
    models = [make().double() for _ in range(2)]
    before = [{n: t.clone() for n, t in m.state_dict().items()} for m in models]
    stack, noise = Stack(models), Noise([0, 1])
    held = {n: (t, t.clone()) for n, t in stack.everything.items()}
    names = [list(part) for part in (stack.values, stack.fixed, stack.buffers, stack.grads)]
    streams = [g.get_state() for g in noise.generators]
    state, np_state, py_state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    x, y = batches(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Unstackable, match=words):
            make_pass(stack, x[0], noise, y[0], CrossEntropy(), short=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], np_state[1])  # noqa: NPY002
    assert random.getstate() == py_state
    assert all(torch.equal(g.get_state(), was) for g, was in zip(noise.generators, streams, strict=True))
    assert names == [list(part) for part in (stack.values, stack.fixed, stack.buffers, stack.grads)]
    for n, (tensor, was) in held.items():
        assert stack.everything[n] is tensor
        assert torch.equal(tensor, was)
    for model, state in zip(models, before, strict=True):
        assert model.training
        assert all(p.grad is None for p in model.parameters())
        assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


def test_a_pass_that_is_made_draws_and_changes_nothing():
    for name, (make, _) in MODELS.items():
        stack, noise = Stack(members(make)), Noise([0, 1, 2])
        held = {n: t.clone() for n, t in stack.everything.items()}
        streams = [g.get_state() for g in noise.generators]
        state = torch.get_rng_state()
        x, y = batches(1)
        make_pass(stack, x[0], noise, y[0], CrossEntropy(), short=4)
        assert torch.equal(torch.get_rng_state(), state), name
        assert all(torch.equal(g.get_state(), was) for g, was in zip(noise.generators, streams, strict=True)), name
        assert all(torch.equal(t, held[n]) for n, t in stack.everything.items()), name


def test_a_batch_norm_and_one_row_says_what_torch_says():
    make = MODELS["pictures"][0]
    stack = Stack(members(make))
    x, y = batches(3)
    made = make_pass(stack, x[0], Noise([0, 1, 2]), y[0], CrossEntropy())
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        made.step(x[:, :1], y[:, :1], CrossEntropy())
    made.step(x, y, CrossEntropy())  # and the next step is as good as ever
