"""Seconds of forward and backward of every loss that torch has too, ours over torch's: 1.0 means as fast, 0.5 twice as fast.

    python benchmarks/losses.py [--rounds 15] [--losses mse,cross_entropy] [--threads 2]

Both take turns in one process, each as its users have it: our losses with every check on. "small" is 128 numbers, or 128 rows of 10
scores, where Python's overhead is all; "large" is a million numbers, or 4096 rows of 1000 scores. The losses that torch lacks stand against
the formula as one would write it with torch's functions. Losses between the examples of a batch are timed by metric_losses.py.
"""

import argparse
import ctypes
import warnings

import torch
from common import interleaved, medians, save
from torch import nn
from torch.nn import functional as F

from fallline import losses

SMALL, LARGE = (128, 10), (4096, 1000)


def numbers(size, g):
    n = 128 if size == SMALL else 1_000_000
    return torch.randn(n, generator=g), torch.randn(n, generator=g)


def scores(size, g):
    return torch.randn(size, generator=g), torch.randint(0, size[1], size[:1], generator=g)


def bits(size, g):
    x, y = numbers(size, g)
    return x, (y > 0).float()


def signs(size, g):
    x, y = numbers(size, g)
    return x, y.sign()


def shares(size, g):
    return torch.randn(size, generator=g), torch.randn(size, generator=g).softmax(-1)


def counts(size, g):
    x, y = numbers(size, g)
    return x, y.abs().round()


def spread(size, g):
    x, y = numbers(size, g)
    return torch.stack([x, torch.rand(x.shape, generator=g) + 0.5], -1), y


def probable(size, g):
    x, y = bits(size, g)
    return x.sigmoid(), y


def positive(size, g):
    x, y = numbers(size, g)
    return x.abs(), y.abs()


def focal(x, y):
    log_p = F.log_softmax(x, 1).gather(1, y[:, None]).squeeze(1)
    return (-((1 - log_p.exp()) ** 2) * log_p).mean()


def poly1(x, y):
    log_p = F.log_softmax(x, 1).gather(1, y[:, None]).squeeze(1)
    return (1 - log_p.exp() - log_p).mean()


def generalised(x, y):
    return ((1 - x.softmax(1).gather(1, y[:, None]).squeeze(1) ** 0.7) / 0.7).mean()


def pinball(x, y):
    e = y - x
    return torch.maximum(0.5 * e, -0.5 * e).mean()


def keras_log_cosh(x, y):
    e = y - x
    return (e + F.softplus(-2 * e) - 0.6931471805599453).mean()


def batch_mean_kl(x, y):
    return F.kl_div(F.log_softmax(x, -1), y, reduction="batchmean")


def gaussian(x, y):
    return F.gaussian_nll_loss(x[:, 0], y, x[:, 1])


# name: spec, inputs, torch's own (or None: the formula by hand), the formula by hand
TORCH = {
    "mse": ("mse", numbers, nn.MSELoss()),
    "mae": ("mae", numbers, nn.L1Loss()),
    "huber": ("huber", numbers, nn.HuberLoss()),
    "smooth_l1": ("smooth_l1", numbers, nn.SmoothL1Loss()),
    "poisson_nll": ("poisson_nll", counts, nn.PoissonNLLLoss()),
    "gaussian_nll": ("gaussian_nll:variance_from=variance", spread, gaussian),
    "binary_cross_entropy": ("binary_cross_entropy", bits, nn.BCEWithLogitsLoss()),
    "binary_cross_entropy of probabilities": ("binary_cross_entropy:input_from=probabilities", probable, nn.BCELoss()),
    "cross_entropy": ("cross_entropy", scores, nn.CrossEntropyLoss()),
    "cross_entropy, smoothing": ("cross_entropy:label_smoothing=0.1", scores, nn.CrossEntropyLoss(label_smoothing=0.1)),
    "cross_entropy, soft targets": ("cross_entropy", shares, nn.CrossEntropyLoss()),
    "kl_divergence": ("kl_divergence", shares, batch_mean_kl),
    "multiclass_hinge": ("multiclass_hinge", scores, nn.MultiMarginLoss()),
}
BY_HAND = {
    "msle": ("msle", positive, lambda x, y: F.mse_loss(torch.log1p(x), torch.log1p(y))),
    "log_cosh": ("log_cosh", numbers, keras_log_cosh),
    "quantile": ("quantile", numbers, pinball),
    "hinge": ("hinge", signs, lambda x, y: (1 - x * y).relu().mean()),
    "squared_hinge": ("squared_hinge", signs, lambda x, y: (1 - x * y).relu().square().mean()),
    "focal": ("focal", scores, focal),
    "poly1": ("poly1", scores, poly1),
    "generalized_cross_entropy": ("generalized_cross_entropy", scores, generalised),
}


def step(loss, x, y):
    x = x.clone().requires_grad_()

    def run():
        x.grad = None
        loss(x, y).backward()

    return run


def keep_memory():
    """Let the allocator keep large blocks: else whose pages are mapped anew is decided by whose turn it is, not by the loss."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        return


def main():
    keep_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--losses", default="")
    parser.add_argument("--threads", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")
    found = {}
    for kind, table in (("torch", TORCH), ("formula", BY_HAND)):
        for name, (spec, make, peer) in table.items():
            if chosen.losses and name not in chosen.losses.split(","):
                continue
            found[name] = {"against": kind}
            for label, size, inner in (("small", SMALL, 200), ("large", LARGE, 1)):
                x, y = make(size, torch.Generator().manual_seed(0))
                ours = step(losses.build(spec), x, y)
                theirs = step(peer, x, y)
                for _ in range(10 if label == "small" else 0):
                    ours(), theirs()
                seconds = medians(interleaved({"fallline": ours, kind: theirs}, chosen.rounds, inner))
                ratio = seconds["fallline"] / seconds[kind]
                found[name][label] = {**seconds, "ratio": ratio}
                mine, other = seconds["fallline"] * 1e6, seconds[kind] * 1e6
                print(f"{name:40} {label:6} fallline {mine:10.1f} us  {kind:8} {other:10.1f} us  {ratio:.2f}")
    print("wrote", save("losses", {"forward and backward": found}))


if __name__ == "__main__":
    main()
