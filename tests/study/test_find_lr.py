"""The finder on real rows: sensible rates, and not a bit of anything changed by looking."""

import hashlib
import random

import numpy as np
import pytest
import torch
from torch import nn

import fallline as fl
from fallline._core.errors import FalllineError
from fallline.data import load
from fallline.training import Settings, train


@pytest.fixture(scope="module")
def digits():
    return load("digits")


USUAL = {  # within these a network of one hidden layer trains well on standardised inputs, by the literature and by full trainings
    "sgd": (0.02, 2.0),
    "momentum": (0.002, 0.3),
    "adagrad": (0.005, 0.4),
    "adadelta": (0.3, 20.0),
    "rmsprop": (0.0005, 0.03),
    "adam": (0.0005, 0.05),
}


@pytest.mark.parametrize("name", USUAL)
def test_rates_are_sensible_on_digits(digits, name):
    found = fl.find_lr("mlp:64", digits, "auto", name)
    low, high = USUAL[name]
    assert found.found
    assert low <= found.suggested <= high
    assert found.useful[0] <= found.suggested <= found.useful[1]
    assert found.edge is None or found.edge > found.suggested
    assert 0.4 <= found.confidence <= 1
    assert len(found.lrs) == len(found.losses)


def test_the_suggested_rate_trains_nearly_as_well_as_the_best_of_a_grid(digits):
    from fallline.record import Writer
    from fallline.study.models import fresh
    from fallline.training.threads import fitting_threads

    def loss_at(lr):
        model = fresh("mlp:64", digits.input_shape, 10, seed=5)
        with fitting_threads(model, 32):
            out = train(model, digits, Settings(optimizer="adam", lr=lr, epochs=4, seed=5), writer=Writer(None), progress=False, test=False)
        return out.metrics["validation"]["loss"]

    grid = min(loss_at(lr) for lr in (0.0003, 0.001, 0.003, 0.01, 0.03))
    found = fl.find_lr("mlp:64", digits, "auto", "adam", epochs=4)
    assert loss_at(found.suggested) < 1.5 * grid


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 5])
def test_the_rate_of_a_run_of_six_steps_is_safe_for_six_steps(seed):
    """Trials of ten steps on few orders of the rows chose 0.46 for seed 0: after six steps the loss stood at 957,189."""
    rng = np.random.default_rng(seed)
    pictures, classes = rng.integers(0, 256, (80, 3, 16, 16)), rng.integers(0, 4, 80)
    classes[:8] = [0, 1, 2, 3] * 2
    run = fl.fit("cnn", (pictures, classes), optimizer="sgd", epochs=3, seed=seed, keep="last", quiet=True)
    assert run.status == "finished"
    assert run.metrics["train"]["loss"] < 2


def fed(digest, thing):
    """Feed everything that `thing` holds into a hash, bit for bit."""
    if isinstance(thing, torch.Tensor):
        digest.update(repr((thing.dtype, thing.shape, thing.requires_grad)).encode())
        digest.update(thing.detach().contiguous().numpy().tobytes())
    elif isinstance(thing, np.ndarray):
        digest.update(repr((thing.dtype, thing.shape)).encode() + thing.tobytes())
    elif isinstance(thing, dict):
        for key, value in thing.items():
            digest.update(repr(key).encode())
            fed(digest, value)
    elif isinstance(thing, list | tuple):
        digest.update(b"[")
        for value in thing:
            fed(digest, value)
    else:
        digest.update(repr(thing).encode())


def fingerprint(*modules, optimizer=None, loader=None, tensors=()):
    """A hash of modules (parameters, buffers, gradients, flags), optimizer, loader, tensors, every random generator and the threads."""
    digest = hashlib.sha256()
    for module in modules:
        fed(digest, module.state_dict())
        fed(digest, [(name, p.requires_grad, p.grad) for name, p in module.named_parameters()])
        fed(digest, [(name, b) for name, b in module.named_buffers()])  # those that state_dict leaves out, too
        fed(digest, [(name, m.training, len(m._forward_hooks), len(m._backward_hooks)) for name, m in module.named_modules()])
    if optimizer is not None:
        fed(digest, optimizer.state_dict())
        fed(digest, [[{**g, "params": [id(p) for p in g["params"]]}] for g in optimizer.param_groups])
    if loader is not None:
        fed(digest, [g.get_state() for g in (loader.generator, getattr(loader.sampler, "generator", None)) if g is not None])
    fed(digest, list(tensors))
    fed(digest, [random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.get_num_threads()])  # noqa: NPY002
    return digest.hexdigest()


def test_the_fingerprint_sees_every_part():
    """A hash that could not change would prove nothing."""
    model, data = plain_problem()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    loader = torch.utils.data.DataLoader(data, batch_size=20, shuffle=True, generator=torch.Generator().manual_seed(9))
    changes = [
        lambda: model[0].weight.data.add_(1e-7),
        lambda: setattr(model[0].weight, "grad", torch.zeros_like(model[0].weight)),
        lambda: model[1].running_mean.add_(1e-7),
        model[2].eval,
        lambda: model[0].weight.requires_grad_(False),
        lambda: optimizer.param_groups[0].update(lr=0.002),
        lambda: loader.generator.manual_seed(3),
        random.random,
        np.random.random,
        lambda: torch.rand(1),
        lambda: data.tensors[0].add_(1e-7),
    ]
    seen = {fingerprint(model, optimizer=optimizer, loader=loader, tensors=data.tensors)}
    for change in changes:
        change()
        seen.add(fingerprint(model, optimizer=optimizer, loader=loader, tensors=data.tensors))
    assert len(seen) == len(changes) + 1


def mixed_model():
    """A module with batch norm, dropout, a frozen part, a part in evaluation mode and gradients that are left from before."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 10)
    )
    model.train()
    model[3].eval()
    model[5].requires_grad_(False)
    model[1].weight.grad = torch.ones(16, 64)
    return model


def parts(data):
    return [part for split in (data.train, data.validation, data.test) for part in (split.x, split.y)]


@pytest.mark.parametrize("together", [True, False])
def test_nothing_changes_with_a_module(digits, together, monkeypatch):
    if not together:
        monkeypatch.setattr("fallline.study.lr._together", lambda *given: None)
    model = mixed_model()
    before = fingerprint(model, tensors=parts(digits))
    first = fl.find_lr(model, digits, "auto", "adam", epochs=2)
    assert fingerprint(model, tensors=parts(digits)) == before
    assert first.found
    torch.manual_seed(123)  # the answer does not hang on the user's generators either
    assert fl.find_lr(model, digits, "auto", "adam", epochs=2) == first


@pytest.mark.parametrize("calls", [1, 7, 150])
def test_nothing_changes_where_the_named_way_raises(digits, calls):
    """The model's forward fails in the middle: in the first look, in a ramp, in a trial."""
    count = 0

    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mixed_model()

        def forward(self, x):
            nonlocal count
            count += 1
            if count > calls:
                random.random()
                torch.rand(3)
                raise RuntimeError("as planned")
            return self.inner(x)

    model = Failing()
    before = fingerprint(model, tensors=parts(digits))
    with pytest.raises(RuntimeError, match="as planned"):
        fl.find_lr(model, digits, "auto", "adam")
    assert fingerprint(model, tensors=parts(digits)) == before


def plain_problem():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(300, 4, generator=generator)
    y = (x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]])) + 0.1 * torch.randn(300, 1, generator=generator)
    data = torch.utils.data.TensorDataset(x, y)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.ReLU(), nn.Linear(8, 1)), data


class Scaled(nn.Module):
    """A loss with a parameter and a buffer of its own; it fails after `calls` calls."""

    count = 0

    def __init__(self, calls=None):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("seen", torch.zeros(1))
        self.calls, Scaled.count = calls, 0

    def forward(self, output, y):
        Scaled.count += 1  # of the class: copies count on
        if self.calls is not None and Scaled.count > self.calls:
            raise RuntimeError("as planned")
        self.seen += 1
        return ((output - y) / self.scale).square().mean() + self.scale.abs().log().sum()


@pytest.mark.parametrize(
    "make",
    [
        "torch",
        "fallline",
        "torch, after steps",
        pytest.param("torch, with the loss", marks=pytest.mark.slow),
        "fails at once",
        "fails in a trial",
    ],
)
def test_nothing_changes_with_plain_torch(make):
    model, data = plain_problem()
    order = torch.Generator().manual_seed(9)
    loader = torch.utils.data.DataLoader(data, batch_size=20, shuffle=True, generator=order)
    fails = {"fails at once": 1, "fails in a trial": 900}.get(make)
    loss = Scaled(fails) if fails or make == "torch, with the loss" else None
    learnt = [*model.parameters(), *(loss.parameters() if loss is not None else [])]
    optimizers = {"fallline": lambda: fl.optim.Adam(model.named_parameters(), lr=0.001)}
    optimizer = optimizers.get(make, lambda: torch.optim.Adam(learnt, lr=0.001))()
    if make == "torch, after steps":
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
    modules = [model] if loss is None else [model, loss]
    before = fingerprint(*modules, optimizer=optimizer, loader=loader, tensors=data.tensors)
    if fails:
        with pytest.raises(RuntimeError, match="as planned"):
            fl.find_lr(model, loader, loss, optimizer)
    else:
        found = fl.find_lr(model, loader, loss or nn.functional.mse_loss, optimizer)
        assert found.found or make == "torch, after steps"
        if found.found:
            assert 1e-4 < found.suggested < 1
    assert fingerprint(*modules, optimizer=optimizer, loader=loader, tensors=data.tensors) == before


BOWL = [(x, x.sum(1, keepdim=True)) for x in torch.randn(10, 20, 3, generator=torch.Generator().manual_seed(0))]


def test_the_seed_that_waits_for_cuda_is_kept():
    """Where CUDA has not begun, torch keeps the latest seed for it."""
    if torch.cuda.is_initialized():
        pytest.skip("CUDA has begun")

    def waiting():
        return [[cell.cell_contents for cell in call[0].__closure__] for call in torch.cuda._lazy_seed_tracker.get_calls() if call]

    def make():
        torch.manual_seed(77)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    torch.manual_seed(123)
    before = waiting()
    fl.find_lr(nn.Linear(3, 1), BOWL, nn.functional.mse_loss, torch.optim.SGD, epochs=1)
    assert waiting() == before
    fl.find_lr(make, "digits", optimizer="sgd", epochs=1, batch_size="full")
    assert waiting() == before


def test_a_loss_module_without_parameters_is_copied():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))
            self.calls = 0

        def forward(self, output, y):
            self.seen += 1
            self.calls += 1
            return (output - y).square().mean()

    loss = Counting()
    assert fl.find_lr(nn.Linear(3, 1), BOWL, loss, torch.optim.SGD, epochs=1).found
    assert (float(loss.seen), loss.calls) == (0.0, 0)


class Counted(torch.optim.SGD):
    """Attributes of its own, one of them a parameter."""

    def __init__(self, parameters, lr=0.01):
        super().__init__(parameters, lr=lr)
        self.taken, self.first = 0, self.param_groups[0]["params"][0]

    def step(self, closure=None):
        self.taken += 1
        assert self.first is self.param_groups[0]["params"][0]
        return super().step(closure)


def test_an_optimizer_with_attributes_of_its_own_is_copied_with_them():
    model = nn.Linear(3, 1)
    optimizer = Counted(model.parameters())
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)  # wraps step
    assert fl.find_lr(model, BOWL, nn.functional.mse_loss, optimizer, epochs=1).found
    assert optimizer.taken == 0
    assert optimizer.first is model.weight


@pytest.mark.parametrize("made", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_optimizer_that_needs_a_closure(made):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2) if made else torch.optim.LBFGS
    before = fingerprint(model)
    found = fl.find_lr(model, BOWL, nn.functional.mse_loss, optimizer, epochs=1)
    assert fingerprint(model) == before
    assert found.found
    assert 0.1 < found.suggested < 3  # on a bowl Newton's step is 1


def test_an_iterator_is_refused_and_not_eaten():
    batches = iter(BOWL)
    with pytest.raises(FalllineError, match="can be read again"):
        fl.find_lr(nn.Linear(3, 1), batches, nn.functional.mse_loss, torch.optim.SGD)
    assert len(list(batches)) == len(BOWL)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(off):
    with off():
        assert fl.find_lr(nn.Linear(3, 1), BOWL, nn.functional.mse_loss, torch.optim.SGD, epochs=1).found
        assert not torch.is_grad_enabled()


@pytest.mark.slow
def test_walks_at_once_are_walks_one_by_one(digits):
    """The two forms take the same steps: losses and judgements agree to rounding, walks that ended or waited included."""
    from fallline.data import Data
    from fallline.study import lr as study_lr
    from fallline.study.walks import OneByOne

    assert isinstance(digits, Data)
    made = {}

    def kept(begin, **given):
        made.update(begin=begin, **given)
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_lr, "range_test", kept)
        study_lr.find_lr("mlp:16", digits, Settings(optimizer="momentum", epochs=2))
    orders = [3, 3, 4, 5]
    rates = [[0.01] * 30, [0.1] * 30, [0.03] * 30, [1e30] * 30]
    forms = made["together"](orders), OneByOne(made["begin"], orders, hold=True)
    for asked, marks in ((rates, [0, 10, 30]), ([rates[0], [], [], []], [30]), ([[], rates[1], rates[2], []], [30])):
        ours, alone = (form.run(asked, marks) for form in forms)
        for a, b in zip(ours, alone, strict=True):
            assert len(a.losses) == len(b.losses)
            np.testing.assert_allclose(a.losses, b.losses, rtol=2e-4)
            np.testing.assert_allclose(a.ends, b.ends, rtol=2e-4)
    assert len(ours[3].losses) == 0


def test_groups_keep_their_ratio():
    """A group at a hundredth of the other's rate stays there while the rate is ramped."""
    model, data = plain_problem()
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([g["lr"] for g in self.param_groups])
            return super().step(closure)

    parts = [{"params": model[0].parameters(), "lr": 0.001}, {"params": model[3].parameters(), "lr": 0.1}]
    fl.find_lr(model, list(torch.utils.data.DataLoader(data, 20)), nn.functional.mse_loss, Watched(parts))
    ratios = [b / a for a, b in seen if a]  # the walk that stands still for comparison has a rate of zero
    assert len(ratios) > 100
    assert ratios == pytest.approx([100.0] * len(ratios))


@pytest.mark.slow
def test_labels_that_cannot_be_learned_by_a_frozen_model(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    dead = nn.Parameter(torch.zeros(1))

    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.dead = model.requires_grad_(False), dead

        def forward(self, x):
            return self.inner(x) + 0 * self.dead

    found = fl.find_lr(Frozen(), digits, "auto", "sgd")
    assert not found.found
    assert found.suggested == fl.optim.OPTIMIZERS["sgd"].default_lr
    assert "no learning rate made the loss fall" in found.text()


def test_wrong_use_is_told(digits):
    with pytest.raises(FalllineError, match="data is given"):
        fl.find_lr("mlp:8")
    with pytest.raises(FalllineError, match="did you mean"):
        fl.find_lr("mlp:8", digits, "auto", "adma")
    with pytest.raises(FalllineError, match="torch module"):
        fl.find_lr("mlp:8", [], nn.functional.mse_loss, torch.optim.SGD)
    with pytest.raises(FalllineError, match=r"epochs >= 1, .* but got 0"):
        fl.find_lr(nn.Linear(3, 1), BOWL, nn.functional.mse_loss, torch.optim.SGD, epochs=0)
    with pytest.raises(FalllineError, match=r"a pair of tensors.*\(ndarray, ndarray\)"):
        fl.find_lr(nn.Linear(3, 1), [(x.numpy(), y.numpy()) for x, y in BOWL], nn.functional.mse_loss, torch.optim.SGD)
    with pytest.raises(FalllineError, match=r"rows of shape \(1, 8, 8\)"):
        fl.find_lr(nn.Linear(64, 10), digits)
    with pytest.raises(FalllineError, match="at least one batch"):
        fl.find_lr(nn.Linear(1, 1), [], nn.functional.mse_loss, torch.optim.SGD)
    model, other = nn.Linear(1, 1), nn.Linear(1, 1)
    batches = [(torch.ones(2, 1), torch.ones(2, 1))]
    with pytest.raises(FalllineError, match="parameters of this model only"):
        fl.find_lr(model, batches, nn.functional.mse_loss, torch.optim.SGD(other.parameters(), lr=0.1))
