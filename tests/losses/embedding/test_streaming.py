"""No whole matrix of similarities is ever held; transforms and compilation take the plain form; equal to its peer where that is right."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fallline.losses import build, functional
from fallline.losses.embedding import _stream

D = torch.float64
N = 48
SPECS = {
    "info_nce": "rows",
    "info_nce:symmetric=false": "rows",
    "info_nce:views=both": "rows",
    "info_nce:temperature=0.5": "classes",
    "sup_con": "classes",
    "sig_lip": "rows",
    "cross_modal_ranking": "rows",
    "cross_modal_ranking:negatives=hardest": "rows",
}


def rows(n, seed=0, d=4, dtype=D):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def target_of(form, n):
    return rows(n, 1) if form == "rows" else torch.arange(n) % (n // 4 or 1)


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor holds that any operation gives."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(part, torch.Tensor) and part.untyped_storage().nbytes():
                self.size = max(self.size, part.untyped_storage().nbytes() // part.element_size())
        return result


@pytest.mark.parametrize(("spec", "form"), SPECS.items())
def test_no_tensor_is_larger_than_a_block(spec, form, monkeypatch):
    monkeypatch.setattr(_stream, "BLOCK", 4 * N)
    x, y = rows(N).requires_grad_(), target_of(form, N)
    with Largest() as seen:
        build(spec)(x, y).backward()
    assert seen.size <= 2 * 4 * N
    monkeypatch.setattr(_stream, "_by_blocks", lambda *_: False)
    with Largest() as seen:  # the plain form does hold it: the measure works
        build(spec)(x, y).backward()
    assert seen.size >= N * N


@pytest.mark.parametrize(("spec", "form"), SPECS.items())
def test_graph_is_kept_for_a_second_backward_and_frozen_sides_get_no_gradient(spec, form, monkeypatch):
    monkeypatch.setattr(_stream, "BLOCK", 24)
    x, y = rows(8).requires_grad_(), target_of(form, 8)
    value = build(spec)(x, y)
    value.backward(retain_graph=True)
    first = x.grad.clone()
    value.backward()
    torch.testing.assert_close(x.grad, 2 * first)
    if form == "rows":
        both = rows(8).requires_grad_(), y.clone().requires_grad_()
        build(spec)(*both).backward()
        torch.testing.assert_close(both[0].grad, first)
        alone = y.clone().requires_grad_()
        build(spec)(rows(8), alone).backward()
        torch.testing.assert_close(alone.grad, both[1].grad)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, when forward mode is first used
@pytest.mark.parametrize(("spec", "form"), SPECS.items())
def test_func_vmap_and_forward_mode(spec, form):
    x, y = rows(8), target_of(form, 8)
    loss = build(spec)
    leaf = x.clone().requires_grad_()
    loss(leaf, y).backward()
    torch.testing.assert_close(torch.func.grad(loss)(x, y), leaf.grad)
    stacked = torch.stack([x, x.flip(0), 2 * x + 0.1])
    torch.testing.assert_close(torch.func.vmap(lambda x: loss(x, y))(stacked), torch.stack([loss(x, y) for x in stacked]))
    v = rows(8, 5)
    _, tangent = torch.func.jvp(lambda x: loss(x, y), (x,), (v,))
    torch.testing.assert_close(tangent, (leaf.grad * v).sum())
    with torch.autograd.forward_ad.dual_level():
        dual = loss(torch.autograd.forward_ad.make_dual(x, v), y)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, tangent)


@pytest.mark.parametrize(
    ("spec", "form"), [(spec, SPECS[spec]) for spec in ("info_nce:views=both", "cross_modal_ranking:negatives=hardest")]
)
def test_compiles_in_one_graph(spec, form):
    torch._dynamo.reset()
    x, y = rows(8, dtype=torch.float32), rows(8, 1, dtype=torch.float32)
    loss = build(spec)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), loss(x, y))
    slopes = []
    for call in (compiled, loss):
        leaf = x.clone().requires_grad_()
        call(leaf, y).backward()
        slopes.append(leaf.grad)
    torch.testing.assert_close(*slopes)


def test_functions_with_scale_or_class_vectors_compile():
    torch._dynamo.reset()
    x, y, w = rows(6), rows(6, 1), rows(3, 2)
    calls = functional.sig_lip, (lambda x, y: functional.arc_face(x, torch.arange(6) % 3, weight=w))
    for call in calls:
        compiled = torch.compile(call, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x, y), call(x, y))


@pytest.mark.parametrize("classes", [3, 12])
def test_against_pytorch_metric_learning_where_it_is_right(classes):
    peers = pytest.importorskip("pytorch_metric_learning.losses")
    labels = torch.arange(24) % classes
    for peer, name in ((peers.NTXentLoss(temperature=0.5), "nt_xent"), (peers.SupConLoss(temperature=0.1), "supcon")):
        a, b = rows(24).requires_grad_(), rows(24).requires_grad_()
        loss = build(name, temperature=peer.temperature)
        theirs, ours = peer(a, labels), loss(b, labels)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(torch.autograd.grad(ours, b), torch.autograd.grad(theirs, a), rtol=1e-7, atol=1e-9)


def test_two_views_are_classes_of_two():
    """SimCLR's form by rows equals the one by labels 0..N-1, twice: what pytorch-metric-learning's SelfSupervisedLoss does."""
    x, y = rows(8), rows(8, 1)
    by_rows = build("info_nce", views="both", temperature=0.5)(x, y)
    by_labels = build("info_nce", temperature=0.5)(torch.cat([x, y]), torch.arange(8).repeat(2))
    torch.testing.assert_close(by_rows, by_labels, rtol=1e-12, atol=0)
