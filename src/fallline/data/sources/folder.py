"""A folder of pictures: one sub-folder a class, or train/ and test/ with one sub-folder a class in each."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from fallline._core.errors import FalllineError
from fallline.data.raw import Raw

ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_PARTS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
LARGEST = 128
"""Pictures are reduced to at most this height and width."""


def read_folder(path: "str | os.PathLike[str]", size: tuple[int, int, int] | None = None) -> Raw:
    """All pictures, uint8 of shape (N, C, H, W), with the names of their folders as labels (None for pictures in the folder itself).

    Args:
        path: the folder.
        size: channels, height and width that a saved model wants; without it, the most common size of the pictures.

    Raises:
        FalllineError: no picture, or one that cannot be read (says which).
    """
    root = Path(path)
    files, labels, parts = _listed(root)
    notes: list[str] = []
    pictures = read_pictures(files, size, notes)
    assigned = {part: np.flatnonzero(np.array(parts) == part) for part in dict.fromkeys(parts) if part} if any(parts) else {}
    y = None if any(label is None for label in labels) else pl.Series("class", labels, dtype=pl.String)
    table = pl.DataFrame({"file": [str(file.relative_to(root)) for file in files]})
    return Raw(root.name, "pictures", pictures, y, target="class", assigned=assigned, notes=notes, recipe=str(root.resolve()), table=table)


def _listed(root: Path) -> tuple[list[Path], list[str | None], list[str]]:
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    split = bool(folders) and any(_PARTS.get(p.name.lower()) == "train" for p in folders) and all(p.name.lower() in _PARTS for p in folders)
    groups = (
        [(_PARTS[part.name.lower()], sub) for part in folders for sub in sorted(part.iterdir()) if sub.is_dir()]
        if split
        else [("", p) for p in folders]
    )
    files: list[Path] = []
    labels: list[str | None] = []
    parts: list[str] = []
    for part, folder in groups:
        found = sorted(p for p in folder.rglob("*") if _is_picture(p))
        files += found
        labels += [folder.name] * len(found)
        parts += [part] * len(found)
    if not files:
        files = sorted(p for p in root.iterdir() if _is_picture(p))
        labels, parts = [None] * len(files), [""] * len(files)
    if not files:
        raise FalllineError(f"'{root}' has no picture ({', '.join(sorted(ENDINGS))}) in sub-folders that name the classes.")
    return files, labels, parts


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and path.is_file() and not path.name.startswith(".")


def read_pictures(files: list[Path], size: tuple[int, int, int] | None, notes: list[str]) -> np.ndarray:
    """The files as uint8 of shape (N, C, H, W), all of one size; notes say what was changed."""
    from PIL import Image

    if size is None:
        size = _common(files, notes)
    channels, height, width = size
    out = np.empty((len(files), channels, height, width), np.uint8)
    mode = "L" if channels == 1 else "RGB"
    for i, file in enumerate(files):
        try:
            with Image.open(file) as opened:
                picture = _flat(opened).convert(mode)
                if picture.size != (width, height):
                    picture = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
                pixels = np.asarray(picture)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise FalllineError(f"picture '{file}' cannot be read: {str(error)[:200]}; repair or remove it.") from error
        out[i] = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return out


def _flat(picture):
    """Transparent pictures on white; deep grey ones in 8 bits."""
    from PIL import Image

    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float64)
        top = 65535.0 if picture.mode.startswith("I") and values.max(initial=0) > 255 else max(1.0, values.max(initial=0))
        return Image.fromarray((values * (255 / top)).clip(0, 255).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        white.alpha_composite(clear)
        return white.convert("RGB")
    return picture


def _common(files: list[Path], notes: list[str]) -> tuple[int, int, int]:
    from PIL import Image

    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    for file in files:
        try:
            with Image.open(file) as opened:
                sizes[opened.size] += 1
                grey = grey and opened.mode in {"1", "L", "I", "I;16", "F"}
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise FalllineError(f"picture '{file}' cannot be read: {str(error)[:200]}; repair or remove it.") from error
    (width, height), count = max(sizes.items(), key=lambda item: (item[1], item[0]))
    ratio = min(1.0, LARGEST / max(width, height))
    small = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    if len(sizes) > 1 or small != (width, height):
        resized = sum(sizes.values()) - (count if small == (width, height) else 0)
        notes.append(f"{resized} of {len(files)} pictures were resized to {small[0]} x {small[1]} pixels")
    return (1 if grey else 3, small[1], small[0])
