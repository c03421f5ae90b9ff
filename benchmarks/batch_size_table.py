"""Batch size against epochs on Fashion-MNIST as `fallline table` makes it: 784-256-10, RMSprop in Keras' form, 5 seeds, 12 cells.

    python benchmarks/batch_size_table.py [--seeds 5]

What is asked of it: every published cell of batch size 32, 64 and 128 within the interval over seeds widened by one point; the full batch
more than 15 points below at 5 epochs; at most 6 minutes on 2 cores, the loading of the data included. The time is that of one run,
on a machine that does nothing else.
"""

import argparse
import time
from typing import Any

from common import save

import fallline as fl


def main() -> None:
    """Make the table, hold it against what is asked, write both."""
    options = argparse.ArgumentParser()
    options.add_argument("--seeds", type=int, default=5)
    seeds = options.parse_args().seeds
    start = time.perf_counter()
    table = fl.table("fashion_mnist", batch_sizes=(32, 64, 128, "full"), epochs=(5, 10, 15), seeds=seeds)
    seconds = time.perf_counter() - start
    print(table.text())
    small = [cell for cell in table.cells if cell["batch_size"] != "full"]
    full = table.cell("full", 5)["mean"]
    gaps = {str(batch): table.cell(batch, 5)["mean"] - full for batch in (32, 64, 128)}
    kept = ("batch_size", "epochs", "mean", "low", "high", "n", "diverged", "values", "seconds", "published", "published_within")
    content: dict[str, Any] = {
        "cells": [{key: cell[key] for key in kept} for cell in table.cells],
        "differences": table.differences,
        "headline": table.headline,
        "seconds": seconds,
        "seconds_of_training": table.seconds,
        "blocks": sorted({(str(m.batch_size), m.block) for m in table.members}),
        "published_within": f"{sum(bool(cell['published_within']) for cell in small)} of {len(small)} cells of batch size 32, 64, 128",
        "full_batch_below_at_5_epochs": gaps,
    }
    print(f"{seconds:.0f} s; {content['published_within']}; full batch below at 5 epochs: {gaps}")
    print(save("batch_size_table", content))


if __name__ == "__main__":
    main()
