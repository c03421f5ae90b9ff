"""From pictures to the numbers of a model: each channel scaled by what the training pictures hold."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fallline._core.errors import FalllineError

_BLOCK = 4096


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
        if scale == "zscore" and pictures.dtype == np.uint8:
            levels = np.arange(256.0)
            for c in range(channels):
                counts = np.bincount(pictures[:, c].reshape(-1), minlength=256)
                center[c] = (counts * levels).sum() / counts.sum()
                spread[c] = np.sqrt((counts * (levels - center[c]) ** 2).sum() / counts.sum())
        elif scale == "zscore":
            n = pictures[:, 0].size
            blocks = [pictures[i : i + _BLOCK].astype(np.float64) for i in range(0, len(pictures), _BLOCK)]
            center = np.sum([b.sum((0, 2, 3)) for b in blocks], axis=0) / n
            spread = np.sqrt(np.sum([((b - center[:, None, None]) ** 2).sum((0, 2, 3)) for b in blocks], axis=0) / n)
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
