"""ArcFace and CosFace: against the papers in plain Python and pytorch-metric-learning, at the ends of the cosine, with class vectors."""

import math

import pytest
import torch

from fallline._core.errors import FalllineError
from fallline.losses import ArcFace, CosFace, build, functional
from fallline.mining.distances import unit
from tests.reference import batch64, losses64

D = torch.float64
NAMES = ["arc_face", "cos_face"]
N, C, WIDTH = 8, 5, 4


def given(seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(N, WIDTH, generator=g, dtype=D), torch.randint(0, C, (N,), generator=g), torch.randn(C, WIDTH, generator=g, dtype=D)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("margin", "scale"), [(0.5, 64.0), (0.2, 4.0), (0.0, 1.0), (1.4, 8.0)])
def test_equals_the_formula_with_class_vectors(name, margin, scale):
    x, y, w = given()
    found = getattr(functional, name)(x, y, weight=w, margin=margin, scale=scale, reduction="none")
    cosines = [[batch64.cosine(a, b) for b in w.tolist()] for a in x.tolist()]
    assert any(math.acos(row[label]) > math.pi - 1.4 for row, label in zip(cosines, y.tolist(), strict=True))  # beyond π − m is met
    expected = [getattr(losses64, name)(row, label, margin, scale) for row, label in zip(cosines, y.tolist(), strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=D), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_module_and_function_and_cosines_agree(name):
    x, y, w = given()
    loss = build(name, classes=C, dim=WIDTH)
    with torch.no_grad():
        loss.weight.copy_(w)
    w = loss.weight.to(D)
    torch.testing.assert_close(loss(x, y), getattr(functional, name)(x, y, weight=w))
    torch.testing.assert_close(loss(x, y), build(name)(unit(x) @ unit(w).T, y), rtol=1e-9, atol=1e-12)
    mask, weight = torch.arange(N) % 3 != 0, torch.linspace(0.5, 2, N, dtype=D)
    torch.testing.assert_close(loss(x, y, mask=mask, sample_weight=weight), loss(x[mask], y[mask], sample_weight=weight[mask]))
    total, count = loss.sum_and_count(x, y)
    torch.testing.assert_close(total / count, loss(x, y))


@pytest.mark.parametrize("name", NAMES)
def test_first_and_second_derivatives_of_embeddings_and_class_vectors(name):
    x, y, w = given()
    x, y, w = x[:3, :3], y[:3] % 3, w[:3, :3]
    for margin in (0.3, 1.4):
        call = lambda x, w: getattr(functional, name)(x, y, weight=w, margin=margin, scale=4.0)  # noqa: E731, B023
        assert torch.autograd.gradcheck(call, (x.requires_grad_(), w.requires_grad_()))
        assert torch.autograd.gradgradcheck(call, (x, w), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [1, -1])
def test_gradients_are_finite_where_the_embedding_lies_on_its_class_vector(side, dtype):
    g = torch.Generator().manual_seed(0)
    w = torch.randn(C, WIDTH, generator=g, dtype=dtype).requires_grad_()
    y = torch.arange(C)
    for slight in (0.0, 1e-9, 1e-7, 1e-4):
        x = (side * 3 * w.detach() + slight * torch.randn(C, WIDTH, generator=g, dtype=dtype)).requires_grad_()
        value = functional.arc_face(x, y, weight=w)
        slopes = torch.autograd.grad(value, (x, w), create_graph=True)
        curves = torch.autograd.grad(sum(s.square().sum() for s in slopes), (x, w))
        assert value.isfinite()
        assert all(t.isfinite().all() for t in (*slopes, *curves))
        assert max(s.abs().max() for s in slopes) < 100  # of the order of the scale, not of 1 / sin


def test_the_case_that_is_nan_elsewhere():
    """The embedding (1, 1e-4) against the class vector (1, 0): acos rounds its argument to 1, and its slope is infinite there."""
    w = torch.eye(2)
    x = torch.tensor([[1.0, 1e-4]], requires_grad=True)
    functional.arc_face(x, torch.tensor([0]), weight=w, scale=1.0).backward()
    wide = x.detach().to(D).requires_grad_()
    functional.arc_face(wide, torch.tensor([0]), weight=w.to(D), scale=1.0).backward()
    torch.testing.assert_close(x.grad, wide.grad.float(), rtol=1e-3, atol=1e-6)
    assert x.grad[0, 1] > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_cosines_at_the_ends_have_finite_gradients(name):
    c = torch.tensor([[1.0, -1.0, 0.2], [-1.0, 1.0, 0.2], [1.0 + 1e-7, 0.0, -1.0]]).requires_grad_()
    value = build(name)(c, torch.tensor([0, 0, 0]))
    (slope,) = torch.autograd.grad(value, c, create_graph=True)
    (curve,) = torch.autograd.grad(slope.square().sum(), c)
    assert all(t.isfinite().all() for t in (value, slope, curve))


def test_the_value_falls_with_the_cosine_all_the_way_round():
    angle = torch.linspace(0, math.pi, 2001, dtype=D)
    raised = ArcFace(margin=0.5).raised(angle.cos()[:, None], angle.sin()[:, None]).squeeze()
    assert (raised.diff() < 0).all()
    torch.testing.assert_close(raised[:1000], (angle + 0.5).cos()[:1000])


@pytest.mark.parametrize("name", NAMES)
def test_zero_vectors_and_half_precision(name):
    x, y, w = given()
    x = x.clone()
    x[0] = 0
    leaf = x.requires_grad_()
    getattr(functional, name)(leaf, y, weight=w).backward()
    assert torch.equal(leaf.grad[0], torch.zeros(WIDTH, dtype=D))
    loss = build(name, classes=C, dim=WIDTH)
    for dtype in (torch.float16, torch.bfloat16, D):
        value = loss(x.detach().to(dtype), y)
        assert value.dtype == (D if dtype == D else torch.float32)
        assert loss.weight.dtype == torch.float32
    narrow = loss.half()(x.detach().half(), y)
    assert narrow.dtype == torch.float32
    assert narrow.isfinite()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(getattr(functional, name)(x.detach(), y, weight=w), getattr(functional, name)(x.detach(), y, weight=w))


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_not_hidden(name):
    x, y, w = given()
    x = x.clone()
    x[2, 1] = torch.nan
    assert getattr(functional, name)(x, y, weight=w).isnan()


@pytest.mark.parametrize("name", NAMES)
def test_against_pytorch_metric_learning_away_from_the_ends(name):
    peers = pytest.importorskip("pytorch_metric_learning.losses")
    x, y, w = given()
    peer = {
        "arc_face": lambda: peers.ArcFaceLoss(C, WIDTH, margin=math.degrees(0.5), scale=8),
        "cos_face": lambda: peers.CosFaceLoss(C, WIDTH, margin=0.35, scale=8),
    }[name]()
    peer.W.data = w.T.clone()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    theirs, ours = peer(a, y), getattr(functional, name)(b, y, weight=w, scale=8.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(ours, b), torch.autograd.grad(theirs, a), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("cls", [ArcFace, CosFace])
def test_class_vectors_are_even_on_the_sphere_and_learned(cls):
    torch.manual_seed(0)
    loss = cls(classes=500, dim=16)
    torch.testing.assert_close(loss.weight.norm(dim=1), torch.ones(500))
    assert loss.weight.mean(0).norm() < 0.15
    x, y = torch.randn(12, 16), torch.randint(0, 500, (12,))
    loss(x, y).backward()
    assert loss.weight.grad.abs().sum() > 0
    assert list(loss.state_dict()) == ["weight"]


def test_specs_and_class_weights():
    assert build("arcface:margin=0.3").margin == 0.3
    assert build("cosface:classes=10,dim=64").weight.shape == (10, 64)
    x, y, w = given()
    weigh = torch.linspace(1, 3, C, dtype=D)
    each = functional.arc_face(x, y, weight=w, reduction="none")
    torch.testing.assert_close(functional.arc_face(x, y, weight=w, class_weight=weigh), (each * weigh[y]).sum() / weigh[y].sum())
    ignored = torch.where(y == 1, -100, y)
    torch.testing.assert_close(functional.arc_face(x, ignored, weight=w), each[y != 1].mean())


def test_refusals():
    x, y, w = given()
    for call, said in (
        (lambda: build("arc_face", classes=10), "classes=10 and dim=0"),
        (lambda: build("arc_face", classes=1, dim=3), "classes >= 2"),
        (lambda: build("arc_face")(x * 9, y.clamp(max=3)), r"the input is cosines in \[−1, 1\]"),
        (lambda: build("arc_face", classes=C, dim=WIDTH + 1)(x, y), "as wide as the embeddings"),
        (lambda: functional.arc_face(x, y + 3, weight=w), "every label is one of 0..4"),
        (lambda: functional.arc_face(x, y.to(D), weight=w), "whole numbers"),
        (lambda: functional.arc_face(x[None], y[None], weight=w), r"flatten\(1\)"),
        (lambda: functional.arc_face(x, y, weight=w, class_weight=torch.ones(3)), "class_weight has the shape"),
        (lambda: build("arc_face", margin=2), "margin <= 1.5"),
    ):
        with pytest.raises(FalllineError, match=said):
            call()
