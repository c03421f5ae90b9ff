"""CORAL: value by hand, the order of the levels, and what is read from the logits."""

import pytest
import torch

from fallline import models
from fallline._core.errors import FalllineError
from fallline.losses import BinaryCrossEntropy, Coral, functional, predict_from

D = torch.float64


def test_closed_form():
    assert Coral()(torch.zeros(3, 4), torch.tensor([0, 2, 4])).item() == pytest.approx(4 * 0.6931472)
    f = torch.tensor([[2.0, -1.0]], dtype=D)
    log = torch.nn.functional.logsigmoid
    for y, terms in ((0, [-2.0, 1.0]), (1, [2.0, 1.0]), (2, [2.0, -1.0])):
        expected = -log(torch.tensor(terms, dtype=D)).sum()
        torch.testing.assert_close(Coral()(f, torch.tensor([y])), expected)


def test_is_the_sum_of_binary_cross_entropies():
    g = torch.Generator().manual_seed(0)
    f, y = torch.randn(7, 4, generator=g, dtype=D), torch.randint(0, 5, (7,), generator=g)
    levels = (y[:, None] > torch.arange(4)).long()
    each = BinaryCrossEntropy(reduction="none")(f, levels)
    torch.testing.assert_close(Coral(reduction="none")(f, y), each.sum(1))
    importance = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=D)
    torch.testing.assert_close(functional.coral(f, y, importance=importance, reduction="none"), (each * importance).sum(1))
    maps = torch.randn(2, 4, 3, 5, generator=g, dtype=D)
    ys = torch.randint(0, 5, (2, 3, 5), generator=g)
    ys[0, 0, 0] = -100
    kept = ys != -100
    flat = Coral()(maps.movedim(1, -1)[kept], ys[kept])
    torch.testing.assert_close(Coral()(maps, ys), flat)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_saturated_levels_keep_their_slope(dtype):
    f = torch.tensor([[100.0, 100.0, -100.0]], dtype=dtype, requires_grad=True)
    value = Coral()(f, torch.tensor([0]))
    value.backward()
    assert value.item() == 200
    torch.testing.assert_close(f.grad, torch.tensor([[1, 1, 0]], dtype=dtype))


def test_class_weights_count_the_classes_not_the_logits():
    f, y = torch.randn(5, 2, dtype=D), torch.tensor([0, 1, 2, 2, 1])
    w = torch.tensor([1.0, 2.0, 5.0], dtype=D)
    torch.testing.assert_close(Coral(class_weight=w)(f, y), Coral()(f, y, sample_weight=w[y]))


def test_bad_input_is_told():
    with pytest.raises(FalllineError, match=r"0\.\.2.*every|0\.\.2"):
        Coral()(torch.zeros(2, 2), torch.tensor([0, 3]))
    with pytest.raises(FalllineError, match="one output a class but the first"):
        Coral()(torch.zeros(2, 2), torch.tensor([0, 4]))
    with pytest.raises(FalllineError, match=r"importance has the shape \(2,\)"):
        Coral(importance=[1, 2, 3])(torch.zeros(2, 2), torch.tensor([0, 1]))
    with pytest.raises(FalllineError, match="n_classes"):
        Coral.outputs(1)
    assert Coral.outputs(5) == 4
    with pytest.raises(FalllineError, match="n_classes >= 2"):
        models.OrdinalHead(3, 1)


def test_what_is_read_are_probabilities_whose_middle_class_is_the_papers():
    g = torch.Generator().manual_seed(0)
    f = torch.randn(500, 6, generator=g, dtype=D) * 3  # in no order
    p = predict_from("ordinal", f)
    assert p.shape == (500, 7)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(1), torch.ones(500, dtype=D))
    middle = (p.cumsum(1) < 0.5).sum(1)
    assert torch.equal(middle, (f.sigmoid() > 0.5).sum(1))
    falling = f.sort(1, descending=True).values
    above = falling.sigmoid()
    torch.testing.assert_close(predict_from("ordinal", falling)[:, 1:-1], above[:, :-1] - above[:, 1:])


@pytest.mark.parametrize("importance", [None, [3.0, 0.5, 1.0, 5.0]])
def test_one_shared_weight_makes_the_levels_agree(importance):
    """Theorem 1: biases that minimise the loss fall, whatever they started from and however much each level counts."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=g)
    latent = x @ torch.tensor([1.0, -1.0, 0.5]) + torch.randn(400, generator=g)
    y = torch.bucketize(latent, torch.tensor([-2.0, -1.8, 0.3, 2.5]))
    assert torch.bincount(y).min() > 0
    head = models.OrdinalHead(3, 5)
    with torch.no_grad():
        head.weight.weight.zero_()
        head.bias.copy_(torch.tensor([-1.0, 0.0, 1.0, 2.0]))  # rising: the wrong way
    loss = Coral(importance=importance)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(head(x), y)
        value.backward()
        return value

    optimizer.step(closure)
    assert (head.bias[:-1] > head.bias[1:]).all()
    anywhere = head(torch.randn(1000, 3, generator=g) * 100)
    assert (anywhere[:, :-1] >= anywhere[:, 1:]).all()
    rank = (head(x) > 0).sum(1)
    assert (rank - y).abs().float().mean() < 0.7


def test_the_head_starts_with_equal_classes():
    head = models.OrdinalHead(4, 5)
    p = predict_from("ordinal", head(torch.zeros(1, 4)))
    torch.testing.assert_close(p, torch.full((1, 5), 0.2))
    assert sum(q.numel() for q in head.parameters()) == 4 + 4


def test_the_head_puts_the_levels_where_the_loss_reads_them():
    head, x = models.OrdinalHead(4, 5), torch.randn(3, 7, 6, 4)
    y = torch.randint(0, 5, (3, 7, 6))
    f = head(x)
    assert f.shape == (3, 4, 7, 6)
    torch.testing.assert_close(Coral(reduction="none")(f, y).flatten(), Coral(reduction="none")(head(x.flatten(0, 2)), y.flatten()))
    assert head(x[0, 0, 0]).shape == (4,)
