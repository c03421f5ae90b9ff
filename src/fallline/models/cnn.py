"""A small convolutional network: two times convolution, ReLU and pooling, then two dense layers.

It takes pictures of any channels and of 8 x 8 pixels or more; maps larger than 8 x 8 are pooled down to that before the dense layers.
"""

from torch import nn

from fallline._core.errors import FalllineError

_LEAST, _MAP = 8, 8


def cnn(input_shape: tuple[int, ...], outputs: int, *, dropout: float = 0.0) -> nn.Sequential:
    """From (rows, channels, height, width) to (rows, outputs).

    Raises:
        FalllineError: the input is no picture, or smaller than 8 x 8.

    >>> sum(p.numel() for p in cnn((1, 28, 28), 10).parameters())
    206922
    """
    if len(input_shape) != 3:
        raise FalllineError(
            f"model 'cnn' needs pictures (channels, height, width), but the data has rows of shape {tuple(input_shape)}; use 'mlp:128'."
        )
    channels, height, width = input_shape
    if min(height, width) < _LEAST:
        raise FalllineError(
            f"model 'cnn' needs pictures of at least {_LEAST} x {_LEAST} pixels, but they are {height} x {width}; use 'mlp:128'."
        )
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    height, width = height // 4, width // 4
    if height > _MAP or width > _MAP:
        height, width = min(height, _MAP), min(width, _MAP)
        layers.append(nn.AdaptiveAvgPool2d((height, width)))
    layers += [nn.Flatten(), nn.Linear(32 * height * width, 128), nn.ReLU()]
    if dropout > 0:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(128, outputs))
