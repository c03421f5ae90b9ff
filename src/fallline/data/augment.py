"""Pictures changed at random while training: shifted, mirrored, cropped, turned. Every picture of a batch in its own way, all at once.

All randomness comes from the generator that is handed in, so the same generator gives the same pictures bit for bit. What moves in from
outside is the picture's own border, repeated.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fallline._core.errors import FalllineError, lookup, must
from fallline._core.number import Number

Change = Callable[[Tensor, float, torch.Generator], Tensor]


def shift(x: Tensor, pixels: float, generator: torch.Generator) -> Tensor:
    """Move each picture by up to `pixels` (whole pixels) up or down and left or right."""
    n, channels, height, width = x.shape
    reach = int(pixels)
    dy, dx = torch.randint(-reach, reach + 1, (2, n), generator=generator).to(x.device)
    rows = (torch.arange(height, device=x.device) + dy[:, None]).clamp_(0, height - 1)
    columns = (torch.arange(width, device=x.device) + dx[:, None]).clamp_(0, width - 1)
    index = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1).expand(n, channels, -1)
    return x.reshape(n, channels, -1).gather(2, index).view_as(x)


def flip(x: Tensor, chance: float, generator: torch.Generator) -> Tensor:
    """Mirror each picture left to right with probability `chance`."""
    turned = torch.rand(len(x), generator=generator).to(x.device) < chance
    return torch.where(turned[:, None, None, None], x.flip(-1), x)


def crop(x: Tensor, pixels: float, generator: torch.Generator) -> Tensor:
    """Cut each picture to a window smaller by up to `pixels` on each axis, at random, and stretch it back to size."""
    n, _, height, width = x.shape
    must(pixels < min(height, width), f"crop < {min(height, width)}, the size of the pictures,", f"{pixels:g}", where="augment")
    cut, across, down = torch.rand((3, n), generator=generator).to(x.device)
    lost = cut * pixels
    zoom_y, zoom_x = 1 - lost / height, 1 - lost / width
    zero = torch.zeros_like(cut)
    # A window that is narrower by `lost` can move by lost / 2 to each side: in coordinates from -1 to 1, by lost / size.
    move_x, move_y = (2 * across - 1) * lost / width, (2 * down - 1) * lost / height
    return _sample(x, torch.stack([zoom_x, zero, move_x, zero, zoom_y, move_y], dim=1).view(n, 2, 3))


def rotate(x: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Turn each picture about its middle by up to `degrees` either way."""
    n, _, height, width = x.shape
    angle = (2 * torch.rand(n, generator=generator).to(x.device) - 1) * math.radians(degrees)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    ratio = height / width
    return _sample(x, torch.stack([cos, -sin * ratio, zero, sin / ratio, cos, zero], dim=1).view(n, 2, 3))


def _sample(x: Tensor, matrix: Tensor) -> Tensor:
    grid = F.affine_grid(matrix.to(x.dtype), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


CHANGES: dict[str, tuple[Change, Number, float]] = {
    "shift": (shift, Number("shift", 0, 1000, open_low=True, usual="2", doc="pixels"), 2),
    "flip": (flip, Number("flip", 0, 1, open_low=True, usual="0.5", doc="probability"), 0.5),
    "crop": (crop, Number("crop", 0, 1000, open_low=True, usual="2", doc="pixels"), 2),
    "rotate": (rotate, Number("rotate", 0, 180, open_low=True, usual="10", doc="degrees"), 10),
}


@dataclass(frozen=True)
class Augment:
    """Changes in the order in which they are made; call it on a batch of pictures (N, C, H, W).

    >>> augment = Augment.parse("shift:2,flip")
    >>> x = torch.arange(128.0).view(2, 1, 8, 8)
    >>> a, b = (augment(x, torch.Generator().manual_seed(0)) for _ in range(2))
    >>> a.equal(b), str(augment)
    (True, 'shift:2,flip:0.5')
    """

    steps: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, spec: str) -> Self:
        """Read "shift:2,flip,rotate:10,crop:2"; a change without a number takes its usual one.

        Raises:
            FalllineError: an unknown change, or a number out of its range.
        """
        steps = []
        for part in (p.strip() for p in spec.split(",")):
            name, _, value = part.partition(":")
            _, number, usual = lookup("augmentation", name.strip(), CHANGES)
            amount = number.check(value.strip(), where="augment") if value else usual  # pyright: ignore[reportArgumentType]
            must(name.strip() != "shift" or amount >= 1, "shift >= 1", f"{amount:g}", "it counts whole pixels", where="augment")
            steps.append((name.strip(), amount))
        return cls(tuple(steps))

    def check(self, input_shape: tuple[int, ...]) -> None:
        """Refuse inputs that are no pictures."""
        if len(input_shape) != 3:
            raise FalllineError(f"augmentation '{self}' needs pictures, but the data has rows of shape {input_shape}; leave augment out.")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A changed copy of the batch, of the same shape."""
        self.check(tuple(x.shape[1:]))
        for name, amount in self.steps:
            x = CHANGES[name][0](x, amount, generator)
        return x

    def __str__(self) -> str:
        return ",".join(f"{name}:{amount:g}" for name, amount in self.steps)
