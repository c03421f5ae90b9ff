"""Print the lock: every installed distribution at its exact version, fallline itself left out.

A local version label (torch's `+cpu`) is cut, so that the lock installs the same release from any index.
"""

import re
from importlib.metadata import distributions

# What installs, and peers that only benchmarks import (with what they alone need).
LEFT_OUT = {"fallline", "pip", "pip-tools", "build", "pyproject-hooks", "wheel", "pytorch-metric-learning", "skorch", "tabulate"}


def main() -> None:
    names = {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version.split("+")[0] for d in distributions()}
    print("# Exact versions for development and CI; `make lock` writes this file.")
    for name, version in sorted(names.items()):
        if name not in LEFT_OUT:
            print(f"{name}=={version}")


if __name__ == "__main__":
    main()
