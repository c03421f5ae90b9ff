"""Each miner against the definition, one anchor at a time."""

import math

import pytest
import torch

from fallline import mining
from fallline._core.errors import FalllineError
from fallline.mining.distance_weighted import likelihood
from fallline.mining.semi_hard import next_farther

D = torch.float64


def batch(n=30, classes=4, dim=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=g, dtype=D), torch.randint(0, classes, (n,), generator=g)


def columns(x, y, reference):
    return (x, y) if reference is None else (torch.cat([x, reference[0]]), torch.cat([y, reference[1]]))


@pytest.mark.parametrize("reference", [None, batch(9, seed=1)])
@pytest.mark.parametrize("distance", ["euclidean", "squared", "cosine"])
def test_batch_hard(reference, distance):
    x, y = batch()
    y[3] = 99  # alone of its class
    z, c = columns(x, y, reference)
    d = (1 - torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(z).T) if distance == "cosine" else torch.cdist(x, z)
    found = mining.batch_hard(x, y, reference=reference, distance=distance)
    for a in range(30):
        near = [j for j in range(len(z)) if c[j] == y[a] and j != a]
        far = [j for j in range(len(z)) if c[j] != y[a]]
        assert found.valid[a] == bool(near and far)
        if near and far:
            assert found.positive[a] == max(near, key=lambda j: d[a, j])
            assert found.negative[a] == min(far, key=lambda j: d[a, j])
    assert not found.valid[3]


@pytest.mark.parametrize("reference", [None, batch(9, seed=1)])
def test_semi_hard(reference):
    x, y = batch()
    z, c = columns(x, y, reference)
    d = torch.cdist(x, z)
    found = mining.semi_hard(x, y, reference=reference)
    kinds = set()
    for a in range(30):
        far = [j for j in range(len(z)) if c[j] != y[a]]
        for p in range(len(z)):
            assert found.valid[a, p] == (c[p] == y[a] and p != a)
            assert (found.anchor[a, p], found.positive[a, p]) == (a, p)
            if found.valid[a, p]:
                beyond = [j for j in far if d[a, j] > d[a, p]]
                kinds.add(bool(beyond))
                assert found.negative[a, p] == (min(beyond, key=lambda j: d[a, j]) if beyond else max(far, key=lambda j: d[a, j]))
    assert kinds == {True, False}


def test_likelihood_is_one_over_the_density():
    d = torch.tensor([[0.3, 0.7, 1.0, 1.3, 1.39]], dtype=D)
    found = likelihood(d, torch.ones_like(d, dtype=torch.bool), 16)
    near = d.clamp(min=0.5)
    density = near ** (16 - 2) * (1 - near**2 / 4) ** ((16 - 3) / 2)
    torch.testing.assert_close(found / found.sum(), (1 / density) / (1 / density).sum())


def test_likelihood_of_none_in_reach_is_even_and_high_dimensions_do_not_overflow():
    d = torch.tensor([[1.5, 1.9, 2.0], [0.4, 1.1, 1.39]])
    other = torch.tensor([[True, True, False], [True, True, True]])
    found = likelihood(d, other, 2048)
    assert torch.equal(found[0], torch.tensor([1.0, 1.0, 0.0], dtype=D))
    assert torch.isfinite(found).all()
    assert found[1, 0] == 1
    assert (likelihood(d, torch.zeros_like(other), 8) == 0).all()


def test_distance_weighted_draws_as_often_as_the_likelihood_says():
    n, dim = 400, 8
    g = torch.Generator().manual_seed(0)
    x = mining.unit(torch.randn(12, dim, generator=g, dtype=D))[torch.cat([torch.zeros(n, dtype=torch.long), torch.arange(1, 12)])]
    y = torch.cat([torch.zeros(n, dtype=torch.long), torch.arange(1, 12)])
    found = mining.distance_weighted(x, y, generator=g)
    draws = torch.bincount(found.negative[:n][found.valid[:n]], minlength=len(x)).double()
    d = (x[0] - x).norm(dim=1).clamp(min=0.5)
    weight = torch.where((y != 0) & (d < 1.4), d ** (2 - dim) * (1 - d**2 / 4) ** (-(dim - 3) / 2), 0)
    expected = weight / weight.sum() * draws.sum()
    assert torch.equal(draws == 0, expected == 0)
    spread = (expected * (1 - expected / draws.sum())).sqrt()
    assert ((draws - expected).abs() <= 5 * spread).all()


def test_distance_weighted_repeats_with_its_generator_and_leaves_lengths_aside():
    x, y = batch()
    draw = lambda x, seed: mining.distance_weighted(x, y, generator=torch.Generator().manual_seed(seed)).negative  # noqa: E731
    assert torch.equal(draw(x, 0), draw(x, 0))
    assert torch.equal(draw(x, 0), draw(3 * x, 0))
    assert not torch.equal(draw(x, 0), draw(x, 1))
    found = mining.distance_weighted(x, y)
    assert (y[found.negative] != y[:, None])[found.valid].all()


@pytest.mark.parametrize("reference", [None, torch.tensor([1, 2, 2, 7])])
def test_count(reference):
    y = torch.tensor([0, 0, 1, 1, 1, 5])
    everything = y if reference is None else torch.cat([y, reference])
    expected = [
        sum(1 for p in range(len(everything)) for n in everything if p != a and everything[p] == y[a] and n != y[a]) for a in range(6)
    ]
    assert mining.count_triplets(y, reference).tolist() == expected


@pytest.mark.parametrize("miner", [mining.batch_hard, mining.semi_hard, mining.distance_weighted])
def test_one_empty_and_single_class_batches(miner):
    for n in (0, 1, 3):
        assert not miner(torch.randn(n, 2), torch.zeros(n, dtype=torch.long)).valid.any()


@pytest.mark.parametrize("miner", [mining.batch_hard, mining.semi_hard])
def test_miners_run_under_vmap_and_compile(miner):
    parts = [batch(seed=s) for s in range(3)]
    x, y = (torch.stack(p) for p in zip(*parts, strict=True))
    found = torch.func.vmap(lambda x, y: tuple(miner(x, y)))(x, y)
    for i, (a, b) in enumerate(parts):
        assert all(torch.equal(f[i], s) for f, s in zip(found, miner(a, b), strict=True))
    torch._dynamo.reset()
    compiled = torch.compile(miner, fullgraph=True, backend="eager")
    assert all(torch.equal(a, b) for a, b in zip(compiled(*parts[0]), miner(*parts[0]), strict=True))


def test_wrong_use_is_refused():
    x, y = batch()
    with pytest.raises(FalllineError, match="euclidean, squared, cosine"):
        mining.batch_hard(x, y, distance="manhattan")
    with pytest.raises(FalllineError, match=r"the labels have the shape \(30,\)"):
        mining.semi_hard(x, y[:-1])


def test_the_density_holds_on_the_sphere():
    """The distances of even points on the sphere, weighted so, are flat between the cutoffs."""
    g = torch.Generator().manual_seed(0)
    x = mining.unit(torch.randn(3000, 6, generator=g, dtype=D))
    d = mining.euclidean(x[:1], x[1:])
    weight = likelihood(d, torch.ones_like(d, dtype=torch.bool), 6)[0]
    inside = d[0] > 0.6
    heights = torch.histogram(d[0][inside], bins=4, range=(0.6, 1.4), weight=weight[inside]).hist
    assert heights.max() / heights.min() < 1.5
    assert math.isclose(float(weight.max()), 1.0)


def test_labels_of_two_types_are_compared_as_numbers():
    x, z = torch.arange(4.0)[:, None], torch.tensor([[0.5], [2.5]])
    y, theirs = torch.tensor([0, 0, 1, 1]), torch.tensor([256, 1])
    for narrow in (y > 0, y.to(torch.uint8)):
        for mine in (mining.batch_hard, mining.semi_hard):
            for a, b in zip(mine(x, narrow, reference=(z, theirs)), mine(x, y, reference=(z, theirs)), strict=True):
                assert torch.equal(a, b)
        assert torch.equal(mining.count_triplets(narrow, theirs), mining.count_triplets(y, theirs))
    with pytest.raises(FalllineError, match="whole numbers"):
        mining.count_triplets(y, torch.tensor([0.5]))
    with pytest.raises(FalllineError, match="whole numbers"):
        mining.semi_hard(x, y.float())


def test_ties_go_to_the_first():
    other = torch.arange(200)[None] > 0
    negative, _ = next_farther(other.float(), ~other, other)
    assert negative[0, 0] == 1
