"""The sweep of `_sums` as compiled loops: a radix sort of the scores, one pass down for the sums, one pass up for the slopes."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

_BITS, _BUCKETS = 11, 2048


@njit(cache=True, nogil=True)
def ordered(x: NDArray[np.float32], positive: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Scores (N,) from the lowest to the highest, and the place of each, doubled, plus 1 for a positive."""
    n = x.shape[0]
    bits = x.view(np.uint32)
    key, place = np.empty(n, np.uint32), np.empty(n, np.uint32)
    key_next, place_next = np.empty(n, np.uint32), np.empty(n, np.uint32)
    counts = np.zeros((3, _BUCKETS), np.int64)
    for i in range(n):
        b = bits[i]
        # as an unsigned number, in the order of the float: negative ones turned round, the others above them
        k = np.uint32(~b) if b >> np.uint32(31) else np.uint32(b | np.uint32(0x80000000))
        key[i] = k
        place[i] = np.uint32(2 * i + (1 if positive[i] else 0))
        counts[0, k & np.uint32(_BUCKETS - 1)] += 1
        counts[1, (k >> np.uint32(_BITS)) & np.uint32(_BUCKETS - 1)] += 1
        counts[2, k >> np.uint32(2 * _BITS)] += 1
    for digit in range(3):
        start = 0
        for b in range(_BUCKETS):
            start, counts[digit, b] = start + counts[digit, b], start
        shift = np.uint32(digit * _BITS)
        for i in range(n):
            b = (key[i] >> shift) & np.uint32(_BUCKETS - 1)
            to = counts[digit, b]
            counts[digit, b] = to + 1
            key_next[to] = key[i]
            place_next[to] = place[i]
        key, key_next = key_next, key
        place, place_next = place_next, place
    for i in range(n):
        k = key[i]
        key_next[i] = np.uint32(k & np.uint32(0x7FFFFFFF)) if k >> np.uint32(31) else np.uint32(~k)
    return key_next.view(np.float32), place


@njit(cache=True, nogil=True)
def down(
    x: NDArray[np.float32], order: NDArray[np.uint32], weight: NDArray[np.float64], margin: float, squared: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of hinges of each positive, (N,), 0 for negatives; how fast each falls as its score rises, (N,) in the order of `ordered`."""
    n = x.shape[0]
    sums, slopes = np.zeros(n), np.zeros(n)
    above, first, second = 0.0, 0.0, 0.0
    p, q, z = n - 1, n - 1, 0.0
    started = False
    while True:
        while p >= 0 and not order[p] & 1:
            p -= 1
        while q >= 0 and order[q] & 1:
            q -= 1
        if p < 0:
            break
        mine = np.float64(x[p]) - margin
        negative = False
        if q >= 0:
            other = np.float64(x[q])
            negative = not other <= mine
            mine = other if negative else mine
        if started:
            step = z - mine
            second += step * (2 * first + step * above)
            first += step * above
        z, started = mine, True
        if negative:
            above += weight[order[q] >> 1]
            q -= 1
        else:
            sums[order[p] >> 1] = second if squared else first
            slopes[p] = 2 * first if squared else above
            p -= 1
    _spoil(x, sums)
    return sums, slopes


@njit(cache=True, nogil=True)
def up(
    x: NDArray[np.float32],
    order: NDArray[np.uint32],
    weight: NDArray[np.float64],
    slopes: NDArray[np.float64],
    grad: NDArray[np.float64],
    margin: float,
    squared: bool,
) -> NDArray[np.float32]:
    """The gradient by the scores, (N,), from the gradient by the sums: a negative is pushed by every positive below its point."""
    n = x.shape[0]
    found = np.zeros(n, np.float32)
    below, first = 0.0, 0.0
    p, q, z = 0, 0, 0.0
    started = False
    while True:
        while p < n and not order[p] & 1:
            p += 1
        while q < n and order[q] & 1:
            q += 1
        if p >= n and q >= n:
            break
        mine, positive = 0.0, False
        if p < n:
            mine, positive = np.float64(x[p]) - margin, True
        if q < n:
            other = np.float64(x[q])
            if not positive or other <= mine:
                mine, positive = other, False
        if started:
            first += (mine - z) * below
        z, started = mine, True
        if positive:
            i = order[p] >> 1
            found[i] = -grad[i] * slopes[p]
            below += grad[i]
            p += 1
        else:
            j = order[q] >> 1
            found[j] = weight[j] * (2 * first if squared else below)
            q += 1
    _spoil(x, found)
    return found


@njit(cache=True, nogil=True)
def _spoil(x, out):  # pyright: ignore[reportMissingParameterType]
    """A score that is no finite number shows in all of `out`, as it would in sums of pairs with it."""
    total = 0.0
    for i in range(x.shape[0]):
        total += np.float64(x[i]) * 0.0
    if np.isnan(total):
        out[:] = np.nan
