"""InfoNCE, SupCon, SigLIP and cross-modal ranking against the formulas in plain Python: every form, option, weight, mask and reference."""

import contextlib
import math

import pytest
import torch

from fallline._core.errors import FalllineError, FalllineWarning
from fallline.losses import _checks, build, functional
from fallline.losses.embedding import _stream
from tests.reference import batch64

D = torch.float64
N, R = 9, 4
CLASSES = torch.tensor([0, 0, 1, 1, 1, 2, 0, 3, 2])
MORE_CLASSES = torch.tensor([1, 3, 0, 4])

ACROSS = {
    "info_nce": [
        {"views": "cross", "symmetric": True},
        {"views": "cross", "symmetric": False},
        {"views": "both"},
        {"temperature": 0.01},
        {"views": "both", "temperature": 0.5},
    ],
    "sig_lip": [{}, {"scale": 3.0, "bias": 0.5}],
    "cross_modal_ranking": [
        {"negatives": n, "symmetric": s, "margin": m} for n, s, m in (("all", True, 0.2), ("all", False, 0.7), ("hardest", True, 0.2))
    ]
    + [{"negatives": "hardest", "symmetric": False, "margin": 1.0}],
}
AMONG = {"info_nce": [{}, {"temperature": 0.01}, {"temperature": 1.0}], "sup_con": [{}, {"temperature": 0.01}, {"temperature": 1.0}]}
ACROSS_CASES = [(name, options) for name, several in ACROSS.items() for options in several]
AMONG_CASES = [(name, options) for name, several in AMONG.items() for options in several]


FORMS = [(*case, "rows") for case in ACROSS_CASES] + [(*case, "classes") for case in AMONG_CASES]


@pytest.fixture(autouse=True)
def blocks(monkeypatch):
    """Blocks of two anchors, which leave a remainder (tests/every takes all at once)."""
    monkeypatch.setattr(_stream, "BLOCK", 2 * (N + R))


def rows(n, seed=0, d=3):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=D)


def oracle_of_classes(name):
    return batch64.info_nce_of_classes if name == "info_nce" else batch64.sup_con


def compare(loss_of, found, weight=None):
    """All three reductions against (sum, number) of each anchor."""
    sums, counts = (torch.tensor(part, dtype=D) for part in zip(*found, strict=True))
    w = torch.ones(len(sums), dtype=D) if weight is None else weight
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(loss_of("none"), w * sums, **close)
    torch.testing.assert_close(loss_of("sum"), (w * sums).sum(), **close)
    torch.testing.assert_close(loss_of("mean"), (w * sums).sum() / (w * counts).sum(), **close)


@pytest.mark.parametrize(("name", "options"), ACROSS_CASES)
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("referred", [False, True])
def test_rows_against_rows(name, options, unit, labelled, referred):
    x, y, a, b = rows(N), rows(N, 1), rows(R, 2), rows(R, 3)
    if not unit:
        x, y, a, b = (t * 0.3 for t in (x, y, a, b))
    given, oracle = {}, {"s": batch64.cosine if unit else batch64.dot}
    if labelled:
        given["labels"] = CLASSES
        oracle["labels"] = CLASSES.tolist()
    if referred:
        given["reference"] = (a, b, MORE_CLASSES) if labelled else (a, b)
        oracle["more"] = (a.tolist(), b.tolist(), MORE_CLASSES.tolist())
    found = getattr(batch64, name)(x.tolist(), y.tolist(), **options, **oracle)
    compare(lambda reduction: getattr(functional, name)(x, y, **options, **given, unit=unit, reduction=reduction), found)


@pytest.mark.parametrize(("name", "options"), AMONG_CASES)
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("referred", [False, True])
def test_rows_of_classes(name, options, unit, referred):
    x, a = rows(N) * (1 if unit else 0.3), rows(R, 2) * (1 if unit else 0.3)
    given, oracle = {}, {"s": batch64.cosine if unit else batch64.dot}
    if referred:
        given["reference"] = (a, MORE_CLASSES)
        oracle["more"] = (a.tolist(), MORE_CLASSES.tolist())
    found = oracle_of_classes(name)(x.tolist(), CLASSES.tolist(), **options, **oracle)
    compare(lambda reduction: getattr(functional, name)(x, CLASSES, **options, **given, unit=unit, reduction=reduction), found)


@pytest.mark.parametrize(("name", "options", "form"), FORMS)
def test_left_out_is_gone_from_both_sides_and_weights_weigh_anchors(name, options, form):
    x, y = rows(N), rows(N, 1) if form == "rows" else CLASSES
    keep = torch.arange(N) % 4 != 1
    weight = torch.linspace(0.5, 2, N, dtype=D)
    oracle = getattr(batch64, name) if form == "rows" else oracle_of_classes(name)
    found = oracle(x[keep].tolist(), y[keep].tolist(), **options)
    w = weight[keep]
    loss = build(name, **options)
    poisoned = torch.where(keep[:, None], x, torch.nan)
    value = loss(poisoned, y, mask=keep, sample_weight=weight)
    sums, counts = (torch.tensor(part, dtype=D) for part in zip(*found, strict=True))
    torch.testing.assert_close(value, (w * sums).sum() / (w * counts).sum(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(loss(poisoned, y, sample_weight=torch.where(keep, weight, 0)), value)


@pytest.mark.parametrize(("name", "options", "form"), FORMS)
@pytest.mark.parametrize("referred", [False, True])
def test_streamed_slopes_are_those_of_the_plain_form(name, options, form, referred, monkeypatch):
    among = form == "classes"
    leaves = [rows(N).requires_grad_()] + ([] if among else [rows(N, 1).requires_grad_()])
    given = {}
    if referred:
        more = [rows(R, 2).requires_grad_()] + ([] if among else [rows(R, 3).requires_grad_()])
        leaves += more
        given["reference"] = (*more, MORE_CLASSES) if among else tuple(more)
    weight = torch.linspace(0.5, 2, N, dtype=D)
    loss = build(name, **options)
    own = list(loss.parameters())

    def slopes():
        value = loss(leaves[0], CLASSES if among else leaves[1], sample_weight=weight, **given)
        return value, torch.autograd.grad(value, leaves + own, materialize_grads=True)

    value, streamed = slopes()
    monkeypatch.setattr(_stream, "_by_blocks", lambda *_: False)
    plain_value, plain = slopes()
    torch.testing.assert_close(value, plain_value, rtol=1e-12, atol=1e-12)
    for a, b in zip(streamed, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert any(g.abs().max() > 1e-3 for g in plain)


@pytest.mark.parametrize(("name", "options", "form"), [case for case in FORMS if case[1].get("temperature") != 0.01])
def test_first_and_second_derivatives_of_both_sides(name, options, form, monkeypatch):
    monkeypatch.setattr(_stream, "BLOCK", 4)
    loss = build(name, **options)
    x, y = rows(3, d=2).requires_grad_(), rows(3, 1, d=2).requires_grad_()
    call, given = (loss, (x, y)) if form == "rows" else (lambda x: loss(x, CLASSES[:3]), (x,))
    assert torch.autograd.gradcheck(call, given)
    assert torch.autograd.gradgradcheck(call, given, fast_mode=True)


def test_two_ranks_with_each_others_rows_are_one_batch():
    x, y = rows(N), rows(N, 1)
    for name, options in ACROSS_CASES:
        loss = build(name, **options)
        a = loss.sum_and_count(x[:5], y[:5], reference=(x[5:], y[5:]))
        b = loss.sum_and_count(x[5:], y[5:], reference=(x[:5], y[:5]))
        torch.testing.assert_close((a[0] + b[0]) / (a[1] + b[1]), loss(x, y), rtol=1e-12, atol=1e-12)
    for name, options in AMONG_CASES:
        loss = build(name, **options)
        a = loss.sum_and_count(x[:5], CLASSES[:5], reference=(x[5:], CLASSES[5:]))
        b = loss.sum_and_count(x[5:], CLASSES[5:], reference=(x[:5], CLASSES[:5]))
        torch.testing.assert_close((a[0] + b[0]) / (a[1] + b[1]), loss(x, CLASSES), rtol=1e-12, atol=1e-12)


# -- the ends of the range -----------------------------------------------------------------------------------------------------------------


def far_apart():
    """Similarities that saturate at τ = 0.01: the true partner lies opposite, so the loss is near 200."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.01], [0.01, -1.0]])
    return x, -x


@pytest.mark.parametrize("views", ["cross", "both"])
def test_low_temperature_in_single_precision(views):
    x, y = far_apart()
    exact = batch64.info_nce(x.tolist(), y.tolist(), temperature=0.01, views=views)
    x = x.requires_grad_()
    value = functional.info_nce(x, y, temperature=0.01, views=views)
    assert value.item() == pytest.approx(sum(s for s, _ in exact) / 8, rel=1e-6)
    value.backward()
    wide = x.detach().to(D).requires_grad_()
    functional.info_nce(wide, y.to(D), temperature=0.01, views=views).backward()
    torch.testing.assert_close(x.grad, wide.grad.float(), rtol=1e-4, atol=1e-3)


def test_pytorch_metric_learnings_case_at_low_temperature():
    """It gives 22.46 and half the gradient where the true value is 50.79: exp underflows before its log."""
    x = torch.nn.functional.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), dim=1).requires_grad_()
    labels = torch.arange(16) // 2
    value = functional.info_nce(x, labels, temperature=0.01)
    found = batch64.info_nce_of_classes(x.tolist(), labels.tolist(), temperature=0.01)
    exact = sum(s for s, _ in found) / sum(n for _, n in found)
    assert exact > 25
    assert value.item() == pytest.approx(exact, rel=1e-5)


def test_a_loss_that_is_nearly_nothing_keeps_its_digits():
    """Log-sum-exp with the partner inside would leave only rounding (±1e-5) of a loss of 2e-7."""
    x = torch.eye(2)
    value = functional.info_nce(x, x, temperature=1 / 15)
    assert value.item() == pytest.approx(math.log1p(math.exp(-15)), rel=1e-5)
    labels = torch.tensor([0, 0, 1, 1])
    assert functional.sup_con(x.repeat_interleave(2, 0), labels, temperature=0.05).item() == pytest.approx(2 * math.exp(-20), abs=1e-7)


@pytest.mark.parametrize(("name", "options", "form"), FORMS)
def test_zero_and_extreme_vectors_have_finite_gradients(name, options, form):
    x = rows(N).float()
    x[0], x[1], x[2] = 0, x[1] * 1e20, x[2] * 1e-20
    x[4] = x[3]
    y = (x.flip(0) if form == "rows" else CLASSES).clone()
    x.requires_grad_()
    value = build(name, **options)(x, y)
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    assert value.isfinite()
    assert slope.isfinite().all()
    assert torch.equal(slope[0], torch.zeros(3))


@pytest.mark.parametrize(("name", "options", "form"), FORMS)
def test_nan_is_not_hidden(name, options, form):
    x = rows(N)
    x[3, 1] = torch.nan
    loss = build(name, **options)
    for call in (lambda: loss(x, rows(N, 1)), lambda: loss(rows(N, 1), x)) if form == "rows" else (lambda: loss(x, CLASSES),):
        assert call().isnan()


@pytest.mark.parametrize(("name", "options"), ACROSS_CASES)
def test_one_row_has_no_negative_and_is_told_once(name, options, monkeypatch):
    monkeypatch.setattr(_checks, "_warned", set())
    x, y, loss = rows(1).requires_grad_(), rows(1, 1), build(name, **options)
    with (
        contextlib.nullcontext() if name == "sig_lip" else pytest.warns(FalllineWarning, match=f"{name} is 0: the batch holds one example")
    ):
        value = loss(x, y)
    loss(x, y)  # told once
    value.backward()
    assert x.grad.isfinite().all()
    if name != "sig_lip":
        assert value.item() == 0
        assert torch.equal(x.grad, torch.zeros(1, 3, dtype=D))


@pytest.mark.parametrize(("name", "options"), AMONG_CASES)
def test_one_class_and_no_class_twice(name, options, monkeypatch):
    monkeypatch.setattr(_checks, "_warned", set())
    x = rows(4).requires_grad_()
    loss = build(name, **options)
    found = oracle_of_classes(name)(x.tolist(), [7] * 4, **options)
    _checks._warned.add("info_nce no negative")
    torch.testing.assert_close(loss(x, torch.full((4,), 7)).item(), sum(s for s, _ in found) / sum(n for _, n in found))
    with pytest.warns(FalllineWarning, match=r"no class occurs twice in the batch \(4 labels, 4 distinct\)"):
        value = loss(x, torch.arange(4))
    value.backward()
    assert value.item() == 0
    assert torch.equal(x.grad, torch.zeros(4, 3, dtype=D))
    assert loss(x, torch.arange(4)).item() == 0  # warned once
    with pytest.warns(FalllineWarning, match="the batch holds one example"):
        assert loss(x[:1], torch.arange(1)).item() == 0
    assert loss(x[:0], torch.arange(0)).item() == 0
    assert loss(x, torch.arange(4), mask=torch.zeros(4, dtype=torch.bool)).item() == 0  # nothing counts: no word


def test_one_class_alone_is_told_where_the_loss_is_then_zero(monkeypatch, recwarn):
    monkeypatch.setattr(_checks, "_warned", set())
    x, y = rows(4), torch.full((4,), 7)
    with pytest.warns(FalllineWarning, match="info_nce is 0: all 4 labels of the batch are the same"):
        assert functional.info_nce(x, y).item() == 0
    recwarn.clear()
    assert functional.sup_con(x, y) > 0  # its denominator holds the positives too
    functional.info_nce(x, y, reference=(x[:1], y[:1] + 1))
    _checks._warned.clear()
    functional.info_nce(x, y, validate=False)
    assert not recwarn


@pytest.mark.parametrize("name", ["info_nce", "sup_con"])
def test_views_of_each_example_are_examples_of_its_class(name):
    z, y = rows(8).reshape(4, 2, 3), torch.tensor([0, 1, 0, 2])
    flat, labels = z.flatten(0, 1), y.repeat_interleave(2)
    weight, mask = torch.linspace(1, 2, 4, dtype=D), torch.tensor([True, True, False, True])
    for reduction in ("mean", "sum", "none"):
        loss = build(name, reduction=reduction)
        assert torch.equal(loss(z, y), loss(flat, labels))
        both = loss(z, y, sample_weight=weight, mask=mask)
        assert torch.equal(both, loss(flat, labels, sample_weight=weight.repeat_interleave(2), mask=mask.repeat_interleave(2)))
        by_view = torch.arange(8).reshape(4, 2) != 3
        assert torch.equal(loss(z, y, mask=by_view), loss(flat, labels, mask=by_view.flatten()))
    for wrong in (labels, y.repeat(2, 1).T):
        with pytest.raises(FalllineError, match=r"write input.flatten\(0, 1\) and target.flatten\(\)"):
            build(name)(z, wrong)


def test_views_are_those_of_the_paper_in_pytorch_metric_learning():
    peer = pytest.importorskip("pytorch_metric_learning.losses")
    z, y = rows(16, d=4).reshape(8, 2, 4), torch.arange(8) % 3
    torch.testing.assert_close(functional.sup_con(z, y), peer.SupConLoss(temperature=0.1)(z.flatten(0, 1), y.repeat_interleave(2)))


def test_a_memory_given_as_the_reference_is_told_apart():
    from fallline.mining import CrossBatchMemory, batch_hard

    memory, x, y = CrossBatchMemory(size=8, dim=3), rows(4).float(), torch.arange(4) % 2
    for call in (lambda: functional.sup_con(x, y, reference=memory), lambda: batch_hard(x, y, reference=memory)):
        with pytest.raises(FalllineError, match=r"write reference=memory\.reference"):
            call()
    with pytest.raises(FalllineError, match="for losses of labels"):
        functional.info_nce(x, x, reference=memory)


def test_the_hardest_of_equals_share_the_gradient():
    x = torch.tensor([[1.0, 0.0]], dtype=D).repeat(3, 1)
    y = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], dtype=D).requires_grad_()
    functional.cross_modal_ranking(x[:1], y[:1], reference=(x[1:], y[1:]), negatives="hardest", symmetric=False, unit=False).backward()
    torch.testing.assert_close(y.grad, torch.tensor([[-1.0, 0.0], [0.5, 0.0], [0.5, 0.0]], dtype=D))


def test_under_autocast_similarities_keep_their_precision():
    x, y = rows(N).float(), rows(N, 1).float()
    for name, options in ACROSS_CASES:
        expected = build(name, **options)(x, y)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(build(name, **options)(x, y), expected, rtol=1e-6, atol=1e-7)


# -- what is learned -----------------------------------------------------------------------------------------------------------------------


def test_a_learned_temperature_has_the_slope_of_the_formula():
    x, y = rows(N), rows(N, 1)
    for target, options in ((y, {}), (y, {"views": "both"}), (CLASSES, {})):
        loss = build("info_nce", learn=True, temperature=0.5, **options).to(D)
        torch.testing.assert_close(loss(x, target), build("info_nce", temperature=0.5, **options)(x, target), rtol=1e-12, atol=0)
        loss(x, target).backward()
        h = 1e-5
        up, down = (functional.info_nce(x, target, temperature=0.5 * math.exp(-s), **options) for s in (h, -h))
        assert loss.growth.grad.item() == pytest.approx(((up - down) / (2 * h)).item(), rel=1e-6)


def test_siglip_learns_scale_and_bias_and_its_function_takes_the_users_own():
    x, y = rows(N), rows(N, 1)
    loss = build("sig_lip")
    assert sorted(name for name, _ in loss.named_parameters()) == ["growth", "shift"]
    loss(x, y).backward()
    t, b = torch.tensor(10.0, dtype=D, requires_grad=True), torch.tensor(-10.0, dtype=D, requires_grad=True)
    functional.sig_lip(x, y, scale=t, bias=b).backward()
    assert loss.shift.grad.item() == pytest.approx(b.grad.item(), rel=1e-6)
    assert loss.growth.grad.item() == pytest.approx(10 * t.grad.item(), rel=1e-6)  # t = e^t′: dt/dt′ = t
    with torch.no_grad():
        loss.growth += 0.3
        loss.shift -= 0.5
    torch.testing.assert_close(loss(x, y), functional.sig_lip(x, y, scale=10 * math.exp(loss.growth.item()), bias=-10.5), rtol=1e-6, atol=0)


def test_siglip_is_the_papers_algorithm():
    """Algorithm 1: sum over all pairs of log sigmoid(labels * logits), over n."""
    x, y = rows(N), rows(N, 1)
    z, w = torch.nn.functional.normalize(x), torch.nn.functional.normalize(y)
    logits = z @ w.T * 10 - 10
    labels = 2 * torch.eye(N, dtype=D) - 1
    torch.testing.assert_close(functional.siglip(x, y), -torch.nn.functional.logsigmoid(labels * logits).sum() / N)


def test_clip_is_the_mean_of_two_cross_entropies():
    x, y = rows(N), rows(N, 1)
    s = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).T / 0.07
    both = [torch.nn.functional.cross_entropy(m, torch.arange(N)) for m in (s, s.T)]
    torch.testing.assert_close(functional.infonce(x, y), sum(both) / 2)


# -- what is refused -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ACROSS))
def test_refusals(name):
    x, y, loss = rows(N), rows(N, 1), build(name)
    for call, said in (
        (lambda: loss(x[0], y[0]), r"embeddings \(N, D\).*unsqueeze\(0\)"),
        (lambda: loss(x.reshape(N, 3, 1, 1), y), r"flatten\(1\)"),
        (lambda: loss(x, y[:-1]), "input's shape"),
        (lambda: loss(x, y, labels=CLASSES[:-1]), "labels are"),
        (lambda: loss(x, y, labels=CLASSES.to(D)), "labels are"),
        (lambda: loss(x, y, reference=x), "reference is"),
        (lambda: loss(x, y, reference=(x, y[:, :2])), "reference is"),
        (lambda: loss(x, y, labels=CLASSES, reference=(x, y)), "labels"),
    ):
        with pytest.raises(FalllineError, match=said):
            call()


def test_refusals_of_forms_that_do_not_fit():
    x = rows(N)
    with pytest.raises(FalllineError, match="floating point"):
        functional.sig_lip(x, CLASSES)
    with pytest.raises(FalllineError, match=r"write target.long\(\)"):
        functional.info_nce(x, CLASSES.to(D))
    with pytest.raises(FalllineError, match="labels as the target only"):
        functional.info_nce(x, CLASSES, labels=CLASSES)
    with pytest.raises(FalllineError, match="temperature >= 1e-06"):
        build("info_nce", temperature=0)


def test_specs_and_other_names():
    assert build("nt_xent:temperature=0.5,views=both").views == "both"
    assert build("clip").name == "info_nce"
    assert build("vse:negatives=hardest").negatives == "hardest"
    assert build("supcon").name == "sup_con"
    assert build("siglip:bias=0").bias == 0


@pytest.mark.parametrize(("name", "options", "form"), FORMS[::3])
def test_an_empty_reference_changes_nothing(name, options, form):
    x, y = rows(N), rows(N, 1) if form == "rows" else CLASSES
    loss = build(name, **options)
    torch.testing.assert_close(loss(x, y, reference=(x[:0], y[:0])), loss(x, y))
