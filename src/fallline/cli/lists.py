"""Options that are lists with commas between: names, whole numbers, rates."""

from fallline._core.errors import must, refuse
from fallline._core.number import Number


def names(option: str, text: str) -> list[str]:
    """`"a, b"` as `["a", "b"]`; a comma inside the options of a name (`rmsprop:alpha=0.9,like=keras`) stays there.

    >>> names("optimizers", "sgd, rmsprop:alpha=0.9,like=keras")
    ['sgd', 'rmsprop:alpha=0.9,like=keras']
    """
    items: list[str] = []
    for item in (part.strip() for part in text.split(",")):
        if "=" in item and ":" not in item and items:
            items[-1] += f",{item}"
        elif item:
            items.append(item)
    must(bool(items), f"{option} is a list with commas between", repr(text))
    return items


def whole(option: str, text: str, low: int) -> int:
    """A whole number of at least `low`."""
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low:
        refuse(f"{option} >= {low}, whole numbers", repr(text))
    return value


def positive(option: str, text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        refuse(f"each of {option} > 0", repr(text))
    return Number(f"each of {option}", 0, open_low=True).check(value)


def batches(text: str) -> list[int | str]:
    """Batch sizes: whole numbers, or full.

    >>> batches("32,full")
    [32, 'full']
    """
    return [item if item == "full" else whole("batch_sizes", item, 1) for item in names("batch_sizes", text)]


def seeds(text: str) -> int | list[int]:
    """How many seeds, or which.

    >>> seeds("5"), seeds("3,4")
    (5, [3, 4])
    """
    return whole("seeds", text, 1) if "," not in text else [whole("seeds", item, 0) for item in names("seeds", text)]
