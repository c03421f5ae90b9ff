"""Make the pictures of the README: pages are written, then photographed by a headless Chromium.

python scripts/pictures.py RUNS/STUDY        (the folder of a finished comparison, from `make demo`)
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import fallline as fl

IMAGES = Path(__file__).parents[1] / "docs" / "images"
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --hide-scrollbars"""


def photograph(page: Path, picture: Path, width: int, height: int) -> None:
    with tempfile.TemporaryDirectory() as profile:
        command = ["chromium", *FLAGS.split(), f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        subprocess.run(
            [*command, "--virtual-time-budget=4000", "--force-device-scale-factor=1.5", f"--screenshot={picture}", page.resolve().as_uri()],
            check=True,
            capture_output=True,
        )


def textbook_network() -> torch.nn.Sequential:
    """The 2-2-1 sigmoid network whose numbers every text on back-propagation works through."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sigmoid(), torch.nn.Linear(2, 1), torch.nn.Sigmoid())
    values = {"0.weight": [[0.2, 0.4], [0.3, 0.1]], "0.bias": [0.1, 0.2], "2.weight": [[0.7, 0.5]], "2.bias": [0.3]}
    model.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    return model


def main(study: str) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "backprop.html"
        loss = torch.nn.BCELoss()
        fl.trace_backprop(textbook_network(), torch.tensor([1.0, 0.0]), torch.tensor([1.0]), loss).to_html(page)
        photograph(page, IMAGES / "backprop.png", 1100, 900)
    photograph(Path(study) / "report.html", IMAGES / "compare-digits.png", 1200, 1500)


if __name__ == "__main__":
    main(*sys.argv[1:])
