"""`quick_slope` is `quick` and its derivative, for every loss and bit for bit for cross-entropy's shorter way."""

import pytest
import torch

from fallline.losses import CrossEntropy, build

RAW = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 4
CASES = {
    "cross_entropy": (RAW, LABELS),
    "cross_entropy:label_smoothing=0.1": (RAW, LABELS),
    "focal": (RAW, LABELS),
    "mse": (RAW[:, 0], RAW[:, 1]),
    "huber": (RAW[:, 0], RAW[:, 1]),
    "binary_cross_entropy": (RAW[:, 0], (LABELS > 1).float()),
}


@pytest.mark.parametrize("spec", CASES)
def test_equals_autograd(spec):
    loss = build(spec)
    raw, target = CASES[spec]
    loss.validate_targets(target)
    value, slope = loss.quick_slope(raw, target)
    leaf = raw.clone().requires_grad_()
    expected = loss.quick(leaf, target)
    expected.backward()
    apart = 2e-7 if spec == "cross_entropy" else 0.0  # its softmax is its own, so that a row's numbers depend on no other row
    assert torch.allclose(value, expected.detach(), rtol=apart, atol=0)
    assert torch.allclose(slope, leaf.grad, rtol=0, atol=apart / 10)
    assert not value.requires_grad
    assert not slope.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_cross_entropy_with_ignored_labels_soft_targets_and_class_weights(dtype):
    some = torch.where(LABELS == 2, -100, LABELS)
    for loss, target in (
        (CrossEntropy(), some),
        (CrossEntropy(ignore_index=1), LABELS),
        (CrossEntropy(), torch.softmax(RAW.to(dtype), 1)),
        (CrossEntropy(class_weight=torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64 if dtype == torch.float64 else None)), LABELS),
    ):
        if not target.is_floating_point():
            loss.validate_targets(target, 4)
        leaf = RAW.to(dtype).clone().requires_grad_()
        expected = loss.quick(leaf, target)
        expected.backward()
        value, slope = loss.quick_slope(RAW.to(dtype), target)
        assert torch.equal(value, expected.detach())
        assert torch.equal(slope, leaf.grad)
