"""Pairwise distances where the usual formulas fail: coincident points, large offsets, zero vectors, 16 bits."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fallline import mining
from fallline._core.errors import FalllineError

D = torch.float64
FORMS = {"euclidean": mining.euclidean, "squared": mining.squared_euclidean, "cosine": mining.cosine_distance}


def plain(x, y, form):
    if form == "cosine":
        return 1 - (x @ y.T) / (x.norm(dim=1)[:, None] * y.norm(dim=1))
    squares = (x[:, None] - y[None]).square().sum(-1)
    return squares if form == "squared" else squares.sqrt()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "close"), [(D, 1e-10), (torch.float32, 1e-6), (torch.bfloat16, 1e-6), (torch.float16, 1e-6)])
def test_values(form, dtype, close):
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 40, generator=g).to(dtype) for n in (30, 50))
    found = FORMS[form](x, y)
    assert found.dtype == (dtype if dtype == D else torch.float32)
    torch.testing.assert_close(found.to(D), plain(x.to(D), y.to(D), form), rtol=close, atol=close)
    torch.testing.assert_close(FORMS[form](x), FORMS[form](x, x))


@pytest.mark.parametrize("dtype", [D, torch.float32])
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_a_large_offset_costs_no_digits(dtype, offset):
    x = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)).to(dtype) + offset
    exact = plain(x.to(D), x.to(D), "squared")
    found = mining.squared_euclidean(x)
    assert torch.equal(found.diagonal(), torch.zeros(30, dtype=dtype))
    torch.testing.assert_close(found.to(D), exact, rtol=1e-6 if dtype != D else 1e-12, atol=0)
    if offset == 1e5 and dtype != D:  # what the plain product form makes of it
        assert (torch.cdist(x, x, compute_mode="use_mm_for_euclid_dist").diagonal() > 1).any()


@pytest.mark.parametrize("dtype", [D, torch.float32])
def test_close_points_keep_their_distance(dtype):
    x = torch.randn(10, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = x + 1e-5 * torch.randn(10, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    torch.testing.assert_close(
        mining.euclidean(x, y).diagonal().to(D), (x.to(D) - y.to(D)).norm(dim=1), rtol=3e-5 if dtype != D else 1e-12, atol=0
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [D, torch.float32])
def test_coincident_points_and_zero_vectors_have_finite_gradients(form, dtype):
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    d = FORMS[form](x)
    (gradient,) = torch.autograd.grad(d[0, 1] + d[2, 3] + d[0, 0], x)
    assert torch.equal(gradient, torch.zeros_like(x)) if form != "cosine" else torch.isfinite(gradient).all()
    (gradient,) = torch.autograd.grad(FORMS[form](x).sum(), x)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_derivatives_vmap_and_compile(form):
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 3, generator=g, dtype=D).requires_grad_() for n in (4, 5))
    f = FORMS[form]
    assert gradcheck(f, (x, y))
    assert gradgradcheck(f, (x, y))
    both = torch.stack([x.detach(), 2 * x.detach()])
    torch.testing.assert_close(torch.func.vmap(f)(both), torch.stack([f(b) for b in both]))
    tangent = torch.ones_like(x)
    expected = torch.autograd.functional.jvp(lambda x: f(x, y.detach()), x.detach(), tangent)[1]
    torch.testing.assert_close(torch.func.jvp(lambda x: f(x, y.detach()), (x.detach(),), (tangent,))[1], expected)
    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(x, y).sum(), x)[0], torch.autograd.grad(f(x, y).sum(), x)[0])


def test_nan_stays_in_its_row():
    x = torch.randn(4, 3)
    x[2] = torch.nan
    d = mining.euclidean(x)
    assert torch.isnan(d[2]).all()
    assert not torch.isnan(d[[0, 1, 3]][:, [0, 1, 3]]).any()


def test_unit_neither_overflows_nor_vanishes():
    x = torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0]], requires_grad=True)
    u = mining.unit(x)
    torch.testing.assert_close(u, torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]]))
    assert torch.equal(torch.autograd.grad(u[2].sum(), x)[0][2], torch.zeros(2))


@pytest.mark.parametrize("form", FORMS)
def test_shapes_are_checked(form):
    with pytest.raises(FalllineError, match=r"points \(N, D\)"):
        FORMS[form](torch.ones(3))
    with pytest.raises(FalllineError, match=r"points \(M, 2\)"):
        FORMS[form](torch.ones(3, 2), torch.ones(3, 4))


@pytest.mark.parametrize("scale", [1e20, 1e-24])
def test_no_scale_overflows_or_vanishes(scale):
    x = (torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * scale).requires_grad_()
    d = mining.euclidean(x)
    wide = x.detach().to(D).requires_grad_()
    expected = (wide[0] - wide[1:]).norm(dim=1)
    torch.testing.assert_close(d[0, 1:].to(D), expected, rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(d[0, 1:].sum(), x)
    torch.testing.assert_close(gradient.to(D), torch.autograd.grad(expected.sum(), wide)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [D, torch.float32])
def test_a_point_at_infinity_is_near_nothing(dtype):
    for far in (torch.inf, -torch.inf):
        for row in (0, 1):
            x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]], dtype=dtype)
            x[row, 0] = far
            for form in FORMS.values():
                others = [i for i in range(3) if i != row]
                assert not form(x)[row, others].isfinite().any()
                assert form(x)[others][:, others].isfinite().all()


def test_autocast_does_not_narrow():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    for form in FORMS.values():
        expected = form(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(form(x), expected)
