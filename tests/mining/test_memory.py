"""The cross-batch memory: a ring that keeps the last rows, and all of it in `state_dict`."""

import pytest
import torch

from fallline._core.errors import FalllineError
from fallline.losses import Contrastive, Triplet
from fallline.mining import CrossBatchMemory


def rows(start, stop):
    n = torch.arange(start, stop)
    return torch.stack([n, -n], 1).float(), n


def test_holds_the_last_rows():
    memory = CrossBatchMemory(5, 2)
    sizes = [2, 2, 3, 0, 1, 7, 4]
    start = 0
    for n in sizes:
        memory.add(*rows(start, start + n))
        start += n
        x, y = memory.reference
        held = list(range(max(0, start - 5), start))
        assert sorted(y.tolist()) == held
        assert len(memory) == len(held)
        assert torch.equal(x, rows(0, start)[0][y])


def test_a_stopped_run_goes_on_as_if_it_had_not():
    memory, again = CrossBatchMemory(5, 2), CrossBatchMemory(5, 2)
    memory.add(*rows(0, 3))
    again.load_state_dict(memory.state_dict())
    for m in (memory, again):
        m.add(*rows(3, 7))
    assert set(memory.state_dict()) == {"embeddings", "labels", "place", "filled"}
    assert all(torch.equal(a, b) for a, b in zip(memory.reference, again.reference, strict=True))


def test_forward_gives_what_was_before_and_backward_survives_the_next_batch():
    memory, loss = CrossBatchMemory(4, 2), Triplet()
    assert [len(t) for t in memory(*rows(0, 4))] == [0, 0]
    x = torch.randn(4, 2, requires_grad=True)
    value = loss(x, torch.tensor([0, 0, 1, 1]), reference=memory(x, torch.tensor([0, 0, 1, 1])))
    value.backward()
    assert memory.reference[0].requires_grad is False
    assert torch.equal(memory.reference[0], x.detach())


@pytest.mark.parametrize("loss", [Triplet(), Contrastive()])
def test_the_loss_with_a_memory_is_the_loss_against_both(loss):
    g = torch.Generator().manual_seed(0)
    x, z = torch.randn(6, 2, generator=g), torch.randn(8, 2, generator=g)
    y, c = torch.arange(6) % 3, torch.arange(8) % 3
    memory = CrossBatchMemory(100, 2)
    memory.add(z, c)
    per_anchor = type(loss)(reduction="none")
    whole = per_anchor(torch.cat([x, z]), torch.cat([y, c]))
    torch.testing.assert_close(per_anchor(x, y, reference=memory.reference), whole[:6])


def test_rows_that_are_not_finite_are_not_remembered():
    memory = CrossBatchMemory(5, 2)
    x, y = rows(0, 3)
    x[1, 0] = torch.nan
    x[2, 1] = torch.inf
    memory.add(x, y)
    assert memory.reference[1].tolist() == [0]


def test_moves_and_clears():
    memory = CrossBatchMemory(5, 2).to(torch.float64)
    memory.add(*rows(0, 3))
    assert memory.reference[0].dtype == torch.float64
    memory.clear()
    assert len(memory) == 0
    assert repr(memory) == "CrossBatchMemory(size=5, dim=2)"


def test_wrong_use_is_refused():
    with pytest.raises(FalllineError, match="size and dim >= 1"):
        CrossBatchMemory(0, 2)
    with pytest.raises(FalllineError, match=r"embeddings \(N, 2\) and labels \(N,\)"):
        CrossBatchMemory(3, 2).add(torch.ones(2, 3), torch.zeros(2))


def test_what_a_narrow_memory_cannot_hold_is_not_remembered():
    memory = CrossBatchMemory(5, 2).half()
    memory.add(torch.tensor([[1.0, 2.0], [1e5, 2.0]]), torch.tensor([3, 4]))
    assert memory.reference[1].tolist() == [3]
    assert memory.reference[0].isfinite().all()


def test_labels_of_any_whole_type_and_no_other():
    memory = CrossBatchMemory(5, 2)
    for labels in (torch.tensor([True]), torch.tensor([200], dtype=torch.uint8), torch.tensor([-3], dtype=torch.int8)):
        memory.add(torch.ones(1, 2), labels)
    assert memory.reference[1].tolist() == [1, 200, -3]
    with pytest.raises(FalllineError, match="labels are whole numbers"):
        memory.add(torch.ones(1, 2), torch.tensor([1.7]))


def test_an_empty_memory_is_there():
    assert CrossBatchMemory(5, 2)
