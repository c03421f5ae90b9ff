"""The sets that come with scikit-learn: digits (pictures of 8 x 8), breast_cancer, diabetes, iris, wine. No download."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from fallline.data.raw import Raw

NAMES = ("digits", "breast_cancer", "diabetes", "iris", "wine")


def read_bundled(name: str) -> Raw:
    """One of `NAMES`; diabetes in its own units (years, mm Hg, ...), not pre-scaled."""
    from sklearn import datasets

    if name == "digits":
        found = _read(datasets.load_digits)
        pictures = found["images"].astype(np.uint8)[:, None]
        return Raw(name, "pictures", pictures, found["target"], target="digit", recipe=name)
    if name == "diabetes":
        found = _read(datasets.load_diabetes, scaled=False)
        return Raw(
            name,
            "table",
            pl.DataFrame(found["data"], schema=list(found["feature_names"])),
            found["target"],
            target="progression",
            recipe=name,
        )
    found = _read({"breast_cancer": datasets.load_breast_cancer, "iris": datasets.load_iris, "wine": datasets.load_wine}[name])
    names = {i: str(label) for i, label in enumerate(found["target_names"])}
    frame = pl.DataFrame(found["data"], schema=[str(f) for f in found["feature_names"]])
    target = {"breast_cancer": "diagnosis", "iris": "species", "wine": "cultivar"}[name]
    return Raw(name, "table", frame, found["target"], target=target, class_names=names, recipe=name)


def _read(reader: Callable[..., Any], **options: Any) -> Any:
    return reader(**options)
