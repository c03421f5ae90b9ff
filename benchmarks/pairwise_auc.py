"""The pairwise AUC hinge, forward and backward: one sort against all pairs written out, and the compiled sweep against the sort in torch.

    python benchmarks/pairwise_auc.py [--rounds 7] [--save]

All pairs are an (N+, N-) matrix, so they take part up to 20,000 scores; no other library has more (LibAUC writes the same matrix).
"""

import argparse

import torch
from common import interleaved, medians, save

from fallline.losses import PairwiseAUC
from fallline.losses.ranking import _sums

SIZES = (1_000, 10_000, 20_000, 100_000, 1_000_000)
PAIRS_UP_TO = 20_000
POSITIVE = 0.1


def all_pairs(s: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The squared hinge as the formula reads."""
    return (1 - (s[y == 1][:, None] - s[y == 0][None, :])).relu().square().mean()


def contenders(n: int):
    g = torch.Generator().manual_seed(0)
    s = torch.randn(n, generator=g).requires_grad_()
    y = (torch.rand(n, generator=g) < POSITIVE).long()
    loss = PairwiseAUC()

    def run(value):
        s.grad = None
        value.backward()

    def by(worth):
        def call():
            _sums._WORTH = worth
            run(loss(s, y))

        return call

    found = {"sweep": by(0), "sort": by(1 << 40)}
    if n <= PAIRS_UP_TO:
        found["pairs"] = lambda: run(all_pairs(s, y))
    return found, abs(loss(s, y).item() / all_pairs(s, y).item() - 1) if n <= PAIRS_UP_TO else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    rows = []
    for n in SIZES:
        calls, miss = contenders(n)
        row = {"n": n, **{name: seconds * 1e3 for name, seconds in medians(interleaved(calls, args.rounds)).items()}}
        rows.append({**row, "relative_difference": miss})
        shown = ", ".join(f"{name} {ms:9.3f} ms" for name, ms in row.items() if name != "n")
        ratio = f", pairs / sweep {row['pairs'] / row['sweep']:.1f}" if "pairs" in row else ""
        print(f"n = {n:>9,}: {shown}, sort / sweep {row['sort'] / row['sweep']:.1f}{ratio}")
    if args.save:
        print(save("pairwise_auc", {"rows": rows, "positive": POSITIVE}))


if __name__ == "__main__":
    main()
