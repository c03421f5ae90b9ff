"""Mirror the recorded numbers to a tracker; the local record stays the truth."""

import importlib
from pathlib import Path
from typing import Any

from fallline._core.errors import FalllineError


class Tensorboard:
    """Writes each scalar as "key/split" into event files under `folder`/tensorboard.

    Raises:
        FalllineError: tensorboard is not installed; the sentence names the extra.
    """

    def __init__(self, folder: Path | str | None) -> None:
        require("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        if folder is None:
            raise FalllineError("track 'tensorboard' needs a run folder; pass out (--out FOLDER).")
        self._writer: Any = SummaryWriter(str(Path(folder) / "tensorboard"))

    def scalar(self, key: str, value: float, *, step: int, split: str) -> None:
        """Mirror one number."""
        self._writer.add_scalar(f"{key}/{split}", value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def require(name: str | None) -> None:
    """Refuse a tracker whose package is missing, naming the extra that installs it."""
    if name == "tensorboard":
        try:
            importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise FalllineError(
                "track 'tensorboard' needs the package tensorboard; install it with: pip install 'fallline[track]'."
            ) from error


def tracker(name: str | None, folder: Path | str | None) -> Tensorboard | None:
    """The tracker of that name, or None."""
    return Tensorboard(folder) if name == "tensorboard" else None
