"""GradNorm on two ranks, each with half of the rows, is GradNorm on the whole batch; the weights are equal on both."""

import os
import socket
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.losses.combined.toys import batch, loss_of, network

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_available() or sys.platform == "win32", reason="torch.distributed is not in this build"),
]
RANKS, STEPS = 2, 6


def train(model, plain, part=slice(None), steps=STEPS, rank=0):
    """Weights after each step; from step 3 on the brightness is there on rank 0 alone."""
    loss, seen = loss_of("gradnorm"), []
    for step in range(steps):
        x, y = batch(seed=step)
        targets = {task: 4 * t[part] if t.is_floating_point() else t[part] for task, t in y.items()}
        if step >= 3 and rank:
            targets["brightness"] = None
        model.zero_grad()
        loss.backward(loss.parts(model(x[part]), targets), shared=plain.shared)
        with torch.no_grad():
            for p in plain.parameters():
                if p.grad is not None:
                    p -= 0.01 * p.grad
        seen.append(torch.tensor(list(loss.weights.values()), dtype=torch.float64))
    return torch.stack(seen)


def worker(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(RANKS))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    try:
        model = network()
        ranked = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        seen = train(ranked, model, slice(rank, None, RANKS), rank=rank)
        torch.save(seen, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_ranks_are_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(worker, args=(port, str(tmp_path)), nprocs=RANKS)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS))
    model = network()
    alone = train(model, model, steps=3)
    assert first.equal(second)
    assert torch.allclose(first[:3], alone, rtol=0, atol=1e-12)
    assert (first[-1] - first[0]).abs().max() > 0.05
