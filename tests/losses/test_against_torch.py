"""Equal to torch where torch is right.

Intended differences, each tested elsewhere: multi_margin_loss divides by the number of classes (Weston-Watkins does not); cross_entropy
with label smoothing and weights (pytorch#104776), and with soft targets and weights divides by N; all-ignored and empty batches give NaN
there, 0 here; gaussian_nll_loss hides its floor from autograd; poisson_nll_loss(full=True) approximates log y!; kl_div 'mean' divides by
every element; infinite logits give NaN there; 16-bit inputs stay 16-bit there.
"""

import pytest
import torch
from torch.nn import functional as F

from fallline.losses import functional

D = torch.float64
G = torch.Generator().manual_seed(3)
X, Y = torch.randn(7, 5, generator=G, dtype=D) * 3, torch.randn(7, 5, generator=G, dtype=D)
LABELS, BITS, W = torch.randint(0, 5, (7,), generator=G), (Y > 0).to(D), torch.rand(5, generator=G, dtype=D) + 0.1
SOFT = Y.softmax(-1)


def reduced(values, reduction):
    return {"none": values, "sum": values.sum(), "mean": values.mean()}[reduction]


PAIRS = {
    "mse": (lambda r: functional.mse(X, Y, reduction=r), lambda r: F.mse_loss(X, Y, reduction=r)),
    "mae": (lambda r: functional.mae(X, Y, reduction=r), lambda r: F.l1_loss(X, Y, reduction=r)),
    "huber": (lambda r: functional.huber(X, Y, delta=0.7, reduction=r), lambda r: F.huber_loss(X, Y, delta=0.7, reduction=r)),
    "smooth_l1": (lambda r: functional.smooth_l1(X, Y, beta=0.7, reduction=r), lambda r: F.smooth_l1_loss(X, Y, beta=0.7, reduction=r)),
    "poisson": (lambda r: functional.poisson_nll(X, Y.abs(), reduction=r), lambda r: F.poisson_nll_loss(X, Y.abs(), reduction=r)),
    "bce": (
        lambda r: functional.binary_cross_entropy(X, BITS, reduction=r),
        lambda r: F.binary_cross_entropy_with_logits(X, BITS, reduction=r),
    ),
    "bce pos_weight": (
        lambda r: functional.binary_cross_entropy(X, BITS, pos_weight=3, reduction=r),
        lambda r: F.binary_cross_entropy_with_logits(X, BITS, pos_weight=torch.tensor(3.0, dtype=D), reduction=r),
    ),
    "bce probabilities": (
        lambda r: functional.binary_cross_entropy(X.sigmoid(), BITS, input_from="probabilities", reduction=r),
        lambda r: F.binary_cross_entropy(X.sigmoid(), BITS, reduction=r),
    ),
    "ce": (lambda r: functional.cross_entropy(X, LABELS, reduction=r), lambda r: F.cross_entropy(X, LABELS, reduction=r)),
    "ce weights": (
        lambda r: functional.cross_entropy(X, LABELS, class_weight=W, reduction=r),
        lambda r: F.cross_entropy(X, LABELS, W, reduction=r),
    ),
    "ce ignored": (
        lambda r: functional.cross_entropy(X, LABELS, ignore_index=int(LABELS[0]), class_weight=W, reduction=r),
        lambda r: F.cross_entropy(X, LABELS, W, ignore_index=int(LABELS[0]), reduction=r),
    ),
    "ce smoothing": (
        lambda r: functional.cross_entropy(X, LABELS, label_smoothing=0.2, reduction=r),
        lambda r: F.cross_entropy(X, LABELS, label_smoothing=0.2, reduction=r),
    ),
    "ce soft": (
        lambda r: functional.cross_entropy(X, SOFT, label_smoothing=0.2, reduction=r),
        lambda r: F.cross_entropy(X, SOFT, label_smoothing=0.2, reduction=r),
    ),
    "kl": (
        lambda r: functional.kl_divergence(X, SOFT, reduction=r),
        lambda r: {
            "none": F.kl_div(X.log_softmax(-1), SOFT, reduction="none").sum(-1),
            "sum": F.kl_div(X.log_softmax(-1), SOFT, reduction="sum"),
        }.get(r, F.kl_div(X.log_softmax(-1), SOFT, reduction="batchmean")),
    ),
    "hinge": (
        lambda r: functional.hinge(X, BITS * 2 - 1, reduction=r),
        lambda r: {"none": F.relu(1 - X * (BITS * 2 - 1))}.get(
            r, getattr(F.relu(1 - X * (BITS * 2 - 1)), "mean" if r == "mean" else "sum")()
        ),
    ),
    "multiclass hinge": (
        lambda r: functional.multiclass_hinge(X, LABELS, reduction=r) / 5,
        lambda r: F.multi_margin_loss(X, LABELS, reduction=r),
    ),
    "multiclass hinge squared": (
        lambda r: functional.multiclass_hinge(X, LABELS, squared=True, delta=2, reduction=r) / 5,
        lambda r: F.multi_margin_loss(X, LABELS, p=2, margin=2, reduction=r),
    ),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("pair", list(PAIRS))
def test_equals_torch(pair, reduction):
    ours, torchs = PAIRS[pair]
    torch.testing.assert_close(ours(reduction), torchs(reduction), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dims", [(3,), (3, 2)])
def test_cross_entropy_over_pixels_equals_torch(dims):
    x, y = torch.randn(2, 4, *dims, dtype=D), torch.randint(0, 4, (2, *dims))
    torch.testing.assert_close(functional.cross_entropy(x, y, label_smoothing=0.1), F.cross_entropy(x, y, label_smoothing=0.1))
    focal = functional.focal(x, y, reduction="none")
    assert focal.shape == y.shape
    flat = functional.focal(x.movedim(1, -1).reshape(-1, 4), y.flatten(), reduction="none")
    torch.testing.assert_close(focal.flatten(), flat)
