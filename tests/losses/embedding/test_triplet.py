"""The triplet loss against every triplet listed: values, gradients, both engines, and what else a batch may hold."""

import itertools

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fallline._core.errors import FalllineError, FalllineWarning
from fallline.losses import Triplet, functional
from fallline.losses import _checks as checks
from fallline.losses.embedding import _triplet_fast
from fallline.mining import squared_euclidean
from tests.losses.embedding import brute
from tests.reference import batch64

D = torch.float64
LISTED = ("all", "all_semi_hard", "batch_hard", "semi_hard")
ENGINES = ("numba", "torch")


def batch(n=24, classes=4, dim=5, dtype=D, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=g, dtype=D).to(dtype), torch.randint(0, classes, (n,), generator=g)


def slope(loss, x, *args, **kw):
    x = x.detach().clone().requires_grad_()
    value = loss(x, *args, **kw)
    return value.detach(), torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("mining", LISTED)
@pytest.mark.parametrize("distance", ["euclidean", "squared", "cosine"])
def test_equals_the_formula_in_plain_python(mining, distance):
    x, y = batch()
    z, c = batch(n=9, seed=1)
    for squared, average, margin in itertools.product((False, True), ("all", "active"), (0.1, 1.5)):
        options = {"margin": margin, "mining": mining, "squared": squared, "average": average}
        for more in (None, (z, c)):
            found = batch64.triplet(
                x.tolist(), y.tolist(), kind=distance, **options, more=((), ()) if more is None else (z.tolist(), c.tolist())
            )
            loss = Triplet(distance=distance, reduction="none", **options)
            torch.testing.assert_close(loss(x, y, reference=more), torch.tensor([s for s, _ in found], dtype=D), rtol=1e-10, atol=1e-12)
            total, count = loss.sum_and_count(x, y, reference=more)
            assert count == sum(n for _, n in found)
            torch.testing.assert_close(total / count.clamp(min=1), Triplet(distance=distance, **options)(x, y, reference=more))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mining", LISTED)
@pytest.mark.parametrize("distance", ["euclidean", "squared", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_value_and_gradient_are_those_of_the_list(engine, mining, distance, dtype, monkeypatch):
    brute.use(engine, monkeypatch)
    x, y = batch()
    z, c = batch(n=9, seed=1)
    weight = torch.rand(24, generator=torch.Generator().manual_seed(2), dtype=D)
    weight[[3, 7]] = 0
    narrow, more_narrow = x.to(dtype), (z.to(dtype), c)
    x, z = narrow.to(D), z.to(dtype).to(D)
    tight = {"rtol": 1e-10, "atol": 1e-12} if dtype == D else {"rtol": 1e-5, "atol": 1e-6}
    for squared, average, w, more in itertools.product((False, True), ("all", "active"), (None, weight), (False, True)):
        options = {"margin": 0.7, "distance": distance, "mining": mining, "squared": squared, "average": average}
        expected = slope(brute.loss, x, y, weight=w, reference=(z, c) if more else None, **options)
        found = slope(Triplet(**options), narrow, y, sample_weight=w, reference=more_narrow if more else None)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == dtype
            torch.testing.assert_close(a.to(D), b, **tight)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mining", ["all", "all_semi_hard"])
@pytest.mark.parametrize("squared", [False, True])
def test_ties_and_duplicates(engine, mining, squared, monkeypatch):
    brute.use(engine, monkeypatch)
    g = torch.Generator().manual_seed(0)
    for dtype, distance in ((torch.float32, "euclidean"), (torch.float32, "squared"), (D, "euclidean")):
        x = torch.randint(0, 3, (20, 2), generator=g).to(dtype)  # few places: most points coincide, distances tie, margins are met exactly
        y = torch.randint(0, 3, (20,), generator=g)
        options = {"margin": 1.0, "distance": distance, "mining": mining, "squared": squared}
        for average in ("all", "active"):
            expected = slope(brute.loss, x.to(D), y, average=average, **options)
            found = slope(Triplet(average=average, **options), x, y)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a.to(D), b, rtol=1e-6 if dtype != D else 1e-10, atol=1e-6 if dtype != D else 1e-12)


def test_gradient_by_the_reference(monkeypatch):
    x, y = batch()
    z, c = batch(n=9, seed=1)
    z.requires_grad_()
    expected = torch.autograd.grad(brute.loss(x, y, reference=(z, c)), z)[0]
    for engine in ENGINES:
        with monkeypatch.context() as here:
            brute.use(engine, here)
            torch.testing.assert_close(torch.autograd.grad(Triplet()(x, y, reference=(z, c)), z)[0], expected)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mining", LISTED)
@pytest.mark.parametrize("squared", [False, True])
def test_second_derivatives_of_each_engine(engine, mining, squared, monkeypatch):
    brute.use(engine, monkeypatch)
    x, y = batch(n=7, classes=2, dim=2, seed=3)
    loss = Triplet(mining=mining, squared=squared, margin=0.8, reduction="none")
    x.requires_grad_()
    assert gradcheck(lambda x: loss(x, y), (x,))
    assert gradgradcheck(lambda x: loss(x, y), (x,), atol=1e-4)
    z, c = batch(n=3, classes=2, dim=2, seed=4)
    z.requires_grad_()
    assert gradgradcheck(lambda x, z: loss(x, y, reference=(z, c)), (x, z), atol=1e-4)


@pytest.mark.parametrize("mining", LISTED)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_the_compiled_rows_step_back_for_torch_func_and_compile(mining, monkeypatch):
    monkeypatch.setattr(_triplet_fast, "SMALL", 0)
    x, y = batch()
    loss = Triplet(mining=mining, margin=0.6)
    value, gradient = slope(loss, x, y)
    torch.testing.assert_close(torch.func.grad(loss)(x, y), gradient)
    torch.testing.assert_close(torch.func.vmap(loss)(torch.stack([x, 2 * x]), torch.stack([y, y])), torch.stack([value, loss(2 * x, y)]))
    direction = torch.randn_like(x)
    _, tangent = torch.func.jvp(lambda x: loss(x, y), (x,), (direction,))
    torch.testing.assert_close(tangent, (gradient * direction).sum())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(loss(dual, y)).tangent, tangent)
    torch._dynamo.reset()
    torch.testing.assert_close(slope(torch.compile(loss, fullgraph=True, backend="aot_eager"), x, y)[1], gradient)


@pytest.mark.parametrize("mining", LISTED)
def test_many_blocks_and_threads_change_nothing(mining, monkeypatch):
    x, y = batch(n=90, dtype=torch.float32)
    loss = Triplet(mining=mining)
    monkeypatch.setattr(_triplet_fast, "SMALL", 0)
    expected = slope(loss, x, y)
    monkeypatch.setattr(_triplet_fast, "_BLOCK", 900)
    monkeypatch.setattr(_triplet_fast, "_SHARED", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    found = slope(loss, x, y)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    brute.use("torch", monkeypatch)
    monkeypatch.setattr("fallline.losses.embedding.triplet.blocks", lambda n, m: [(i, min(i + 7, n)) for i in range(0, n, 7)])
    for a, b in zip(slope(loss, x, y), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mining", [*LISTED, "distance_weighted"])
def test_nan_is_never_hidden(engine, mining, monkeypatch):
    brute.use(engine, monkeypatch)
    for labels in ([0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 2, 3]):
        x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0], [9.0, 8.0]], requires_grad=True)
        for row in range(4):
            bad = torch.where(torch.arange(4)[:, None] == row, torch.nan, x)
            assert torch.isnan(Triplet(mining=mining, validate=False)(bad, torch.tensor(labels)))
    value = Triplet(mining=mining)(torch.where(torch.arange(4)[:, None] == 0, torch.nan, x), torch.tensor([0, 0, 1, 1]))
    assert torch.isnan(torch.autograd.grad(value, x)[0][1:]).any()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("labels", "why"),
    [(range(64), "no class occurs twice: 64 labels, 64 distinct"), ([5] * 64, "all 64 labels are the same")],
)
def test_a_batch_without_triplets_is_zero_and_says_why_once(engine, labels, why, monkeypatch, recwarn):
    brute.use(engine, monkeypatch)
    monkeypatch.setattr(checks, "_warned", set())
    x, y = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), torch.tensor(list(labels))
    with pytest.warns(FalllineWarning, match=why):
        value, gradient = slope(Triplet(), x, y)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(x))
    recwarn.clear()
    Triplet()(x, y)
    assert not recwarn
    monkeypatch.setattr(checks, "_warned", set())
    Triplet()(x, y, reference=(x[:2], torch.tensor([0, 1])))
    assert not recwarn


@pytest.mark.parametrize("engine", ENGINES)
def test_each_cause_of_no_triplet_is_told_once(engine, monkeypatch, recwarn):
    brute.use(engine, monkeypatch)
    monkeypatch.setattr(checks, "_warned", set())
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    with pytest.warns(FalllineWarning, match="4 distinct.*several examples of each class"):
        Triplet()(x, torch.arange(4))
    with pytest.warns(FalllineWarning, match="all 4 labels are the same.*several classes"):
        Triplet()(x, torch.ones(4, dtype=torch.long))
    with pytest.warns(FalllineWarning, match="the batch holds one example"):
        value, gradient = slope(Triplet(), torch.ones(1, 3), torch.tensor([4]))
    recwarn.clear()
    Triplet()(x, torch.arange(4))
    Triplet()(x, torch.ones(4, dtype=torch.long))
    assert not recwarn
    assert value == 0
    assert torch.equal(gradient, torch.zeros(1, 3))


@pytest.mark.parametrize("distance", ["euclidean", "squared"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_common_offset_costs_nothing(engine, distance, monkeypatch):
    brute.use(engine, monkeypatch)
    x, y = batch(n=40, dtype=torch.float32)
    x = (x * 64).round() / 64  # so that adding 4096 is exact
    near, far = (slope(Triplet(distance=distance, margin=0.5), x + shift, y) for shift in (0, 4096))
    torch.testing.assert_close(far[0], near[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(far[1], near[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("distance", ["euclidean", "squared", "cosine"])
def test_given_triplets_in_both_forms(distance):
    a, p, n = torch.randn(3, 10, 4, generator=torch.Generator().manual_seed(0), dtype=D)
    expected = [
        max(0.0, 0.5 + batch64.distance(x, y, distance) - batch64.distance(x, z, distance))
        for x, y, z in zip(a.tolist(), p.tolist(), n.tolist(), strict=True)
    ]
    loss = Triplet(margin=0.5, distance=distance)
    torch.testing.assert_close(loss.per_example(a, p, n), torch.tensor(expected, dtype=D), rtol=1e-10, atol=1e-12)
    packed = torch.stack([a, p, n], 1)
    for value in (loss(packed), functional.triplet(a, p, n, margin=0.5, distance=distance), loss(a, p, third=n)):
        torch.testing.assert_close(value, loss(a, p, n))
    positive = [e for e in expected if e > 0]
    assert 0 < len(positive) < 10
    active = Triplet(margin=0.5, distance=distance, average="active")
    torch.testing.assert_close(active(a, p, n), torch.tensor(sum(positive) / len(positive), dtype=D))
    keep, weight = torch.arange(10) % 3 != 0, torch.linspace(1, 2, 10, dtype=D)
    poisoned = torch.where(keep[:, None, None], packed, torch.nan)
    torch.testing.assert_close(
        loss(poisoned, mask=keep, sample_weight=weight), (weight * torch.tensor(expected, dtype=D))[keep].sum() / weight[keep].sum()
    )
    total, count = loss.sum_and_count(a, p, n)
    torch.testing.assert_close(total / count, loss(a, p, n))
    squared = Triplet(margin=0.5, distance=distance, squared=True).per_example(a, p, n)
    torch.testing.assert_close(squared, torch.tensor(expected, dtype=D) ** 2)


def test_given_triplets_equal_torchs_up_to_its_epsilon():
    a, p, n = torch.randn(3, 10, 4, generator=torch.Generator().manual_seed(0), dtype=D)
    torch.testing.assert_close(
        Triplet(margin=1.0)(a, p, n), torch.nn.functional.triplet_margin_loss(a, p, n, margin=1.0, eps=0.0), rtol=1e-12, atol=0
    )


def test_given_triplets_of_coinciding_points_have_finite_gradients():
    x = torch.ones(2, 3, 4, requires_grad=True)
    value = Triplet()(x)
    (gradient,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(value, torch.tensor(0.2))
    assert torch.equal(gradient, torch.zeros_like(x))


def test_unit_is_projection_first():
    x, y = batch()
    u = x / x.norm(dim=1, keepdim=True)
    torch.testing.assert_close(Triplet(unit=True, distance="squared")(x, y), Triplet(distance="squared")(u, y))
    torch.testing.assert_close(  # on the sphere |u − v|² = 2 (1 − cosine)
        Triplet(distance="cosine", margin=0.3)(x, y), Triplet(unit=True, distance="squared", margin=0.6)(x, y) / 2
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_zero_vectors_have_finite_gradients_by_the_cosine(engine, monkeypatch):
    brute.use(engine, monkeypatch)
    x, y = batch()
    x[[0, 5]] = 0
    value, gradient = slope(Triplet(distance="cosine"), x, y)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert torch.equal(gradient[[0, 5]], torch.zeros(2, 5, dtype=D))


def test_distance_weighted_draws_a_negative_for_each_pair():
    x, y = batch(n=30)
    loss = Triplet(mining="distance_weighted", margin=3.0, reduction="none")
    loss.generator = torch.Generator().manual_seed(0)
    first, second = loss(x, y), loss(x, y)
    loss.generator.manual_seed(0)
    assert torch.equal(loss(x, y), first)
    assert not torch.equal(second, first)
    terms, counts = brute.triplets(x, y, margin=3.0)
    low = torch.where(counts, terms, torch.inf).amin(-1)
    high = torch.where(counts, terms, -torch.inf).amax(-1)
    pairs = counts.any(-1)
    assert (first >= torch.where(pairs, low, 0).sum(-1)).all()
    assert (first <= torch.where(pairs, high, 0).sum(-1)).all()
    assert Triplet(mining="distance_weighted").sum_and_count(x, y)[1] == pairs.sum()


@pytest.mark.parametrize("labels", [torch.uint8, torch.bool, torch.int16])
def test_labels_of_any_whole_type(labels):
    x, y = batch(classes=2)
    torch.testing.assert_close(Triplet()(x, y.to(labels)), Triplet()(x, y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("engine", ENGINES)
def test_sixteen_bits_hold_what_float32_holds(dtype, engine, monkeypatch):
    brute.use(engine, monkeypatch)
    x, y = batch(n=40, dtype=dtype)
    x = x * 300  # squares of these overflow float16
    value, gradient = slope(Triplet(distance="squared"), x, y)
    wide = slope(Triplet(distance="squared"), x.float(), y)
    torch.testing.assert_close(value, wide[0])
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, wide[1].to(dtype))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((torch.ones(4, 2, 3), None), r"three of \(N, D\), or triplets \(N, 3, D\)|the input is \(N, 3, D\)"),
        ((torch.ones(4, 3, 3), torch.zeros(4, dtype=torch.long)), r"triplets \(N, 3, D\) without a target"),
        ((torch.ones(4, 3), None), r"embeddings \(N, D\) with labels \(N,\)"),
        ((torch.ones(4, 3), torch.ones(4, 3), torch.ones(4, 2)), r"three arguments.*\(4, 3\), \(4, 3\), \(4, 2\)"),
        ((torch.ones(4, 3), torch.zeros(4)), r"write target.long\(\)"),
        ((torch.ones(4, 3), torch.ones(4, 3)), r"write loss\(anchor, positive, negative\)"),
        ((torch.ones(4, 3), torch.zeros(4, 1, dtype=torch.long)), r"squeeze\(-1\)"),
    ],
)
def test_other_forms_are_refused_in_one_sentence(args, message):
    with pytest.raises(FalllineError, match=message) as error:
        Triplet()(*args)
    assert "\n" not in str(error.value)


def test_a_reference_needs_class_labels():
    x = torch.ones(4, 3)
    with pytest.raises(FalllineError, match="reference stands against embeddings"):
        Triplet()(x, x, x, reference=(x, torch.zeros(4)))
    with pytest.raises(FalllineError, match="further arguments are reference"):
        Triplet()(x, x, x, refrence=None)


@pytest.mark.slow
@pytest.mark.parametrize("mining", ["all", "all_semi_hard"])
@pytest.mark.parametrize("classes", [40, 190])
def test_a_large_batch_listed_an_anchor_at_a_time(mining, classes):
    x, y = batch(n=1500, classes=classes, dim=16, dtype=torch.float32)
    x = (x * 16).round() / 16  # the squared distances are exact then, so that no rounding puts a triplet on the other side of an edge
    x, exact = x.requires_grad_(), x.detach().to(D).requires_grad_()
    d = torch.cdist(exact, exact, compute_mode="donot_use_mm_for_euclid_dist")
    seen = torch.from_numpy(np.sqrt(squared_euclidean(x.detach()).numpy())).to(D)  # torch's own float32 root may miss the last bit
    slopes, total, count = torch.zeros_like(d), 0.0, 0
    for a in range(1500):
        same, other = (y == y[a]) & (torch.arange(1500) != a), y != y[a]
        near, far = seen[a][same][:, None], seen[a][other]
        terms = (0.2 + near - far).relu()
        terms = terms if mining == "all" else torch.where(far > near, terms, 0)
        total, count = total + terms.sum().item(), count + (terms.numel() if mining == "all" else (terms > 0).sum().item())
        slopes[a, same], slopes[a, other] = (terms > 0).sum(1).to(D), -(terms > 0).sum(0).to(D)
    expected = torch.autograd.grad(d, exact, slopes / count)[0]
    value, gradient = slope(Triplet(mining=mining), x, y)
    torch.testing.assert_close(value.item(), total / count, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.to(D), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
