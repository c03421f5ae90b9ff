"""Whole-process seconds of `fallline --help`, and what `import fallline` with its packages adds to `import torch`.

python benchmarks/startup.py [rounds]
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import save

COMMANDS = {
    "python alone": [sys.executable, "-c", "pass"],
    "fallline --help": [str(Path(sys.executable).parent / "fallline"), "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import torch, fallline": [sys.executable, "-c", "import torch, fallline"],
    "import torch, then fallline's packages": [
        sys.executable,
        "-c",
        "import torch, fallline as fl; fl.optim.Adam, fl.losses.Huber, fl.data.load, fl.fit, fl.compare",
    ],
}


def main(rounds: int = 9) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if turn:
                times[name].append(time.perf_counter() - start)
    seconds = {name: round(statistics.median(values), 3) for name, values in times.items()}
    added = {
        "import fallline adds to torch's": round(seconds["import torch, fallline"] - seconds["import torch"], 3),
        "its packages add to torch's": round(seconds["import torch, then fallline's packages"] - seconds["import torch"], 3),
    }
    print(seconds, added)
    print(save("startup", {"seconds": seconds, "added": added}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
