"""What must hold of every loss, driven by the registry: a new loss is tested here by being registered."""

import inspect
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from fallline import losses
from fallline._core.errors import FalllineError
from fallline.losses import build, describe, functional
from tests.every.examples import LOSSES, NAMES, SEPARATE, TOGETHER, D, example
from tests.reference import losses64


def leaf(x):
    return x.detach().clone().requires_grad_()


def grad(loss, x, y, **kw):
    x = leaf(x)
    loss(x, y, **kw).backward()
    return x.grad


@pytest.mark.parametrize("name", SEPARATE)
def test_equals_the_formula_one_example_at_a_time(name):
    x, y = example(name)
    expected = [getattr(losses64, name)(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    torch.testing.assert_close(build(name).per_example(x, y), torch.tensor(expected, dtype=D), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_first_and_second_derivative(name):
    x, y = example(name, n=3 if LOSSES[name].target_kind in {"index", "distribution"} else 6)
    loss = build(name)
    assert gradcheck(lambda x: loss.per_example(x, y), (leaf(x),))
    assert gradgradcheck(lambda x: loss.per_example(x, y), (leaf(x),), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_quick_is_the_mean(name):
    x, y = example(name)
    loss = build(name)
    torch.testing.assert_close(loss.quick(x, y), loss(x, y), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grad(loss.quick, x, y), grad(loss, x, y), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_quick_takes_what_prepare_gives(name):
    x, y = example(name, dtype=torch.float32)
    loss = build(name)
    labels = (y + 1) // 2 if loss.target_kind == "signed" else y
    torch.testing.assert_close(loss.quick(x, loss.prepare(labels)), loss(x, y))


@pytest.mark.parametrize("name", NAMES)
def test_function_and_module_are_one(name):
    x, y = example(name)
    function = getattr(functional, name)
    assert torch.equal(function(x, y), build(name)(x, y))
    assert torch.equal(function(x, y, reduction="sum"), build(name, reduction="sum")(x, y))
    keywords = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert set(keywords) == {*LOSSES[name].options, *LOSSES[name].given, "sample_weight", "mask"}


@pytest.mark.parametrize("name", SEPARATE)
def test_reductions_agree(name):
    x, y = example(name)
    each = build(name, reduction="none")(x, y)
    assert each.shape == (len(y),)
    torch.testing.assert_close(build(name)(x, y), each.mean())
    torch.testing.assert_close(build(name, reduction="sum")(x, y), each.sum())


@pytest.mark.parametrize("name", SEPARATE)
def test_vmap(name):
    x, y = example(name)
    loss = build(name)
    torch.testing.assert_close(torch.func.vmap(loss)(x, y), loss.per_example(x, y))
    mask = torch.arange(len(y)) % 2 == 0
    torch.testing.assert_close(
        torch.func.vmap(lambda x, y, m: loss(x, y, mask=m))(x, y, mask), torch.where(mask, loss.per_example(x, y), 0)
    )


@pytest.mark.parametrize("name", NAMES)
def test_quick_serves_a_population(name):
    x, y = example(name)
    loss = build(name)
    members = torch.stack([x, x * 0.5 + 0.1, x * 0.7])
    if name == "kl_divergence":
        members = members.log_softmax(-1)
    each = torch.func.vmap(loss.quick, in_dims=(0, None))(members, y)
    torch.testing.assert_close(each, torch.stack([loss(m, y) for m in members]))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, when forward mode is first used
@pytest.mark.parametrize("name", SEPARATE)
def test_func_grad_jvp_and_per_example_gradients(name):
    x, y = example(name)
    loss = build(name)
    expected = grad(loss, x, y)
    torch.testing.assert_close(torch.func.grad(loss)(x, y), expected)
    each = torch.func.vmap(torch.func.grad(loss))(x, y)
    torch.testing.assert_close(each / len(y), expected)
    v = torch.randn_like(x)
    _, tangent = torch.func.jvp(lambda x: loss(x, y), (x,), (v,))
    torch.testing.assert_close(tangent, (expected * v).sum())


@pytest.mark.parametrize("name", NAMES)
def test_compiles_in_one_graph(name):
    torch._dynamo.reset()
    x, y = example(name, dtype=torch.float32)
    w, mask = torch.linspace(0.5, 2, len(y)), torch.arange(len(y)) % 3 != 0
    loss = build(name)
    for call, backend in ((lambda x, y: loss(x, y, sample_weight=w, mask=mask), "aot_eager"), (loss.quick, "eager")):
        compiled = torch.compile(call, fullgraph=True, backend=backend)
        torch.testing.assert_close(compiled(x, y), call(x, y))
        torch.testing.assert_close(grad(compiled, x, y), grad(call, x, y))


@pytest.mark.parametrize("name", ["huber", "cross_entropy"])
def test_the_functions_compile_in_one_graph(name):
    torch._dynamo.reset()
    x, y = example(name, dtype=torch.float32)
    function = getattr(functional, name)
    compiled = torch.compile(lambda x, y: function(x, y, reduction="sum"), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, y), function(x, y, reduction="sum"))


@pytest.mark.parametrize("name", NAMES)
def test_weight_zero_is_removal_even_of_nan(name):
    x, y = example(name)
    keep = torch.arange(len(y)) % 3 != 0
    poisoned = x.clone()
    poisoned[~keep] = torch.nan
    loss = build(name)
    weight = torch.where(keep, torch.linspace(0.5, 2, len(y), dtype=D), 0)
    for kw, kept_kw in (({"mask": keep}, {}), ({"sample_weight": weight}, {"sample_weight": weight[keep]})):
        torch.testing.assert_close(loss(poisoned, y, **kw), loss(x[keep], y[keep], **kept_kw))
        gradient = grad(loss, poisoned, y, **kw)
        assert torch.equal(gradient[~keep], torch.zeros_like(gradient[~keep]))
        torch.testing.assert_close(gradient[keep], grad(loss, x[keep], y[keep], **kept_kw))


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_target_under_the_mask_is_nobodys_business(name):
    x, y = example(name)
    bad = y.clone()
    bad[3] = -1000
    mask = torch.arange(len(y)) != 3
    torch.testing.assert_close(build(name)(x, bad, mask=mask), build(name)(x[mask], y[mask]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["masked", "weightless", "empty"])
def test_nothing_left_is_zero_with_zero_gradient(name, how):
    x, y = example(name)
    kw = {"masked": {"mask": torch.zeros(len(y), dtype=torch.bool)}, "weightless": {"sample_weight": torch.zeros(len(y))}, "empty": {}}[how]
    if how == "empty":
        x, y = x[:0], y[:0]
    x = leaf(x)
    value = build(name)(x, y, **kw)
    value.backward()
    assert value.item() == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("name", SEPARATE)
@pytest.mark.parametrize("normalize", ["weight", "count"])
def test_micro_batches_add_up_to_the_batch(name, normalize):
    x, y = example(name)
    g = torch.Generator().manual_seed(1)
    w, mask = torch.rand(len(y), generator=g, dtype=D), torch.rand(len(y), generator=g) > 0.2
    loss = build(name, normalize=normalize)
    parts = [loss.sum_and_count(x[i : i + 5], y[i : i + 5], sample_weight=w[i : i + 5], mask=mask[i : i + 5]) for i in range(0, len(y), 5)]
    total, count = (torch.stack(p).sum() for p in zip(*parts, strict=True))
    torch.testing.assert_close(total / count, loss(x, y, sample_weight=w, mask=mask))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), shuffle=st.integers(0, 10_000))
@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_examples_does_not_matter(name, seed, shuffle):
    x, y = example(name, seed=seed)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(shuffle))
    loss = build(name)
    torch.testing.assert_close(loss(x[order], y[order]), loss(x, y))
    torch.testing.assert_close(loss.per_example(x[order], y[order]), loss.per_example(x, y)[order])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_are_computed_in_32(name, dtype):
    x, y = example(name, dtype=dtype)
    loss = build(name)
    wide_y = y.float() if y.is_floating_point() else y
    with warnings.catch_warnings():
        if name == "kl_divergence":  # a distribution rounded to 16 bits sums to 1 only roughly
            loss.validate = False
        for call in (loss, loss.quick):
            value = call(x, y) if call == loss else call(x, wide_y)
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, loss(x.float(), wide_y))
    assert grad(loss, x, y).dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_nothing_given_is_changed(name):
    x, y = example(name)
    before = x.clone(), y.clone()
    w, mask = torch.ones(len(y), dtype=D), torch.ones(len(y), dtype=torch.bool)
    build(name)(x, y, sample_weight=w, mask=mask)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@pytest.mark.parametrize("name", SEPARATE)
def test_shapes_that_would_broadcast_are_refused(name):
    x, y = example(name)
    with pytest.raises(FalllineError, match="shape"):
        build(name)(x, y.unsqueeze(-1) if y.ndim == 1 else y[:1])
    with pytest.raises(FalllineError, match="shape"):
        build(name)(x, y[:-1])
    if x.ndim == 1:
        with pytest.raises(FalllineError, match=r"squeeze\(-1\)"):
            build(name)(x.unsqueeze(-1), y)


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_masks_are_checked(name):
    x, y = example(name)
    loss = build(name)
    with pytest.raises(FalllineError, match="sample_weight has the shape"):
        loss(x, y, sample_weight=torch.ones(len(y) - 1))
    with pytest.raises(FalllineError, match="mask has the shape"):
        loss(x, y, mask=torch.ones(3, len(y), dtype=torch.bool))
    with pytest.raises(FalllineError, match="mask is boolean"):
        loss(x, y, mask=torch.ones(len(y)))
    with pytest.raises(FalllineError, match="sample_weight >= 0"):
        loss(x, y, sample_weight=-torch.ones(len(y)))
    with pytest.raises(FalllineError, match="floating point"):
        loss(x.long(), y)


@pytest.mark.parametrize("name", TOGETHER)
def test_reductions_of_a_batch_agree(name):
    x, y = example(name)
    each = build(name, reduction="none")(x, y)
    total, count = build(name).sum_and_count(x, y)
    assert each.shape == (len(y),)
    torch.testing.assert_close(build(name, reduction="sum")(x, y), each.sum())
    torch.testing.assert_close(total, each.sum())
    torch.testing.assert_close(build(name)(x, y), total / count)


@pytest.mark.parametrize("name", TOGETHER)
def test_vmap_over_batches(name):
    parts = [example(name, seed=s) for s in range(3)]
    x, y = (torch.stack(p) for p in zip(*parts, strict=True))
    loss = build(name)
    mask = torch.arange(x.shape[1]) % 4 != 0
    for call in (loss, lambda x, y: loss(x, y, mask=mask)):
        torch.testing.assert_close(torch.func.vmap(call)(x, y), torch.stack([call(a, b) for a, b in parts]))
        grads = torch.stack([grad(call, a, b) for a, b in parts])
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(call))(x, y), grads)


NUMBERS = [(name, key) for name in NAMES for key, option in LOSSES[name].options.items() if option.number]


@pytest.mark.parametrize(("name", "key"), NUMBERS)
def test_each_number_outside_its_range_is_refused(name, key):
    for value in LOSSES[name].options[key].number.outside():
        with pytest.raises(FalllineError, match=key):
            build(name, **{key: value})


@pytest.mark.parametrize(("name", "key"), NUMBERS)
def test_each_number_moves_the_value(name, key):
    if key == "eps":
        return
    x, y = example(name, n=40)
    if (name, key) == ("focal", "alpha"):  # for labels 0/1, its other form
        x, y = x[:, 0], (y > 1).long()
    kw = {"input_from": "logits"} if name == "binary_cross_entropy" else {}
    value = 0.3 if LOSSES[name].options[key].default != 0.3 else 0.6
    assert abs(build(name, **kw, **{key: value})(x, y) - build(name, **kw)(x, y)) > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_is(name):
    e = describe(name)
    assert e.family == "loss"
    assert all((e.summary, e.formula, e.when, e.when_not, e.source))
    assert getattr(losses, LOSSES[name].__name__) is LOSSES[name]
    assert all(option.doc for option in LOSSES[name].options.values())


@pytest.mark.parametrize("name", NAMES)
def test_moves_and_saves_like_any_module(name):
    x, y = example(name)
    loss = build(name)
    again = build(name)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again.to(D)(x, y), loss(x, y))
