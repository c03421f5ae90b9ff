"""Linear cross-entropy in blocks against the plain layer and CrossEntropy: values, every gradient, every transform, every edge."""

import gc

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from fallline._core.errors import FalllineError
from fallline.losses import CrossEntropy, LinearCrossEntropy, build, check_task, describe
from fallline.losses.functional import linear_cross_entropy
from fallline.losses.large._blocks import rows_of

D = torch.float64
N, IN, C = 7, 4, 5
LABELS = torch.tensor([0, 1, 2, -100, 4, 3, 1])
MASK = torch.tensor([1, 1, 0, 1, 1, 1, 1]).bool()


def made(*shape, seed=0, dtype=D):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def layer(bias=True, dtype=D):
    tensors = [made(N, IN, dtype=dtype), made(C, IN, seed=1, dtype=dtype)] + [made(C, seed=2, dtype=dtype)] * bias
    return [t.requires_grad_() for t in tensors]


SOFT = made(N, C, seed=3).softmax(-1)
WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.0, 3.0], dtype=D)
EACH = torch.tensor([1.0, 0.0, 2.0, 1.5, 0.5, 0.1, 1.0], dtype=D)
OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "class weights": {"class_weight": WEIGHT},
    "smoothed class weights": {"class_weight": WEIGHT, "label_smoothing": 0.2},
    "count": {"class_weight": WEIGHT, "normalize": "count"},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none", "class_weight": WEIGHT},
    "other ignored label": {"ignore_index": 1, "mask": LABELS >= 0},
    "mask": {"mask": MASK},
    "sample weights": {"sample_weight": EACH, "class_weight": WEIGHT},
    "none with sample weights": {"sample_weight": EACH, "reduction": "none", "mask": MASK},
    "soft": {"soft": True},
    "soft, all": {"soft": True, "label_smoothing": 0.1, "class_weight": WEIGHT, "sample_weight": EACH, "mask": MASK},
    "soft sum": {"soft": True, "reduction": "sum", "class_weight": WEIGHT},
}


def reference(x, weight, bias, target, z_loss=0.0, softcap=0.0, sample_weight=None, mask=None, **options):
    z = F.linear(x, weight, bias)
    if softcap:
        z = softcap * torch.tanh(z / softcap)
    kw = {"sample_weight": sample_weight, "mask": mask}
    if not z_loss:
        return CrossEntropy(**options)(z, target, **kw)
    assert not {"class_weight", "reduction", "normalize"} & set(options)
    values = CrossEntropy(reduction="none", **options)(z, target) + z_loss * z.logsumexp(-1).square()
    keep = torch.ones_like(values, dtype=torch.bool) if target.is_floating_point() else target != -100
    keep = keep if mask is None else keep & mask
    each = torch.ones_like(values) if sample_weight is None else sample_weight
    return (values * each)[keep].sum() / each[keep].sum()


def split(options):
    options = dict(options)
    return (SOFT if options.pop("soft", False) else LABELS), options


@pytest.mark.parametrize("block", [1, 3, 100, None])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("case", OPTIONS)
def test_equals_the_layer_and_cross_entropy(case, bias, block):
    target, options = split(OPTIONS[case])
    tensors = layer(bias)
    x, weight, b = (*tensors, None)[:3]
    expected = reference(x, weight, b, target, **options)
    value = linear_cross_entropy(x, weight, target, bias=b, block=block, **options)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    upstream = torch.linspace(0.3, -2, value.numel(), dtype=D).reshape(value.shape)
    wanted = torch.autograd.grad(expected, tensors, upstream)
    for _ in range(3):  # over a retained graph: the first hands its gradients over, the others recompute
        torch.testing.assert_close(torch.autograd.grad(value, tensors, upstream, retain_graph=True), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
@pytest.mark.parametrize("extra", [{"z_loss": 0.3}, {"softcap": 1.5}, {"z_loss": 0.3, "softcap": 1.5, "label_smoothing": 0.1}], ids=str)
def test_z_loss_and_softcap(extra, soft):
    tensors, target = layer(), SOFT if soft else LABELS
    for kw in ({}, {"mask": MASK, "sample_weight": EACH}):
        x, weight, b = tensors
        expected = reference(x, weight, b, target, **extra, **kw)
        value = linear_cross_entropy(x, weight, target, bias=b, block=2, **extra, **kw)
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
        got, wanted = (torch.autograd.grad(v, tensors) for v in (value, expected))
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


EVERYTHING = {"label_smoothing": 0.1, "z_loss": 0.1, "softcap": 2.0, "class_weight": WEIGHT, "sample_weight": EACH[1:5]}
FEW = slice(1, 5)  # one of them ignored, one without weight


def few():
    x, weight, b = layer()
    return x.detach()[FEW, :2].requires_grad_(), weight.detach()[:, :2].requires_grad_(), b


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, when forward mode is first used
@pytest.mark.parametrize(
    ("reduction", "options", "soft"),
    [("mean", {}, False), ("mean", EVERYTHING, False), ("none", EVERYTHING, False), ("mean", EVERYTHING, True), ("none", {}, True)],
    ids=["plain", "all", "all, none", "soft, all", "soft, none"],
)
def test_first_and_second_derivatives_forward_mode_and_batches_of_gradients(reduction, options, soft):
    target = (SOFT if soft else LABELS)[FEW]

    def call(x, weight, bias):
        return linear_cross_entropy(x, weight, target, bias=bias, block=3, reduction=reduction, **options)

    assert gradcheck(call, few(), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(call, few(), check_batched_grad=True)


def test_gradients_of_soft_targets_and_sample_weights():
    target, each = SOFT[FEW].clone().requires_grad_(), (EACH[FEW] + 0.1).requires_grad_()

    def call(x, weight, bias, target, each):
        return linear_cross_entropy(
            x, weight, target, bias=bias, block=3, label_smoothing=0.1, z_loss=0.1, sample_weight=each, validate=False
        )

    assert gradcheck(call, (*few(), target, each))
    assert gradgradcheck(call, (*few(), target, each))
    assert gradgradcheck(lambda each: call(*few(), SOFT[FEW], each), (each,))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_torch_func(reduction):
    tensors = layer()

    def call(*tensors):
        return linear_cross_entropy(
            tensors[0], tensors[1], LABELS, bias=tensors[2], block=3, label_smoothing=0.1, reduction=reduction
        ).sum()

    def plain(*tensors):
        return reference(tensors[0], tensors[1], tensors[2], LABELS, label_smoothing=0.1, reduction=reduction).sum()

    every = (0, 1, 2)
    expected = torch.autograd.grad(plain(*tensors), tensors)
    torch.testing.assert_close(torch.func.grad(call, every)(*tensors), expected)
    along = tuple(made(*t.shape, seed=5) for t in tensors)
    _, tangent = torch.func.jvp(call, tuple(tensors), along)
    torch.testing.assert_close(tangent, sum((a * b).sum() for a, b in zip(expected, along, strict=True)))
    assert abs(tangent) > 0.1
    hessian = torch.func.hessian(plain, every)(*tensors)
    torch.testing.assert_close(torch.func.jacfwd(torch.func.jacrev(call, every), every)(*tensors), hessian)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(call))(*tensors), hessian[0][0])


def test_vmap_over_a_population_and_gradients_of_each_example():
    x, weight, b = layer()
    keep = LABELS >= 0
    heads = torch.stack([weight, weight * 0.5, weight + 0.1])
    got = torch.func.vmap(lambda w: linear_cross_entropy(x, w, LABELS, bias=b, block=2))(heads)
    torch.testing.assert_close(got, torch.stack([reference(x, w, b, LABELS) for w in heads]))
    each = torch.func.vmap(torch.func.grad(lambda w, x, y: linear_cross_entropy(x, w, y)), (None, 0, 0))(weight, x[keep], LABELS[keep])
    (whole,) = torch.autograd.grad(reference(x, weight, None, LABELS), weight)
    torch.testing.assert_close(each.mean(0), whole)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated.*:DeprecationWarning")  # torch's own, when it follows a function
@pytest.mark.parametrize("case", ["plain", "soft, all", "none with sample weights"])
def test_compiles_in_one_graph(case):
    torch._dynamo.reset()
    target, options = split(OPTIONS[case])
    extra = {"z_loss": 0.1, "softcap": 3.0} if case == "plain" else {}

    def call(x, weight, bias):
        return linear_cross_entropy(x, weight, target, bias=bias, block=3, **options, **extra).sum()

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    tensors = layer()
    torch.testing.assert_close(compiled(*tensors), call(*tensors))
    got, wanted = (torch.autograd.grad(f(*tensors), tensors) for f in (compiled, call))
    torch.testing.assert_close(got, wanted)


def test_only_the_gradients_that_are_asked_for():
    x, weight, b = layer()
    wanted = torch.autograd.grad(reference(x, weight, b, LABELS), (x, weight, b))
    for i in range(3):
        tensors = [t.detach().requires_grad_(i == k) for k, t in enumerate((x, weight, b))]
        linear_cross_entropy(tensors[0], tensors[1], LABELS, bias=tensors[2], block=2).backward()
        torch.testing.assert_close(tensors[i].grad, wanted[i])
    with torch.no_grad():
        value = linear_cross_entropy(x, weight, LABELS, bias=b)
    assert not value.requires_grad
    torch.testing.assert_close(value, reference(x, weight, b, LABELS).detach())


def test_gradients_add_up_in_leaves_and_a_second_backward_needs_the_graph():
    x, weight, b = layer()
    loss = linear_cross_entropy(x, weight, LABELS, bias=b)
    (3 * loss).backward(retain_graph=True)
    (loss / 4).backward()
    wanted = torch.autograd.grad(3.25 * reference(x, weight, b, LABELS), (x, weight, b))
    torch.testing.assert_close((x.grad, weight.grad, b.grad), wanted)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_any_number_of_axes_and_one_token():
    x, weight, b = layer()
    loss = linear_cross_entropy(x[:6].reshape(2, 3, IN), weight, LABELS[:6].reshape(2, 3), bias=b, reduction="none", mask=MASK[:2])
    torch.testing.assert_close(loss, reference(x[:6], weight, b, LABELS[:6], reduction="none").reshape(2, 3))
    one = linear_cross_entropy(x[0], weight, LABELS[0], bias=b)
    torch.testing.assert_close(one, reference(x[:1], weight, b, LABELS[:1]))
    soft = linear_cross_entropy(x[:6].reshape(2, 3, IN), weight, SOFT[:6].reshape(2, 3, C), bias=b)
    torch.testing.assert_close(soft, reference(x[:6], weight, b, SOFT[:6]))


@pytest.mark.parametrize("how", ["ignored", "masked", "weightless", "empty"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nothing_left_is_zero_with_zero_gradients(how, reduction):
    x, weight, b = layer()
    target, kw = LABELS, {}
    if how == "ignored":
        target = torch.full_like(LABELS, -100)
    if how == "masked":
        kw = {"mask": torch.zeros(N, dtype=torch.bool)}
    if how == "weightless":
        kw = {"sample_weight": torch.zeros(N)}
    feed = x[:0] if how == "empty" else x
    value = linear_cross_entropy(feed, weight, target[: len(feed)], bias=b, reduction=reduction, **kw).sum()
    value.backward()
    assert value.item() == 0
    for t in (x, weight, b):
        assert torch.equal(t.grad, torch.zeros_like(t))


def test_nan_under_a_mask_stays_there_and_elsewhere_shows():
    x, weight, b = layer()
    poisoned = x.detach().clone()
    poisoned[~MASK] = torch.nan
    poisoned.requires_grad_()
    for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.1}):
        value = linear_cross_entropy(poisoned, weight, LABELS, bias=b, mask=MASK, block=2, **options)
        torch.testing.assert_close(value, linear_cross_entropy(x[MASK], weight, LABELS[MASK], bias=b, **options))
        by_x, by_weight = torch.autograd.grad(value, (poisoned, weight))
        assert torch.equal(by_x[~MASK], torch.zeros_like(by_x[~MASK]))
        assert by_weight.isfinite().all()
    assert linear_cross_entropy(poisoned, weight, LABELS, bias=b).isnan()


def test_a_class_that_is_ruled_out():
    x, weight, b = layer()
    ruled = b.detach().clone()
    ruled[0] = -torch.inf
    keep = LABELS != 0
    target = torch.where(keep, LABELS, -100)
    for t in (target, F.one_hot(LABELS.clamp(min=1), C).to(D)):
        value = linear_cross_entropy(x, weight, t, bias=ruled, block=2)
        torch.testing.assert_close(value, reference(x, weight, ruled, t))
        got, wanted = (torch.autograd.grad(v, (x, weight)) for v in (value, reference(x, weight, ruled, t)))
        torch.testing.assert_close(got, wanted)
    smoothed = linear_cross_entropy(x, weight, target, bias=ruled, label_smoothing=0.1, mask=torch.arange(N) < 1)
    assert smoothed.item() == 0  # the only example is ignored; its infinite cost goes with it


def test_saturated_logits_keep_value_and_gradient():
    weight = torch.tensor([[1e4], [0.0], [1e4 - 1.0]])
    x = torch.ones(2, 1, requires_grad=True)
    value = linear_cross_entropy(x, weight, torch.tensor([0, 1]), reduction="none")
    torch.testing.assert_close(value, F.cross_entropy(x @ weight.t(), torch.tensor([0, 1]), reduction="none"))
    (slope,) = torch.autograd.grad(linear_cross_entropy(x, weight, torch.tensor([0, 1]), reduction="sum"), x)
    torch.testing.assert_close(slope, torch.autograd.grad(F.cross_entropy(x @ weight.t(), torch.tensor([0, 1]), reduction="sum"), x)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wide_weight", [False, True])
def test_sixteen_bits_are_computed_in_32(dtype, wide_weight):
    x, weight = made(64, 16, dtype=dtype), made(30, 16, seed=1, dtype=dtype)
    weight = weight.float() if wide_weight else weight
    y = torch.arange(64) % 30
    tensors = [x.requires_grad_(), weight.requires_grad_()]
    value = linear_cross_entropy(x, weight, y, block=4)
    expected = F.cross_entropy(x.float() @ weight.float().t(), y)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)
    got, wanted = (torch.autograd.grad(v, tensors) for v in (value, expected))
    assert [g.dtype for g in got] == [t.dtype for t in tensors]
    torch.testing.assert_close(got, wanted)


def test_autocast_does_not_round():
    x, weight, _ = layer(dtype=torch.float32)
    wanted = torch.autograd.grad(reference(x, weight, None, LABELS), (x, weight))
    for reduction in ("mean", "none"):
        with torch.autocast("cpu", torch.bfloat16):
            value = linear_cross_entropy(x, weight, LABELS, reduction=reduction).sum() / (1 if reduction == "mean" else 6)
        torch.testing.assert_close(torch.autograd.grad(value, (x, weight)), wanted)


def test_checkpoint_and_nothing_given_is_changed():
    from torch.utils.checkpoint import checkpoint

    tensors = layer()
    before = [t.detach().clone() for t in tensors]
    value = checkpoint(lambda x, w, b: linear_cross_entropy(x, w, LABELS, bias=b), *tensors, use_reentrant=False)
    got = torch.autograd.grad(value, tensors)
    torch.testing.assert_close(got, torch.autograd.grad(reference(*tensors, LABELS), tensors))
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_module_function_and_registry_are_one():
    torch.manual_seed(0)
    loss = build("linear_cross_entropy:z_loss=0.1", in_features=IN, classes=C, label_smoothing=0.1).to(D)
    assert isinstance(loss, LinearCrossEntropy)
    assert {name: tuple(p.shape) for name, p in loss.named_parameters()} == {"weight": (C, IN), "bias": (C,)}
    torch.manual_seed(0)
    like = torch.nn.Linear(IN, C).to(D)
    torch.testing.assert_close((loss.weight, loss.bias), (like.weight, like.bias))
    x = made(N, IN)
    assert torch.equal(loss.logits(x), like(x))
    expected = linear_cross_entropy(x, like.weight, LABELS, bias=like.bias, z_loss=0.1, label_smoothing=0.1)
    for value in (loss(x, LABELS), loss.quick(x, LABELS)):
        assert torch.equal(value, expected)
    each = loss.per_example(x, LABELS)
    total, count = loss.sum_and_count(x, LABELS)
    torch.testing.assert_close(total, each.sum())
    assert count == 6
    again = LinearCrossEntropy(IN, C, dtype=D)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again.weight, loss.weight)
    assert "in_features=4, classes=5, bias=False, softcap=30" in repr(LinearCrossEntropy(IN, C, bias=False, softcap=30))
    capped = LinearCrossEntropy(IN, C, softcap=0.5, dtype=D)
    assert capped.logits(100 * x).abs().max() <= 0.5


def test_it_says_what_it_is_and_that_no_task_of_fit_gives_it_features():
    e = describe("linear_cross_entropy")
    assert all((e.summary, e.formula, e.when, e.when_not, e.source, e.departs))
    with pytest.raises(FalllineError, match="needs the features before the last layer"):
        check_task("linear_cross_entropy", "multiclass")


def test_micro_batches_add_up():
    x, weight, _ = layer()
    loss = LinearCrossEntropy(IN, C, bias=False, class_weight=WEIGHT, dtype=D)
    loss.weight = torch.nn.Parameter(weight.detach())
    parts = [loss.sum_and_count(x[i : i + 3], LABELS[i : i + 3], sample_weight=EACH[i : i + 3]) for i in range(0, N, 3)]
    total, count = (torch.stack(p).sum() for p in zip(*parts, strict=True))
    torch.testing.assert_close(total / count, loss(x, LABELS, sample_weight=EACH))


def test_a_tied_weight_gets_both_gradients():
    table = torch.nn.Embedding(C, IN, dtype=D)
    y = torch.tensor([1, 2, 0])
    linear_cross_entropy(table(y), table.weight, y.roll(1)).backward()
    got, table.weight.grad = table.weight.grad.clone(), None
    F.cross_entropy(table(y) @ table.weight.t(), y.roll(1)).backward()
    torch.testing.assert_close(got, table.weight.grad)


def test_the_first_backward_hands_its_buffer_over():
    weight = torch.nn.Parameter(made(C, IN))
    loss = linear_cross_entropy(made(N, IN), weight, LABELS)
    node = loss.grad_fn
    place = node.found[1].data_ptr()
    loss.backward()
    gc.collect()
    assert weight.grad.data_ptr() == place
    assert node.found is None


def test_no_more_than_one_block_of_logits_is_made():
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    x, weight = made(64, 8).requires_grad_(), made(100, 8).requires_grad_()
    for reduction in ("mean", "none"):
        with Watch():
            linear_cross_entropy(x, weight, torch.arange(64), block=8, reduction=reduction).sum().backward()
    assert max(sizes) == 800


def test_rows_of_a_block():
    assert rows_of(4096, 50_000, 4, 0) == 512
    assert rows_of(600, 50_000, 4, 0) == 300  # two even blocks
    assert rows_of(4096, 1_000_000, 4, 0) * 1_000_000 * 4 <= 128 << 20
    assert rows_of(10, 5, 4, 3) == 3
    assert rows_of(0, 5, 4, 0) >= 0


def test_refusals_say_what_to_write():
    x, weight, b = layer()

    def refused(match, *args, **kw):
        with pytest.raises(FalllineError, match=match):
            linear_cross_entropy(*args, **kw)

    refused("features before the last layer", F.linear(x, weight, b), weight, LABELS)
    refused(r"squeeze\(-1\)", x, weight, LABELS[:, None])
    refused("target.long", x, weight, LABELS.to(D))
    refused(r"bias is \(5,\)", x, weight, LABELS, bias=b[:3])
    refused("one type", x.float(), weight, LABELS)
    refused(r"0\.\.4", x, weight, LABELS + 1)
    refused("sums to 1", x, weight, 2 * SOFT)
    refused("class_weight has the shape", x, weight, LABELS, class_weight=torch.ones(3))
    refused("weight is a tensor", x, [[1.0]], LABELS)
    refused("block >= 0", x, weight, LABELS, block=-1)
    refused("softcap", x, weight, LABELS, softcap=-1.0)
    with pytest.raises(FalllineError, match="classes >= 1"):
        LinearCrossEntropy(3, 0)
    with pytest.raises(FalllineError, match=r"option.*'smoothing'"):
        LinearCrossEntropy(3, 4, smoothing=0.1)


@pytest.mark.parametrize("soft", [False, True])
def test_label_smoothing_spreads_over_the_classes_that_are_possible(soft):
    x, weight, b = layer()
    ruled = b.detach().clone()
    ruled[0] = -torch.inf
    t = torch.where(LABELS > 0, LABELS, -100)
    if soft:
        t = F.one_hot(LABELS.clamp(min=1), C).to(D) / 2 + F.one_hot(torch.full((N,), 2), C) / 2
    loss = CrossEntropy(label_smoothing=0.1)
    (value,) = expected = (loss(F.linear(x, weight, ruled), t),)
    assert value.isfinite()
    wanted = torch.autograd.grad(value, (x, weight))
    for block in (0, 2):
        got = linear_cross_entropy(x, weight, t, bias=ruled, label_smoothing=0.1, block=block)
        torch.testing.assert_close((got,), expected)
        torch.testing.assert_close(torch.autograd.grad(got, (x, weight), retain_graph=True), wanted)
        torch.testing.assert_close(torch.autograd.grad(got, (x, weight), create_graph=True), wanted)
    pure = torch.func.grad(lambda x, w: linear_cross_entropy(x, w, t, bias=ruled, label_smoothing=0.1), (0, 1))(x, weight)
    torch.testing.assert_close(pure, wanted)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_of_a_target_that_is_exactly_nothing(smoothing):
    x, weight, b = (p.detach() for p in layer())
    t = F.one_hot(LABELS.clamp(min=0), C).to(D).requires_grad_()
    (got,) = torch.autograd.grad(linear_cross_entropy(x, weight, t, bias=b, label_smoothing=smoothing), t)
    torch.testing.assert_close(got, (smoothing - 1) / N * F.linear(x, weight, b).log_softmax(-1))

    def call(t):
        return linear_cross_entropy(x, weight, t, bias=b, label_smoothing=smoothing, validate=False)

    moved = made(N, C, seed=5)
    torch.testing.assert_close(torch.func.jvp(call, (t.detach(),), (moved,))[1], (got * moved).sum())


def test_derivatives_in_float64_hold_no_float32_constant():
    x, weight, _ = layer()
    t = LABELS.clamp(min=0)
    wanted = torch.autograd.grad(F.cross_entropy(x @ weight.t(), t, label_smoothing=0.1), x)[0]

    def call(x):
        return linear_cross_entropy(x, weight, t, label_smoothing=0.1)

    same = {"rtol": 0, "atol": 1e-14}
    torch.testing.assert_close(torch.autograd.grad(call(x), x, create_graph=True)[0], wanted, **same)
    torch.testing.assert_close(torch.func.grad(call)(x.detach()), wanted, **same)
    torch.testing.assert_close(torch.func.jvp(call, (x.detach(),), (torch.ones_like(x),))[1], wanted.sum(), **same)


def test_autocast_does_not_round_the_class_weights_of_soft_targets():
    x, weight, b = (p.detach().float() for p in layer())
    kw = {"bias": b, "class_weight": torch.tensor([0.1234567, 1.0, 2.3456789, 3.0, 0.7654321]), "reduction": "none"}
    plain = linear_cross_entropy(x, weight, SOFT.float(), **kw)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linear_cross_entropy(x, weight, SOFT.float(), **kw), plain)


def test_a_weight_that_is_missing_is_one_sentence():
    with pytest.raises(FalllineError, match="weight is a tensor"):
        linear_cross_entropy(made(N, IN), None, LABELS)  # pyright: ignore[reportArgumentType]
