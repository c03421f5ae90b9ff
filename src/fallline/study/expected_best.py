"""What k trials of a random search give on average, from n ≥ k trials that were run: an optimizer's result as a function of its budget.

    E[best of k] = Σᵢ v₍ᵢ₎ · C(n − i, k − 1) / C(n, k)        v₍₁₎ best ... v₍ₙ₎ worst

C(n − i, k − 1)/C(n, k) is the share of the k-subsets of the trials in which v₍ᵢ₎ is the best; so this is the mean over all subsets,
the one unbiased estimate that does not depend on the order of the trials. It holds for trials that were drawn independently from one
declared space, not for a search that looks where earlier trials were good.

Source: the curve: Dodge, Gururangan, Card, Schwartz and Smith, "Show your work: improved reporting of experimental results", EMNLP 2019,
whose estimate draws with replacement and is biased; its use for optimizers: Sivaprasad, Mai, Vogels, Jaggi and Fleuret, "Optimizer
benchmarking needs to account for hyperparameter tuning", ICML 2020; without replacement, unbiased: Tang, Lee, Xin, Liu, Yu and Lin,
"Showing your work doesn't always work", ACL 2020.
"""

import math
from collections.abc import Sequence

from fallline._core.errors import must


def expected_best(values: Sequence[float], k: int, *, lower: bool = True) -> float:
    """The mean best of k trials, unbiased; infinite where k diverged trials may meet.

    Args:
        values: of n independent trials, shape (n,); NaN or an infinity for one that diverged.
        k: trials of the smaller search, 1 to n.
        lower: whether a lower value is better.

    Raises:
        FalllineError: k is not between 1 and the number of trials.

    >>> expected_best([1.0, 2.0, 4.0], 2)
    1.3333333333333333
    """
    n = len(values)
    must(1 <= k <= n, "1 <= k <= number of trials", (k, n), where="expected_best")
    worst = math.inf if lower else -math.inf
    ordered = sorted((v if math.isfinite(v) else worst for v in values), reverse=not lower)
    return sum(v * math.comb(n - i, k - 1) for i, v in enumerate(ordered, start=1) if i <= n - k + 1) / math.comb(n, k)


def budget_curve(values: Sequence[float], *, lower: bool = True) -> list[float]:
    """The mean best of 1, 2, ... n trials, shape (n,).

    >>> budget_curve([1.0, 3.0])
    [2.0, 1.0]
    """
    return [expected_best(values, k, lower=lower) for k in range(1, len(values) + 1)]
