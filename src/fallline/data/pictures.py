"""From pictures to the numbers of a model: each channel scaled by what the training pictures hold."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fallline._core.errors import FalllineError

_BLOCK = 2**18
"""Numbers that are looked at together, so that they stay in the cache."""


@dataclass(frozen=True)
class Pictures:
    """x' = (x − center) / spread, channel by channel."""

    size: tuple[int, int, int]
    """Channels, height, width."""
    center: list[float]
    spread: list[float]

    @classmethod
    def fit(cls, pictures: np.ndarray, *, scale: str) -> Self:
        """Mean and deviation of each channel (zscore), or its extremes (minmax), over the training pictures (N, C, H, W)."""
        channels = pictures.shape[1]
        center, spread = np.zeros(channels), np.ones(channels)
        if scale == "zscore":
            center, spread = _moments(pictures)
        elif scale == "minmax":
            center = pictures.min((0, 2, 3)).astype(np.float64)
            spread = pictures.max((0, 2, 3)).astype(np.float64) - center
        spread = np.where(np.isfinite(spread) & (spread > 0), spread, 1.0)
        size = (int(pictures.shape[1]), int(pictures.shape[2]), int(pictures.shape[3]))
        return cls(size, [float(v) for v in center], [float(v) for v in spread])

    @property
    def features(self) -> list[str]:
        """Pictures have no named columns."""
        return []

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one picture: channels, height, width."""
        return self.size

    def transform(self, pictures: np.ndarray) -> Tensor:
        """float32 of shape (N, C, H, W)."""
        if tuple(pictures.shape[1:]) != self.size:
            wanted, got = _say(self.size), _say(tuple(pictures.shape[1:]))
            raise FalllineError(f"the model was trained on pictures of {wanted} (channels x height x width), but these are of {got}.")
        center = torch.tensor(self.center, dtype=torch.float32)[:, None, None]
        scale = 1 / torch.tensor(self.spread, dtype=torch.float32)[:, None, None]
        out = torch.empty(pictures.shape, dtype=torch.float32)
        out.numpy()[...] = pictures
        return out.sub_(center).mul_(scale)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for `from_json`."""
        return {"kind": "pictures", "size": list(self.size), "center": self.center, "spread": self.spread}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """What `to_json` wrote."""
        channels, height, width = content["size"]
        return cls((channels, height, width), list(content["center"]), list(content["spread"]))


def _say(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _moments(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel in float64, in one pass; sums are taken about a value from the middle of the data."""
    channels, n = pictures.shape[1], pictures[:, 0].size
    about = pictures[0].reshape(channels, -1).mean(axis=1, dtype=np.float64)
    total, squares = np.zeros(channels), np.zeros(channels)
    rows = max(1, _BLOCK // max(1, pictures[0].size))
    for start in range(0, len(pictures), rows):
        for c in range(channels):
            block = pictures[start : start + rows, c].astype(np.float64).ravel()
            block -= about[c]
            total[c] += block.sum()
            squares[c] += np.square(block, out=block).sum()
    shift = total / n
    return about + shift, np.sqrt(np.maximum(squares / n - shift**2, 0))
