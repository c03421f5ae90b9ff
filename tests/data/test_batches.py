"""Batches are a pure function of (seed, epoch), and every row is in exactly one."""

import pytest
import torch

from fallline import data
from fallline._core.errors import FalllineError


@pytest.mark.parametrize(("n", "size"), [(10, 1), (10, 3), (10, 10), (1, 1), (1000, 32)])
def test_every_row_once(n, size):
    pieces = list(data.batches(n, size, seed=0, epoch=1))
    assert sorted(torch.cat(pieces).tolist()) == list(range(n))
    assert [len(p) for p in pieces[:-1]] == [size] * (len(pieces) - 1)


def test_a_pure_function_of_seed_and_epoch_whatever_was_drawn_before():
    def draw(seed, epoch):
        return torch.cat(list(data.batches(100, 7, seed=seed, epoch=epoch)))

    first = draw(0, 3)
    state = torch.get_rng_state()
    torch.rand(5)
    assert draw(0, 3).equal(first)
    torch.set_rng_state(state)
    draw(0, 3)
    assert torch.get_rng_state().equal(state)
    assert not draw(0, 4).equal(first)
    assert not draw(1, 3).equal(first)


@pytest.mark.parametrize("block", [1, 64, 4096])
def test_minibatches_are_the_rows_of_batches(block):
    split = data.load("digits").train
    got = list(data.minibatches(split, 32, seed=5, epoch=2, block=block))
    for rows, (x, y) in zip(data.batches(len(split), 32, seed=5, epoch=2), got, strict=True):
        assert x.equal(split.x[rows])
        assert y.equal(split.y[rows])


@pytest.mark.parametrize("size", [0, -1, 11])
def test_a_batch_size_outside_the_rows_is_refused(size):
    with pytest.raises(FalllineError, match="1 <= batch_size <= 10"):
        data.batches(10, size, seed=0, epoch=0)
