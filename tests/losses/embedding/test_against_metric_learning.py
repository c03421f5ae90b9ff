"""The triplet and contrastive losses against pytorch-metric-learning's, which lists every triplet."""

import pytest
import torch

from fallline.losses import Contrastive, Triplet
from tests.losses.embedding import brute

pml = pytest.importorskip("pytorch_metric_learning")
from pytorch_metric_learning import distances, losses, miners  # noqa: E402

D = torch.float64
PLAIN = distances.LpDistance(normalize_embeddings=False)


def batch(n=40):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 6, generator=g, dtype=D, requires_grad=True), torch.randint(0, 5, (n,), generator=g)


def close(ours, theirs, x):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    expected = torch.autograd.grad(theirs, x, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(ours, x)[0], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_all_triplets_averaged_over_the_active_are_its_default(engine, monkeypatch):
    brute.use(engine, monkeypatch)
    x, y = batch()
    close(Triplet(margin=0.3, average="active")(x, y), losses.TripletMarginLoss(margin=0.3, distance=PLAIN)(x, y), x)
    close(Triplet(margin=0.05, average="active", unit=True)(x, y), losses.TripletMarginLoss()(x, y), x)


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_all_semi_hard_is_its_miner_semihard(engine, monkeypatch):
    brute.use(engine, monkeypatch)
    x, y = batch()
    mined = miners.TripletMarginMiner(margin=0.3, type_of_triplets="semihard", distance=PLAIN)(x, y)
    theirs = losses.TripletMarginLoss(margin=0.3, distance=PLAIN)(x, y, mined)
    close(Triplet(margin=0.3, mining="all_semi_hard")(x, y), theirs, x)
    close(Triplet(margin=0.3, mining="all_semi_hard", average="active")(x, y), theirs, x)


def test_batch_hard_is_its_miner():
    x, y = batch()
    mined = miners.BatchHardMiner(distance=PLAIN)(x, y)
    close(
        Triplet(margin=5.0, mining="batch_hard")(x, y), losses.TripletMarginLoss(margin=5.0, distance=PLAIN)(x, y, mined), x
    )  # a margin so large that each is active


def test_a_memory_is_its_reference_embeddings():
    x, y = batch()
    g = torch.Generator().manual_seed(1)
    z, c = torch.randn(15, 6, generator=g, dtype=D), torch.randint(0, 5, (15,), generator=g)
    loss = losses.TripletMarginLoss(margin=0.3, distance=PLAIN)
    ours = Triplet(margin=0.3, average="active", reduction="none")
    whole = ours(torch.cat([x, z]), torch.cat([y, c])).sum() - ours(z, c, reference=(x, y)).sum()
    torch.testing.assert_close(ours(x, y, reference=(z, c)).sum(), whole)
    total, count = ours.sum_and_count(torch.cat([x, z]), torch.cat([y, c]))
    close(total / count, loss(torch.cat([x, z]), torch.cat([y, c])), x)


def test_contrastive_differs_by_the_square_and_the_empty_rule():
    x, y = batch()
    d = brute.distances(x, x, "euclidean")
    same = (y[:, None] == y) & ~torch.eye(40, dtype=torch.bool)
    other = y[:, None] != y
    expected = ((d.square() * same).sum() + ((0.9 - d).relu().square() * other).sum()) / 2 / (same.sum() + other.sum())
    close(Contrastive(margin=0.9)(x, y), expected, x)
    two = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.0]], dtype=D)
    labels = torch.tensor([0, 0, 1])
    picks = (torch.tensor([0]), torch.tensor([1]), torch.tensor([0]), torch.tensor([2]))  # one pair alike, one not
    assert losses.ContrastiveLoss(distance=PLAIN)(two, labels, picks) == 0
    assert Contrastive()(two[[0, 0]], two[[1, 2]], torch.tensor([0, 1])) > 0
