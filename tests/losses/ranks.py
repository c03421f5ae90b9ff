"""What each rank of the tests in test_devices.py does; a module of its own, as spawned processes import it."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fallline._core.errors import FalllineError
from fallline.losses import CrossEntropy, build
from fallline.losses._among import Among
from fallline.losses.devices import gather, mean_over_ranks, others

SIZES = {2: (5, 2), 3: (4, 0, 3)}
IN, OUT = 6, 4


class Toy(Among):
    """SupCon in its plainest form, over all pairs of a class."""

    name = "toy"

    def among(self, x, others, pairs):
        scores = x @ others.t() / 2
        same = pairs.same()
        there = same | pairs.other()
        bottom = torch.where(there, scores, -1e9).logsumexp(-1)
        return torch.where(same, bottom[:, None] - scores, 0).sum(-1), same.sum(-1)


def batch(world, dtype=torch.float64):
    g = torch.Generator().manual_seed(world)
    n = sum(SIZES[world])
    x = torch.randn(n, IN, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 3, (n,), generator=g)
    mask = torch.rand(n, generator=g) > 0.3
    mask[0] = True
    return x.to(dtype), labels, mask


def network(dtype):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(IN, 5), nn.Tanh(), nn.Linear(5, OUT)).to(dtype)


def partner(name, z, labels):
    """What stands against the embeddings: labels, or the other side of a pair."""
    return z.tanh().flip(1) if name == "info_nce" else labels


def criterion(name):
    return Toy() if name == "toy" else build(name)


def found(model, value, divide_by=None):
    """Value and gradients; `divide_by`: sum them over ranks here, as nobody else does, and divide."""
    model.zero_grad()
    value.backward()
    grads = [p.grad.clone() for p in model.parameters()]
    for grad in grads if divide_by else ():
        dist.all_reduce(grad)
    return value.detach(), [grad / (divide_by or 1) for grad in grads]


def whole(name, world, dtype, masked=False):
    """The same on one process."""
    x, labels, mask = batch(world, dtype)
    model = network(dtype)
    z = model(x)
    target = labels if name == "cross_entropy" else partner(name, z, labels)
    return found(model, criterion(name)(z, target, **({"mask": mask} if masked else {})))


def work(rank, world, parallel, names, folder):
    """Run every scenario as one rank of `world`; save what came out. `parallel`: under DistributedDataParallel, or averaged by hand."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    start = sum(SIZES[world][:rank])
    mine = slice(start, start + SIZES[world][rank])
    out = {}
    for dtype in (torch.float64, torch.float32):
        x, labels, mask = (t[mine] for t in batch(world, dtype))
        bare = network(dtype)
        model = DistributedDataParallel(bare) if parallel else bare
        divide = None if parallel else world
        for name in names:
            z = model(x)
            y = partner(name, z, labels)
            total, count = criterion(name).sum_and_count(z, y, reference=others(z, y))
            out[name, dtype, "all"] = found(bare, mean_over_ranks(total, count), divide)
            z = model(x)
            y = partner(name, z, labels)
            total, count = criterion(name).sum_and_count(z, y, mask=mask, reference=others(z, y, mask=mask))
            out[name, dtype, "masked"] = found(bare, mean_over_ranks(total, count), divide)
        for how, kw in (("all", {}), ("first rank masked", {"mask": mask & (rank > 0)}), ("nothing left", {"mask": mask & False})):
            total, count = CrossEntropy().sum_and_count(model(x), labels, **kw)
            out["cross_entropy", dtype, how] = found(bare, mean_over_ranks(total, count), divide)
        total, count = CrossEntropy().sum_and_count(bare(x), labels)
        out["cross_entropy", dtype, "summed by hand"] = found(bare, mean_over_ranks(total, count, averaged=False), 1)
    leaf = batch(world)[0][mine].clone().requires_grad_()
    rows = gather(leaf)
    out["rows"] = rows.detach()
    (slope,) = torch.autograd.grad((rows**3).sum() * (rank + 1), leaf, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), leaf)
    out["slope"], out["bend"] = slope.detach(), bend
    half = leaf.detach().bfloat16().requires_grad_()
    (out["half"],) = torch.autograd.grad(gather(half).float().sum() * 1.00390625, half)
    out["nothing"] = gather(leaf[:0]).shape
    out["flags"] = gather(labels > 0)
    second, z = rank == 1, torch.zeros(2, 6)
    for what, call in {
        "width": lambda: gather(torch.zeros(2, 3 + rank)),
        "type": lambda: gather(torch.zeros(2, 3).to(torch.float64 if rank else torch.float32)),
        "gradients": lambda: gather(torch.zeros(2, 3, requires_grad=rank == 0)),
        "shape": lambda: gather(z.reshape(2, 2, 3) if second else z),
        "number": lambda: gather(1.0 if second else z),  # pyright: ignore[reportArgumentType]
        "kind": lambda: gather(z.to(torch.complex64) if second else z),
        "lengths": lambda: others(z, z[:1] if second else z),
        "mask": lambda: others(z, z, mask=z[:, 0] if second else z[:, 0] > 0),
        "more": lambda: others(*[z] * (2 + rank)),
        "total": lambda: mean_over_ranks(z if second else z.sum(), torch.tensor(1.0)).item(),
    }.items():
        try:
            out[what] = call()
        except FalllineError as error:
            out[what] = str(error)
    torch.save(out, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
