"""What a loss advises where a batch is not what it takes: advice that leads on, and none that is wrong."""

import pytest
import torch

from fallline._core.errors import FalllineError, FalllineWarning
from fallline.losses import BinaryCrossEntropy, functional
from fallline.losses import _checks as checks
from fallline.losses import _kinds as kinds


@pytest.fixture(autouse=True)
def _as_new(monkeypatch):
    monkeypatch.setattr(checks, "_warned", set())
    monkeypatch.setattr(kinds, "_within", {})


def logits(n, classes):
    return torch.randn(n, classes, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("classes", "labels", "said", "unsaid"),
    [
        (2, [-1, 1, 1, -1], r"write \(target \+ 1\) // 2", "ignore_index"),
        (3, [-1, 0, 1, 1], r"labels count from 0: write target \+ 1; or, if -1 marks examples to leave out, write ignore_index=-1", "// 2"),
        (3, [-1, 1, -1, 1], r"write target \+ 1", "// 2"),
        (5, [0, 1, 2, 3, 4, -1], "if -1 marks examples to leave out, write ignore_index=-1", r"target \+ 1"),
        (3, [1, 2, 3], "write target - 1", "ignore_index"),
        (3, [-2, 0, 1], "correct the labels", "ignore_index"),
        (1, [0, 1, 1], r"binary_cross_entropy\(input.squeeze\(1\), target\)", "correct the labels"),
    ],
)
def test_labels_out_of_range(classes, labels, said, unsaid):
    target = torch.tensor(labels)
    with pytest.raises(FalllineError, match=said) as error:
        functional.cross_entropy(logits(len(labels), classes), target)
    assert unsaid not in str(error.value)


def test_the_advice_on_labels_leads_to_a_loss():
    x = logits(6, 5)
    torch.testing.assert_close(
        functional.cross_entropy(x, torch.tensor([0, 1, 2, 3, 4, -1]), ignore_index=-1), functional.cross_entropy(x[:5], torch.arange(5))
    )
    functional.binary_cross_entropy(logits(3, 1).squeeze(1), torch.tensor([0, 1, 1]))


def masked(values, **shapes):
    """A call of a loss on fields, with the mask of a given shape."""
    x = torch.zeros(2, 3, 4, 5)
    y = x[:, 0].long() if values == "cross_entropy" else x
    return getattr(functional, values)(x, y, **{key: torch.ones(shape, dtype=torch.bool) for key, shape in shapes.items()})


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: masked("mse", mask=(2, 3)), r"write mask\[..., None, None\].expand\(2, 3, 4, 5\)"),
        (lambda: masked("mse", mask=(2, 3, 4)), r"write mask\[..., None\].expand\(2, 3, 4, 5\)"),
        (lambda: masked("cross_entropy", mask=(2, 1, 4, 5)), r"write mask.squeeze\(1\)"),
        (lambda: functional.cross_entropy(torch.zeros(2, 3, 4, 5), torch.zeros(2, 1, 4, 5).long()), r"write target.squeeze\(1\)"),
        (lambda: functional.dice(torch.zeros(2, 3, 4, 5), torch.zeros(2, 1, 4, 5).long()), r"write target.squeeze\(1\)"),
        (lambda: functional.gaussian_nll(torch.zeros(8), torch.zeros(8)), r"write torch.stack\(\[mean, variance\], -1\)"),
    ],
)
def test_shapes_that_do_not_fit_have_a_way_out(call, said):
    with pytest.raises(FalllineError, match=said):
        call()


def test_the_advice_on_masks_leads_to_a_loss():
    x, seen = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2, 3, dtype=torch.bool)
    seen[0, 1] = False
    expected = x.square()[seen].mean()
    torch.testing.assert_close(functional.mse(x, torch.zeros_like(x), mask=seen[..., None].expand(2, 3, 4)), expected)


# -- probabilities where logits are meant ------------------------------------------------------------------------------------------------

Y = torch.tensor([0, 1, 0, 1, 1, 0, 1, 0])


@pytest.mark.parametrize("n", [4, 8])
def test_a_small_batch_of_probabilities_is_told(n):
    p = torch.linspace(0.1, 0.9, n)
    with pytest.warns(FalllineWarning, match=r"takes logits.*drop the sigmoid before it, or write input_from='probabilities'"):
        functional.binary_cross_entropy(p, Y[:n])
    functional.binary_cross_entropy(p, Y[:n])  # once


def test_probabilities_close_together_are_told_after_some_batches():
    p = 0.5 + 0.1 * torch.rand(8, generator=torch.Generator().manual_seed(0))
    loss = BinaryCrossEntropy()
    loss(p, Y)
    with pytest.warns(FalllineWarning, match="takes logits"):
        loss(p, Y)


def test_small_logits_are_not_taken_for_probabilities(recwarn):
    g = torch.Generator().manual_seed(0)
    loss = BinaryCrossEntropy()
    loss(torch.full((4,), 0.3), Y[:4])  # all alike, as at the start of training with a bias
    for _ in range(500):
        functional.binary_cross_entropy(torch.randn(4, generator=g), Y[:4])
    functional.binary_cross_entropy(torch.rand(8, generator=g), Y)  # a number outside has come: small batches are trusted
    functional.binary_cross_entropy(torch.tensor([0.2]), Y[:1])
    functional.binary_cross_entropy(torch.rand(8, generator=g), Y, input_from="probabilities")
    assert not recwarn


def test_focal_names_no_option_that_it_has_not():
    p = torch.linspace(0.1, 0.9, 8)
    with pytest.warns(FalllineWarning, match="drop the sigmoid before it") as told:
        functional.focal(p, Y)
    assert "input_from" not in str(told[0].message)
    with pytest.warns(FalllineWarning, match="input_from='probabilities'"):
        functional.dice(p[None], Y[None])


def test_the_function_of_a_layer_speaks_of_its_arguments():
    x, weight = torch.zeros(2, 3), torch.zeros(4, 3, device="meta")
    with pytest.raises(FalllineError, match=r"write weight.to\(input.device\)"):
        functional.linear_cross_entropy(x, weight, torch.tensor([0, 1]))
