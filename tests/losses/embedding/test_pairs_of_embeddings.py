"""Contrastive, cosine embedding and cosine similarity: every form of input against the formula, and the edges."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from fallline._core.errors import FalllineError, FalllineWarning
from fallline.losses import Contrastive, CosineEmbedding, CosineSimilarity, _checks, functional
from tests.reference import batch64

D = torch.float64
LOSSES = {"contrastive": Contrastive, "cosine_embedding": CosineEmbedding}
EACH = {"contrastive": batch64.contrastive_pair, "cosine_embedding": batch64.cosine_embedding_pair}


def pairs(name, n=14, dim=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, n, dim, generator=g, dtype=D) * 0.6
    similar = torch.arange(n) % 2 == 0
    return a, b, similar, (~similar).long() if name == "contrastive" else similar.long() * 2 - 1


@pytest.mark.parametrize(
    ("name", "margin"), [("contrastive", 1.0), ("contrastive", 1.6), ("cosine_embedding", 0.2), ("cosine_embedding", 0.5)]
)
def test_given_pairs_in_every_form(name, margin):
    a, b, similar, y = pairs(name)
    expected = torch.tensor([EACH[name](*e, margin) for e in zip(a.tolist(), b.tolist(), similar.tolist(), strict=True)], dtype=D)
    loss = LOSSES[name](margin=margin)
    forms = [loss(a, b, y), loss(torch.stack([a, b], 1), y), getattr(functional, name)(a, b, y, margin=margin), loss(a, b, y.to(D))]
    for value in forms:
        torch.testing.assert_close(value, expected.mean(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(loss.per_example(a, b, y), expected, rtol=1e-10, atol=1e-12)
    assert (expected[1::2] > 0).any()
    assert (expected[1::2] == 0).any()
    keep, weight = torch.arange(14) % 3 != 0, torch.linspace(1, 2, 14, dtype=D)
    poisoned, bad = torch.where(keep[:, None], a, torch.nan), torch.where(keep, y, 77)
    value = loss(poisoned, b, bad, mask=keep, sample_weight=weight)
    torch.testing.assert_close(value, (weight * expected)[keep].sum() / weight[keep].sum())
    total, count = loss.sum_and_count(a, b, y, sample_weight=weight)
    torch.testing.assert_close(total / count, (weight * expected).sum() / weight.sum())
    torch.testing.assert_close(LOSSES[name](margin=margin, reduction="sum")(a, b, y), expected.sum())


@pytest.mark.parametrize("name", LOSSES)
def test_float32_to_1e5(name):
    a, b, _, y = pairs(name)
    torch.testing.assert_close(
        LOSSES[name](margin=0.5)(a.float(), b.float(), y).to(D), LOSSES[name](margin=0.5)(a, b, y), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("more", [False, True])
def test_every_pair_of_a_batch(name, more):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 3, generator=g, dtype=D) * 0.5, torch.randint(0, 4, (20,), generator=g)
    z, c = torch.randn(7, 3, generator=g, dtype=D) * 0.5, torch.randint(0, 4, (7,), generator=g)
    reference = (z, c) if more else None
    found = getattr(batch64, name)(x.tolist(), y.tolist(), 0.6, **({"more": (z.tolist(), c.tolist())} if more else {}))
    loss = LOSSES[name](margin=0.6, reduction="none")
    torch.testing.assert_close(loss(x, y, reference=reference), torch.tensor([s for s, _ in found], dtype=D), rtol=1e-10, atol=1e-12)
    total, count = loss.sum_and_count(x, y, reference=reference)
    assert count == sum(n for _, n in found)
    torch.testing.assert_close(total / count, LOSSES[name](margin=0.6)(x, y, reference=reference))
    narrow = LOSSES[name](margin=0.6)(x.float(), y, reference=(z.float(), c) if more else None)
    torch.testing.assert_close(narrow.to(D), total / count, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_every_pair_equals_the_pairs_given_one_by_one(name):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 3, generator=g, dtype=D, requires_grad=True), torch.randint(0, 3, (9,), generator=g)
    i, j = torch.triu_indices(9, 9, offset=1)
    similar = y[i] == y[j]
    loss = LOSSES[name](margin=0.4)
    given = loss(x[i], x[j], (~similar).long() if name == "contrastive" else similar.long() * 2 - 1)
    every = loss(x, y)
    torch.testing.assert_close(every, given)
    torch.testing.assert_close(torch.autograd.grad(every, x)[0], torch.autograd.grad(given, x)[0])


@pytest.mark.parametrize("name", LOSSES)
def test_many_blocks_change_nothing(name, monkeypatch):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 3, generator=g, dtype=D), torch.randint(0, 4, (20,), generator=g)
    expected = LOSSES[name]()(x, y)
    monkeypatch.setattr("fallline.losses.embedding._forms.blocks", lambda n, m: [(i, min(i + 7, n)) for i in range(0, n, 7)])
    torch.testing.assert_close(LOSSES[name]()(x, y), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_of_given_pairs(name):
    a, b, _, y = pairs(name, n=4, dim=2)
    a.requires_grad_()
    b.requires_grad_()
    loss = LOSSES[name](margin=0.7)
    assert gradcheck(lambda a, b: loss(a, b, y), (a, b))
    assert gradgradcheck(lambda a, b: loss(a, b, y), (a, b), atol=1e-4)
    expected = torch.autograd.grad(loss(a, b, y), a)[0]
    torch.testing.assert_close(torch.func.grad(lambda a: loss(a, b.detach(), y))(a.detach()), expected)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(a, b, y), a)[0], expected)


def test_hadsells_formula_by_hand():
    loss = Contrastive(margin=2.0, reduction="none")
    a, b = torch.zeros(4, 1), torch.tensor([[0.5], [0.5], [3.0], [3.0]])
    torch.testing.assert_close(loss(a, b, torch.tensor([0, 1, 0, 1])), torch.tensor([0.125, 1.125, 4.5, 0.0]))


def test_distances_given_directly():
    d, y = torch.tensor([0.5, 0.5, 3.0, 3.0], requires_grad=True), torch.tensor([0, 1, 0, 1])
    loss = Contrastive(margin=2.0, input_from="distances")
    value = loss(d, y)
    torch.testing.assert_close(value, torch.tensor((0.125 + 1.125 + 4.5) / 4))
    torch.testing.assert_close(torch.autograd.grad(value, d)[0], torch.tensor([0.5, -1.5, 3.0, 0.0]) / 4)
    torch.testing.assert_close(loss(d, y.bool()), value)
    torch.testing.assert_close(loss(d, y, mask=torch.tensor([True, False, False, True])), torch.tensor(0.0625))
    with pytest.raises(FalllineError, match=r"distances \(N,\)"):
        loss(torch.ones(4, 2), y)
    with pytest.raises(FalllineError, match="every distance is >= 0"):
        loss(-d, y)


def test_one_positive_and_one_negative_pair_are_not_nothing():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.5]])
    assert Contrastive()(x[[0, 0]], x[[1, 2]], torch.tensor([0, 1])) == (0.5 + 0.125) / 2
    assert Contrastive()(x, torch.tensor([0, 0, 1])) > 0


def test_similar_points_that_coincide_and_others_that_do_have_finite_gradients():
    x = torch.ones(4, 2, 3, requires_grad=True)
    for loss in (Contrastive(), Contrastive(unit=True), CosineEmbedding()):
        target = torch.tensor([0, 1, 0, 1]) if isinstance(loss, Contrastive) else torch.tensor([1, -1, 1, -1])
        assert torch.isfinite(torch.autograd.grad(loss(x, target), x)[0]).all()
        flat = torch.ones(4, 3, requires_grad=True)
        assert torch.isfinite(torch.autograd.grad(loss(flat, torch.tensor([0, 0, 1, 1])), flat)[0]).all()


@pytest.mark.parametrize("name", [*LOSSES, "cosine_similarity"])
def test_zero_vectors_have_finite_values_and_gradients(name):
    zero, other = torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3)
    if name == "cosine_similarity":
        value, expected = CosineSimilarity()(zero, other), 1.0
    elif name == "cosine_embedding":
        value, expected = CosineEmbedding()(zero, other, torch.tensor([1, -1])), 0.5
    else:
        value, expected = Contrastive(unit=True)(zero, other, torch.tensor([0, 1])), 0.25
    assert math.isclose(value.item(), expected, abs_tol=1e-6)
    assert torch.isfinite(torch.autograd.grad(value, zero)[0]).all()


def test_nan_is_never_hidden():
    for loss in (Contrastive(), CosineEmbedding()):
        x = torch.randn(4, 3)
        x[1] = torch.nan
        assert torch.isnan(loss(x, torch.tensor([0, 0, 1, 1])))
        assert torch.isnan(loss(x[:2], x[2:], torch.tensor([1, 1])))


def test_cosine_embedding_is_torchs():
    a, b, _, y = pairs("cosine_embedding")
    for margin in (0.0, 0.3, -0.5):
        torch.testing.assert_close(
            CosineEmbedding(margin=margin)(a, b, y), F.cosine_embedding_loss(a, b, y, margin=margin), rtol=1e-10, atol=1e-10
        )


def test_cosine_similarity_of_more_axes():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 4, 5, 3, generator=g, dtype=D)
    expected = 1 - F.cosine_similarity(x, y, dim=-1)
    torch.testing.assert_close(CosineSimilarity(reduction="none")(x, y), expected)
    weight = torch.linspace(1, 2, 4, dtype=D)
    torch.testing.assert_close(CosineSimilarity()(x, y, sample_weight=weight), (weight[:, None] * expected).sum() / (5 * weight.sum()))
    assert CosineSimilarity()(x[0, 0], 2 * x[0, 0]).abs() < 1e-12


@pytest.mark.parametrize(
    ("loss", "target", "message"),
    [
        (CosineEmbedding(), torch.tensor([0, 1]), r"-1 or \+1.*0/1 labels: write 2 \* target"),
        (CosineEmbedding(), torch.tensor([True, False]), r"-1 or \+1"),
        (CosineEmbedding(), torch.tensor([1, 3]), "correct the labels"),
        (Contrastive(), torch.tensor([1, -1]), r"write \(1 - target\) / 2"),
        (Contrastive(), torch.tensor([0, 2]), "correct the labels"),
        (Contrastive(), torch.tensor([[0], [1]]), r"squeeze\(-1\)"),
        (Contrastive(), torch.tensor([0, 1, 1]), r"the target has the shape \(2,\)"),
    ],
)
def test_wrong_targets_are_refused(loss, target, message):
    x = torch.ones(2, 3)
    with pytest.raises(FalllineError, match=message):
        loss(x, x, target)


@pytest.mark.parametrize("loss", [Contrastive(), CosineEmbedding()])
def test_other_forms_are_refused_in_one_sentence(loss):
    x, y = torch.ones(4, 3), torch.ones(4, dtype=torch.long)
    for args, message in (
        ((torch.ones(4, 3, 3), y), r"the input is \(N, 2, D\)"),
        ((torch.ones(4), y), r"two of \(N, D\) with a target"),
        ((x, x[:3], y), r"three arguments the first 2 are tensors of one shape"),
        ((x, None), "there is a target"),
        ((x, x), r"a third argument.*write loss\(a, b, y\)"),
        ((x, torch.ones(4)), r"write target.long\(\)"),
    ):
        with pytest.raises(FalllineError, match=message) as error:
            loss(*args)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("loss", [Contrastive(), CosineEmbedding()])
def test_one_example_is_zero_and_told_once(loss, monkeypatch):
    monkeypatch.setattr(_checks, "_warned", set())
    x, y = torch.ones(1, 3), torch.zeros(1, dtype=torch.long)
    with pytest.warns(FalllineWarning, match=f"{loss.name} is 0: the batch holds one example"):
        assert loss(x, y).item() == 0
    loss(x, y)
    loss(x, y, reference=(2 * x, y))
