"""Losses between examples where numbers are huge, tiny, infinite, of 16 bits by autocast, or labels of several types: nothing is hidden."""

import pytest
import torch

from fallline._core.errors import FalllineError
from fallline.losses import build
from fallline.losses.embedding import _triplet_fast

D = torch.float64
N = 70
LABELS = torch.arange(N) % 3
CLASSES = [
    ("triplet", {}),
    ("triplet", {"mining": "batch_hard"}),
    ("triplet", {"mining": "semi_hard", "distance": "squared"}),
    ("triplet", {"mining": "all_semi_hard", "average": "active"}),
    ("triplet", {"distance": "cosine"}),
    ("contrastive", {}),
    ("cosine_embedding", {}),
    ("sup_con", {}),
    ("info_nce", {}),
]
ROWS = [("info_nce", {}), ("info_nce", {"views": "both"}), ("sig_lip", {"unit": False}), ("cross_modal_ranking", {})]
GIVEN = [
    ("triplet", {"average": "active"}),
    ("triplet", {"distance": "squared"}),
    ("triplet", {"distance": "cosine"}),
    ("contrastive", {}),
    ("cosine_embedding", {}),
]


def rows(n=N, seed=0, dtype=torch.float32, d=4):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def slope(loss, x, *args, create=False, **kw):
    x = x.clone().requires_grad_()
    value = loss(x, *args, **kw)
    return value.detach(), torch.autograd.grad(value, x, create_graph=create)[0].detach()


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize(("name", "options"), CLASSES)
def test_an_embedding_that_is_not_finite_shows_in_value_and_gradient(name, options, bad):
    x = rows()
    x[3, 1] = bad
    loss = build(name, validate=False, **options)
    value, gradient = slope(loss, x, LABELS)
    assert value.isnan()
    assert gradient.isnan().any()
    assert loss(rows(), LABELS, reference=(x[:5], LABELS[:5])).isnan()
    for labels in (torch.arange(N), torch.zeros(N, dtype=torch.int64)):  # no positive, no negative: nothing is looked at, and yet
        assert loss(x, labels).isnan()
    assert loss(x, LABELS, mask=torch.arange(N) != 3).isfinite()


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize(("name", "options"), ROWS)
def test_a_row_that_is_not_finite_shows(name, options, n, bad):
    loss = build(name, validate=False, **options)
    for side in range(2):
        both = [rows(n), rows(n, 1)]
        both[side][0, 0] = bad
        assert loss(*both).isnan()
        assert loss(rows(n), rows(n, 1), reference=tuple(both)).isnan()


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
@pytest.mark.parametrize(("name", "options"), GIVEN)
def test_given_examples_that_are_not_finite_show(name, options, bad):
    loss = build(name, validate=False, **options)
    many = 3 if name == "triplet" else 2
    for part in range(many):
        parts = [rows(5, seed) for seed in range(many)]
        parts[part][0, 0] = bad
        target = () if many == 3 else (torch.tensor([-1.0 if name == "cosine_embedding" else 1.0]).expand(5),)
        values = build(name, validate=False, reduction="none", **options)(*parts, *target)
        assert values.isnan().tolist() == [True, False, False, False, False]
        assert loss(*parts, *target).isnan()


@pytest.mark.parametrize("backward_inside", [False, True])
@pytest.mark.parametrize(
    ("name", "options", "target"),
    [*((*case, LABELS) for case in CLASSES), *((*case, rows(seed=1)) for case in ROWS)],
)
def test_autocast_does_not_narrow(name, options, target, backward_inside):
    loss = build(name, **options)
    for create in (False, True):
        expected = slope(loss, rows(), target, create=create)
        x = rows().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(x, target)
            inside = torch.autograd.grad(value, x, create_graph=create, retain_graph=True)[0]
        if name == "cosine_embedding":  # by torch's own products alone, whose derivatives follow autocast
            backward_inside = False
        found = inside if backward_inside else torch.autograd.grad(value, x, create_graph=create)[0]
        torch.testing.assert_close((value.detach(), found.detach()), expected)


@pytest.mark.parametrize("small", [0, 1 << 40])
@pytest.mark.parametrize("scale", [1e20, 1e-24])
def test_triplets_of_any_scale(scale, small, monkeypatch):
    monkeypatch.setattr(_triplet_fast, "SMALL", small)
    x = rows(24) * scale
    for mining in ("all", "semi_hard", "batch_hard"):
        loss = build("triplet", mining=mining, margin=scale)
        for found, expected in zip(slope(loss, x, LABELS[:24]), slope(loss, x.to(D), LABELS[:24]), strict=True):
            torch.testing.assert_close(found.to(D), expected, rtol=1e-5, atol=1e-7 * float(expected.abs().max()))


@pytest.mark.parametrize("scale", [1e20, 1e-24])
def test_given_examples_of_any_scale(scale):
    parts = [rows(5, seed) * scale for seed in range(3)]
    found = slope(build("triplet", margin=scale), *parts)
    expected = slope(build("triplet", margin=scale), *(part.to(D) for part in parts))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.to(D), b, rtol=1e-5, atol=1e-6 * float(b.abs().max()))
    value, gradient = slope(build("contrastive"), *parts[:2], torch.ones(5))
    wide_value, wide_gradient = slope(build("contrastive"), *(part.to(D) for part in parts[:2]), torch.ones(5))
    torch.testing.assert_close(value.to(D), wide_value)
    torch.testing.assert_close(gradient.to(D), wide_gradient)


@pytest.mark.parametrize("distance", ["euclidean", "squared", "cosine"])
@pytest.mark.parametrize("of_reference", [False, True])
def test_a_graph_of_the_gradient_by_one_side_alone(distance, of_reference):
    loss = build("triplet", distance=distance)
    z = rows(60, 1)

    def by_one(create):
        x, more = rows().requires_grad_(not of_reference), z.clone().requires_grad_(of_reference)
        value = loss(x, LABELS, reference=(more, LABELS[:60]))
        return torch.autograd.grad(value, more if of_reference else x, create_graph=create)[0].detach()

    torch.testing.assert_close(by_one(True), by_one(False), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_tied_negatives_are_taken_in_one_order(dtype):
    x = rows(24, dtype=dtype).repeat(4, 1)  # every point four times, mostly with different labels
    y = torch.randint(0, 3, (len(x),), generator=torch.Generator().manual_seed(1))
    loss = build("triplet", mining="semi_hard", margin=1.0)
    torch.testing.assert_close(slope(loss, x, y, create=True)[1], slope(loss, x, y)[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), CLASSES)
def test_labels_of_any_type_are_the_numbers_that_they_are(name, options):
    loss = build(name, validate=False, **options)
    x, y = rows(8), torch.tensor([0, 0, 1, 1, 0, 1, 0, 1])
    torch.testing.assert_close(loss(x, y > 0), loss(x, y))
    more, theirs = rows(4, 1), torch.tensor([256, 256, 257, 300])
    for narrow in (y > 0, y.to(torch.uint8), y.to(torch.int8)):
        torch.testing.assert_close(loss(x, narrow, reference=(more, theirs)), loss(x, y, reference=(more, theirs)))
    with pytest.raises(FalllineError, match="whole numbers"):
        loss(x, y, reference=(more, theirs + 0.5))


@pytest.mark.parametrize(("name", "options"), ROWS)
def test_labels_of_rows_of_any_type(name, options):
    loss, x, t, y = build(name, **options), rows(8), rows(8, 1), torch.arange(8) % 2
    torch.testing.assert_close(loss(x, t, labels=y > 0), loss(x, t, labels=y))
    more = (rows(3, 2), rows(3, 3))
    expected = loss(x, t, labels=y, reference=(*more, torch.tensor([1, 256, 300])))
    torch.testing.assert_close(loss(x, t, labels=y.to(torch.uint8), reference=(*more, torch.tensor([1, 256, 300]))), expected)
    with pytest.raises(FalllineError, match="whole numbers"):
        loss(x, t, labels=y, reference=(*more, torch.tensor([1.0, 2.5, 3.0])))


@pytest.mark.parametrize("name", ["arc_face", "cos_face"])
def test_cosines_rounded_to_16_bits_are_cosines(name):
    cosines = torch.tensor([[1.0078, 0.2], [-1.0078, 0.3]])
    for dtype, allowed in ((torch.bfloat16, True), (torch.float32, True)):
        assert build(name)(cosines.to(dtype), torch.tensor([0, 1])).isfinite() == allowed
    with pytest.raises(FalllineError, match="cosines in"):
        build(name)(1.05 * cosines, torch.tensor([0, 1]))


@pytest.mark.parametrize("name", ["info_nce", "sup_con"])
def test_a_temperature_that_no_number_divides_by_is_refused(name):
    for temperature in (1e-38, 1e-44, 0.0):
        with pytest.raises(FalllineError, match="temperature"):
            build(name, temperature=temperature)
    assert build(name, temperature=1e-6)(rows(), LABELS).isfinite()


@pytest.mark.parametrize(("name", "options", "target"), [*((*c, LABELS) for c in CLASSES), *((*c, rows(d=0)) for c in ROWS)])
def test_embeddings_without_a_number_are_refused(name, options, target):
    with pytest.raises(FalllineError, match="at least one number"):
        build(name, **options)(rows(d=0), target)
