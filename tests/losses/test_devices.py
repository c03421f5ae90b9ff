"""A batch spread over ranks of unequal size gives the value and the gradients of the whole batch on one process."""

import math

import pytest
import torch

from fallline._core.errors import FalllineError
from fallline.losses import LOSSES, CrossEntropy
from fallline.losses.devices import gather, mean_over_ranks, others
from tests.losses import ranks

NAMES = ["toy", *(name for name in ("sup_con", "triplet", "contrastive", "info_nce") if name in LOSSES)]
WAYS = [(2, True), (3, False), pytest.param((3, True), marks=pytest.mark.slow)]
CLOSE = {torch.float64: {"rtol": 1e-10, "atol": 1e-12}, torch.float32: {"rtol": 1e-5, "atol": 5e-6}}


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way[0]} ranks, {'DDP' if way[1] else 'averaged by hand'}")
def told(request, tmp_path_factory):
    """What each rank found, from one spawn for all tests of that many ranks."""
    world, parallel = request.param
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(ranks.work, (world, parallel, NAMES, str(folder)), nprocs=world)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("how", ["all", "masked"])
@pytest.mark.parametrize("name", NAMES)
def test_losses_between_examples_see_the_whole_batch(told, name, how, dtype):
    expected = ranks.whole(name, len(told), dtype, masked=how == "masked")
    assert expected[0] > 0
    for out in told:
        torch.testing.assert_close(out[name, dtype, how], expected, **CLOSE[dtype])


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("how", ["all", "summed by hand"])
def test_the_mean_over_ranks_is_the_mean_of_the_batch(told, how, dtype):
    expected = ranks.whole("cross_entropy", len(told), dtype)
    for out in told:
        torch.testing.assert_close(out["cross_entropy", dtype, how], expected, **CLOSE[dtype])


def test_a_rank_without_examples_and_a_batch_without_any(told):
    x, labels, mask = ranks.batch(len(told))
    mask[: ranks.SIZES[len(told)][0]] = False
    model = ranks.network(torch.float64)
    expected = ranks.found(model, CrossEntropy()(model(x), labels, mask=mask))
    for out in told:
        torch.testing.assert_close(out["cross_entropy", torch.float64, "first rank masked"], expected, **CLOSE[torch.float64])
        value, grads = out["cross_entropy", torch.float64, "nothing left"]
        assert value == 0
        assert all(torch.equal(g, torch.zeros_like(g)) for g in grads)


def test_rows_come_in_the_order_of_ranks_with_gradients_of_two_orders(told):
    x = ranks.batch(len(told))[0]
    copies = sum(rank + 1 for rank in range(len(told)))  # each rank uses every row, `rank + 1` times
    start = 0
    for out, size in zip(told, ranks.SIZES[len(told)], strict=True):
        mine = x[start : start + size]
        start += size
        assert torch.equal(out["rows"], x)
        torch.testing.assert_close(out["slope"], 3 * copies * mine**2)
        torch.testing.assert_close(out["bend"], 6 * copies * mine)
        assert out["half"].dtype == torch.bfloat16
        assert out["nothing"] == (0, ranks.IN)
        assert torch.equal(out["flags"], ranks.batch(len(told))[1] > 0)


def test_what_would_hang_is_refused_on_every_rank(told):
    for out in told:
        assert "one shape on all ranks" in out["width"]
        assert "(N, 3) on rank 0, (N, 4) on rank 1" in out["width"]
        assert "(N, 6) on rank 0, (N, 2, 3) on rank 1" in out["shape"]
        assert "torch.float32 on rank 0, torch.float64 on rank 1" in out["type"]
        assert "yes on rank 0, no on rank 1" in out["gradients"]


def test_a_refusal_on_one_rank_leaves_none_waiting(told):
    for rank, out in enumerate(told):
        for what, own in (
            ("number", "rows is a tensor"),
            ("kind", "real numbers"),
            ("lengths", "one number of rows"),
            ("mask", "the mask is"),
        ):
            assert (own if rank == 1 else "an error on rank 1") in out[what], what
        assert "as many tensors" in out["more"]
        assert ("total is one number" in out["total"]) if rank == 1 else math.isnan(out["total"])


def test_one_process_needs_no_group():
    x = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 0, 1])
    assert gather(x) is x
    assert others(x, labels) is None
    loss = ranks.Toy()
    value = mean_over_ranks(*loss.sum_and_count(x, labels, reference=others(x, labels)))
    torch.testing.assert_close(value, loss(x, labels))
    torch.testing.assert_close(torch.autograd.grad(value, x), torch.autograd.grad(loss(x, labels), x))
    assert mean_over_ranks(torch.tensor(0.0), torch.tensor(0.0)) == 0


def test_refusals_say_what_is_wanted():
    with pytest.raises(FalllineError, match="one number of rows"):
        others(torch.zeros(3, 2), torch.zeros(4))
    with pytest.raises(FalllineError, match="every argument is a tensor"):
        others(torch.zeros(3, 2), [1, 2, 3])
    with pytest.raises(FalllineError, match="what sum_and_count returned"):
        mean_over_ranks(torch.zeros(3), torch.tensor(1.0))
    with pytest.raises(FalllineError, match="rows is a tensor"):
        gather(torch.tensor(1.0))
