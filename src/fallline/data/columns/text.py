"""A column of free text: its words, weighted by how rare they are.

    wₜ = count of word t in the row · (1 + log((1 + N) / (1 + Nₜ)))        each row scaled to length 1

Words are runs of letters, in lower case; the vocabulary is what occurs in enough of the N training rows, Nₜ of which hold word t.

Source: Salton & Buckley, "Term-weighting approaches in automatic text retrieval", Information Processing & Management 24 (1988).
https://doi.org/10.1016/0306-4573(88)90021-0 ; the smoothed inverse document frequency is scikit-learn's.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import polars as pl

MOST = 64
"""Words of the vocabulary at most."""

_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Text:
    """TF-IDF over a small vocabulary."""

    kind: ClassVar[str] = "text"
    name: str
    words: list[str]
    weights: list[float]
    flag: bool

    @classmethod
    def fit(cls, series: pl.Series, *, scale: str) -> Self:
        """Learn vocabulary and weights: words in at least max(3, 1 %) and at most 95 % of the rows that hold text."""
        del scale
        rows = [set(words_of(text)) for text in series.drop_nulls().cast(pl.String).to_list()]
        seen = Counter(word for row in rows for word in row)
        least, most = max(3, math.ceil(0.01 * len(series))), 0.95 * len(series)
        kept = sorted((w for w, n in seen.items() if least <= n <= most), key=lambda w: (-seen[w], w))[:MOST]
        words = sorted(kept)
        weights = [1 + math.log((1 + len(rows)) / (1 + seen[w])) for w in words]
        return cls(series.name, words, weights, series.null_count() > 0)

    @property
    def features(self) -> list[str]:
        """Names of what `encode` gives."""
        return [f"{self.name}: {word}" for word in self.words] + ([f"{self.name} is missing"] if self.flag else [])

    def encode(self, series: pl.Series) -> np.ndarray:
        """float32 of shape (rows, features)."""
        index = {word: i for i, word in enumerate(self.words)}
        out = np.zeros((len(series), len(self.features)), np.float32)
        for row, text in enumerate(series.cast(pl.String).to_list()):
            if text is None:
                continue
            for word, count in Counter(w for w in words_of(text) if w in index).items():
                out[row, index[word]] = count * self.weights[index[word]]
        length = np.linalg.norm(out, axis=1, keepdims=True)
        out /= np.where(length > 0, length, 1)
        if self.flag:
            out[:, -1] = series.is_null().to_numpy()
        return out

    def say(self) -> str:
        """How it is prepared, in words."""
        return f"text: {len(self.words)} words by TF-IDF{', with a flag for missing' if self.flag else ''}"


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case.

    >>> words_of("Cumings, Mrs. John B. (C85)")
    ['cumings', 'mrs', 'john', 'b', 'c']
    """
    return _WORD.findall(text.lower())
