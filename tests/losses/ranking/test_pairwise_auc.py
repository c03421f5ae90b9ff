"""The pairwise AUC hinge against all pairs written out, by the sort in torch and by the compiled sweep."""

import time

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fallline._core.errors import FalllineError, FalllineWarning
from fallline.losses import PairwiseAUC, build, check_task, functional
from fallline.losses import _checks as checks
from fallline.losses.ranking import _kernels, _sums
from tests.reference import batch64

D = torch.float64


@pytest.fixture(autouse=True)
def _warn_again(monkeypatch):
    monkeypatch.setattr(checks, "_warned", set())


@pytest.fixture(params=["sorted", "swept"])
def form(request, monkeypatch):
    """Both ways to the sums: the sort in torch, and the compiled sweep, which takes float32 alone."""
    monkeypatch.setattr(_sums, "_WORTH", 0 if request.param == "swept" else 1 << 40)
    return request.param


def batch(n, dtype, offset=0.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    s = (torch.randn(n, generator=g, dtype=D) * 2 + offset).to(dtype)
    s[: n // 4] = s[n // 4 : 2 * (n // 4)]  # duplicates
    s[-3:] = torch.tensor([1.0, 0.0, -1.0], dtype=dtype) + offset  # pairs exactly at a margin of 1
    y = torch.rand(n, generator=g) < 0.3
    y[-3:] = torch.tensor([True, False, True])
    w = torch.rand(n, generator=g, dtype=D)
    w[::7] = 0
    return s, y.long(), w


def all_pairs(s, y, w, margin, squared):
    """The mean over all pairs, by an (N+, N-) matrix."""
    s, w, p = s.double(), w.double(), y == 1
    miss = (margin - (s[p][:, None] - s[~p][None, :])).relu()
    both = w[p][:, None] * w[~p][None, :]
    return ((miss.square() if squared else miss) * both).sum() / both.sum()


def slopes(loss, s):
    s = s.detach().clone().requires_grad_()
    value = loss(s)
    (slope,) = torch.autograd.grad(value, s)
    return value.detach(), slope


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("offset", [0.0, 1000.0, 1e6])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (D, 1e-10)])
def test_equals_all_pairs_at_any_offset(form, dtype, tolerance, offset, squared):
    s, y, w = batch(400, dtype, offset)
    loss = PairwiseAUC(squared=squared)
    value, slope = slopes(lambda s: loss(s, y, sample_weight=w.to(dtype)), s)
    expected, expected_slope = slopes(lambda s: all_pairs(s, y, w.to(dtype), 1.0, squared), s.double())
    assert abs(value.double() / expected - 1) < tolerance
    assert (slope.double() - expected_slope).abs().max() < tolerance * expected_slope.abs().max()


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("n", [2, 3, 17, 60])
def test_equals_the_loop_over_pairs(form, n, squared):
    s, y, w = batch(max(n, 4), D, seed=n)
    s, y, w = s[-n:], y[-n:], w[-n:] + 0.1
    expected = batch64.pairwise_auc(s.tolist(), y.tolist(), w.tolist(), 0.7, squared)
    assert abs(functional.pairwise_auc(s, y, sample_weight=w, margin=0.7, squared=squared).item() - expected) < 1e-12
    narrow = functional.pairwise_auc(s.float(), y, sample_weight=w.float(), margin=0.7, squared=squared)
    assert abs(narrow.item() - expected) < 1e-5 * (1 + expected)


@pytest.mark.parametrize("squared", [True, False])
def test_whole_scores_with_many_ties_at_the_margin(form, squared):
    g = torch.Generator().manual_seed(4)
    for _ in range(40):
        n = int(torch.randint(2, 30, (1,), generator=g))
        s, y = torch.randint(-3, 4, (n,), generator=g).float(), torch.randint(0, 2, (n,), generator=g)
        w = torch.randint(0, 3, (n,), generator=g).float()
        y[:2], w[:2] = torch.tensor([0, 1]), 1
        value, slope = slopes(lambda s, y=y, w=w: PairwiseAUC(squared=squared)(s, y, sample_weight=w), s)
        expected, expected_slope = slopes(lambda s, y=y, w=w: all_pairs(s, y, w, 1.0, squared), s)
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(slope, expected_slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("squared", [True, False])
def test_a_far_score_costs_the_near_ones_no_digits(form, squared):
    s, y, w = batch(300, torch.float32)
    s[0], y[0], w[0] = 1e7, 1, 1.0  # a positive beyond all: its pairs cost nothing
    loss = PairwiseAUC(squared=squared)
    value, slope = slopes(lambda s: loss(s, y, sample_weight=w.float()), s)
    expected, expected_slope = slopes(lambda s: all_pairs(s, y, w.float(), 1.0, squared), s.double())
    assert abs(value.double() / expected - 1) < 1e-5
    assert (slope.double() - expected_slope).abs().max() < 1e-5 * expected_slope.abs().max()


def test_second_derivatives(form):
    s, y, w = batch(9, D, seed=3)
    s, w = s + 0.01 * torch.arange(9, dtype=D), w + 0.1  # away from the kinks
    for squared in (True, False):
        loss = PairwiseAUC(squared=squared, margin=1.3)

        def call(s, loss=loss):
            return loss(s, y, sample_weight=w)

        assert gradcheck(call, (s.requires_grad_(),))
        assert gradgradcheck(call, (s,))
        curvature = torch.autograd.functional.hessian(call, s.detach())
        expected = torch.autograd.functional.hessian(lambda s, q=squared: all_pairs(s, y, w, 1.3, q), s.detach())
        torch.testing.assert_close(curvature, expected, rtol=1e-10, atol=1e-12)
    narrow = torch.autograd.functional.hessian(lambda s: PairwiseAUC(margin=1.3)(s, y, sample_weight=w.float()), s.detach().float())
    wide = torch.autograd.functional.hessian(lambda s: all_pairs(s, y, w, 1.3, True), s.detach())
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=1e-5)


def test_both_ways_give_the_same_of_a_large_batch(monkeypatch):
    s, y, w = batch(5000, torch.float32)
    loss = PairwiseAUC()
    monkeypatch.setattr(_sums, "_WORTH", 1 << 40)
    plain = slopes(lambda s: loss(s, y, sample_weight=w.float()), s)
    called = []
    down = _kernels.down
    monkeypatch.setattr(_sums, "_WORTH", 0)
    monkeypatch.setattr(_kernels, "down", lambda *a: called.append(1) or down(*a))
    swept = slopes(lambda s: loss(s, y, sample_weight=w.float()), s)
    assert called
    torch.testing.assert_close(swept, plain, rtol=1e-6, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, when forward mode is first used
def test_forward_mode_and_weights_that_are_learnt(form):
    s, y, w = batch(40, torch.float32)
    loss, w = PairwiseAUC(), (w + 0.1).float()
    v = torch.randn(40, generator=torch.Generator().manual_seed(5))
    _, slope = slopes(lambda s: loss(s, y, sample_weight=w), s)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(s, v)
        tangent = torch.autograd.forward_ad.unpack_dual(loss(dual, y, sample_weight=w)).tangent
    torch.testing.assert_close(tangent, (slope * v).sum(), rtol=1e-4, atol=1e-6)
    (by_w,) = torch.autograd.grad(loss(s, y, sample_weight=w.requires_grad_()), w)
    (expected,) = torch.autograd.grad(all_pairs(s, y, w, 1.0, True), w)
    torch.testing.assert_close(by_w, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_transforms_see_the_formula(form):
    s, y, w = batch(20, D, seed=2)
    s = s + 0.01 * torch.arange(20, dtype=D)

    def call(s):
        return PairwiseAUC(margin=1.3)(s, y, sample_weight=w)

    value, slope = slopes(call, s)
    v = torch.randn(20, generator=torch.Generator().manual_seed(1), dtype=D)
    torch.testing.assert_close(torch.func.jvp(call, (s,), (v,)), (value, (slope * v).sum()))
    torch.testing.assert_close(torch.func.jacrev(call)(s), slope)
    by_pairs = torch.func.hessian(lambda s: all_pairs(s, y, w, 1.3, True))(s)
    torch.testing.assert_close(torch.func.hessian(call)(s), by_pairs)


def test_columns_and_inference_mode(form):
    s, y, _ = batch(50, torch.float32)
    wide = torch.stack([s, -s], dim=1)
    expected = PairwiseAUC()(s, y)
    with torch.inference_mode():
        assert torch.equal(PairwiseAUC()(wide[:, 0], y), expected)
    wide.requires_grad_()
    PairwiseAUC()(wide[:, 0], y).backward()
    torch.testing.assert_close(wide.grad[:, 0], slopes(lambda s: PairwiseAUC()(s, y), s)[1])
    assert not wide.grad[:, 1].any()


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_costs_nothing_and_is_told_once(form, label):
    s = torch.randn(5, requires_grad=True)
    y = torch.full((5,), label)
    with pytest.warns(FalllineWarning, match="all 5 examples of this batch are " + ("positive" if label else "negative")):
        value = PairwiseAUC()(s, y)
    value.backward()
    assert value.item() == 0
    assert torch.equal(s.grad, torch.zeros(5))
    assert PairwiseAUC()(s, y).item() == 0  # and no second warning
    both = torch.tensor([0, 0, 0, 0, 1])
    checks._warned.clear()
    with pytest.warns(FalllineWarning, match="all 4 examples"):
        assert PairwiseAUC()(s, both, mask=both == 0).item() == 0


def test_a_weight_counts_as_copies(form):
    s, y, _ = batch(12, torch.float32)
    twice = torch.ones(12)
    twice[[2, 9]] = 2
    again = torch.cat([torch.arange(12), torch.tensor([2, 9])])
    torch.testing.assert_close(PairwiseAUC()(s, y, sample_weight=twice), PairwiseAUC()(s[again], y[again]))
    total, count = PairwiseAUC(normalize="count").sum_and_count(s, y, sample_weight=twice)
    assert count == y.sum() * (12 - y.sum())
    torch.testing.assert_close(total, PairwiseAUC(reduction="sum")(s[again], y[again]))


def test_each_positive_has_its_own_sum(form):
    s, y, _ = batch(20, torch.float32)
    each = PairwiseAUC(reduction="none")(s, y)
    miss = (1 - s[:, None] + s[None, :]).relu().square()
    torch.testing.assert_close(each, torch.where(y == 1, (miss * (y == 0)).sum(1), 0))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_a_score_that_is_no_number_shows(form, value, where):
    s, y, _ = batch(40, torch.float32)
    s[torch.nonzero(y == where)[0]] = value
    found, slope = slopes(lambda s: PairwiseAUC()(s, y), s)
    assert torch.isnan(found)
    assert torch.isnan(slope).any()


def test_closed_form():
    s, y = torch.tensor([0.5, 0.0, 2.0]), torch.tensor([1, 0, 0])
    assert PairwiseAUC(squared=False)(s, y).item() == (0.5 + 2.5) / 2
    assert PairwiseAUC()(s, y).item() == (0.25 + 6.25) / 2
    assert PairwiseAUC(margin=3)(s, y).item() == (2.5**2 + 4.5**2) / 2


def test_bad_input_is_told():
    s = torch.zeros(3)
    with pytest.raises(FalllineError, match=r"-1/\+1 labels: write \(target \+ 1\) / 2"):
        PairwiseAUC()(s, torch.tensor([-1, 1, 1]))
    with pytest.raises(FalllineError, match=r"0 or 1.*0.5 in row 1.*binary_cross_entropy"):
        PairwiseAUC()(s, torch.tensor([0.0, 0.5, 1.0]))
    with pytest.raises(FalllineError, match=r"\(N,\).*flatten"):
        PairwiseAUC()(torch.zeros(3, 1), torch.zeros(3, 1))
    check_task("pairwise_auc", "binary", (0, 1))
    assert build("auc_hinge:squared=false").squared is False


def test_learns_the_order_of_a_rare_class():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(600, 4, generator=g)
    truth = torch.tensor([1.0, -2.0, 0.5, 0.0])
    y = (x @ truth + torch.randn(600, generator=g) > 4).long()
    assert 0 < y.sum() < 60
    w = torch.zeros(4, requires_grad=True)
    for _ in range(60):
        value = PairwiseAUC()(x @ w, y)
        (slope,) = torch.autograd.grad(value, w)
        w = (w - 0.1 * slope).detach().requires_grad_()
    s = (x @ w).detach()
    auc = (s[y == 1][:, None] > s[y == 0]).float().mean()
    assert auc > 0.95


def test_a_million_scores_take_no_matrix():
    g = torch.Generator().manual_seed(0)
    s, y = torch.randn(1_000_000, generator=g), torch.rand(1_000_000, generator=g) < 0.1
    start = time.perf_counter()
    value, slope = slopes(lambda s: PairwiseAUC(squared=False)(s, y), s)
    assert time.perf_counter() - start < 20
    part = s[y][:1000], s[~y]
    k = torch.searchsorted(part[1].sort().values.double(), part[0].double() - 1)
    negatives = (~y).sum()
    share = (negatives - k).double() / negatives / y.sum()
    torch.testing.assert_close(slope[y][:1000].double(), -share, rtol=1e-5, atol=0)
    d = 2**0.5  # the gap of two draws is normal with this deviation
    normal = torch.distributions.Normal(torch.zeros((), dtype=D), 1.0)
    expected = normal.cdf(torch.tensor(1 / d, dtype=D)) + d * normal.log_prob(torch.tensor(1 / d, dtype=D)).exp()
    assert abs(value - expected) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("far", [torch.finfo(torch.float32).min, -1e10, 1e10])
def test_a_far_outlier_leaves_the_other_pairs_as_they_are(form, far, dtype):
    s = torch.tensor([0.3, 0.2, far], dtype=dtype)
    y = torch.tensor([1, 0, 0]) if far < 0 else torch.tensor([1, 0, 1])
    value, slope = slopes(lambda s: functional.pairwise_auc(s, y, squared=False, reduction="sum"), s)
    assert abs(value.item() - (1 - s[0].item() + s[1].item())) < 1e-7 if dtype != D else abs(value.item() - 0.9) < 1e-15
    assert slope.tolist() == [-1, 1, 0]


@pytest.mark.parametrize("scale", [1e20, 1e-30])
def test_the_mean_does_not_ask_how_large_the_weights_are(form, scale):
    s, y, w = batch(60, torch.float32)
    w = w.float()
    expected = PairwiseAUC()(s, y, sample_weight=w)
    torch.testing.assert_close(PairwiseAUC()(s, y, sample_weight=w * scale), expected)


@pytest.mark.filterwarnings("ignore:.*vmap.*")
def test_a_batch_of_gradients(form):
    s, y, _ = batch(40, torch.float32)
    each = PairwiseAUC(reduction="none")
    rows = torch.autograd.functional.jacobian(lambda s: each(s, y), s, vectorize=True)
    torch.testing.assert_close(rows, torch.autograd.functional.jacobian(lambda s: each(s, y), s))
