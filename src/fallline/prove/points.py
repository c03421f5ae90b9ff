"""Where a loss is looked at: points near the user's own, and further off, inside the domain that the user's numbers show."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fallline.prove.subject import Refused, Subject


def nearby(subject: Subject, size: float, domain: str) -> Tensor:
    """The input moved at random by `size` of its own scale, without leaving its domain."""
    x = subject.x
    noise = subject.like(x)
    if domain == "simplex":
        other = noise.softmax(1)
        return x + min(size, 1.0) * (other - x)
    if domain == "probability":
        other = 0.05 + 0.9 * subject.even(x)
        return x + min(size, 1.0) * (other - x)
    if domain == "log-probability":
        return (x + size * noise).log_softmax(1)
    if domain == "nonnegative":
        return x * (size * noise).exp() + size * scale(x) * 0.1 * subject.even(x)
    return x + size * scale(x) * noise


def scale(x: Tensor) -> Tensor:
    """The size of the input's numbers; 1 where all are zero."""
    rms = x.double().square().mean().sqrt().to(x.dtype) if x.numel() else x.new_tensor(1.0)
    return torch.where((rms > 0) & torch.isfinite(rms), rms, 1.0)


def usable(subject: Subject, domain: str, sizes: tuple[float, ...] = (1e-3, 0.05, 0.3, 1.0)) -> Iterator[Tensor]:
    """Points off the user's own, at which the loss gives a finite value."""
    for size in sizes:
        point = nearby(subject, size, domain)
        try:
            if bool(torch.isfinite(subject.total(point, subject.y))):
                yield point
        except Refused:
            continue


def direction(subject: Subject, x: Tensor, domain: str) -> Tensor:
    """A random direction of the size of the input, along which the domain is not left at once."""
    v = subject.like(x)
    if domain == "simplex":
        v = v - v.mean(1, keepdim=True)
        return v * x  # small where the probability is small
    if domain == "probability":
        return v * (x * (1 - x)).clamp(min=0)
    if domain == "nonnegative":
        return v * x
    return v * scale(x)


def place(shape: torch.Size, flat: int) -> str:
    """An index such as [2, 0] of an element counted flat."""
    at = []
    for size in reversed(shape):
        at.append(flat % size)
        flat //= size
    return "[" + ", ".join(str(i) for i in reversed(at)) + "]"
