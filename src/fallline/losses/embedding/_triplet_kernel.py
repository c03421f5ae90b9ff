"""The sums of `_triplet_sums` and their slopes, one anchor after another, compiled by numba for the CPU.

A row's distances are sorted once (by radix in float32), split into positives and negatives, and walked through with two pointers.
"""

import numpy as np
from numba import njit

ALL, ABOVE, NEXT = 0, 1, 2
"""All triplets; those with d_p < d_n < d_p + margin; for each pair the nearest d_n > d_p, or else the farthest."""


@njit(cache=True, nogil=True)
def from_products(products, lengths, other_lengths, resolved, take_root, d):
    """Fill `d` (float32) with the distances that `fallline.mining` gives, from the inner products of centred points in float64."""
    for i in range(products.shape[0]):
        for j in range(products.shape[1]):
            both = lengths[i] + other_lengths[j]
            found = both - 2 * products[i, j]
            nearest = 0.0 if found < resolved * both else found
            d[i, j] = np.float32(np.sqrt(nearest) if take_root else nearest)


@njit(cache=True, nogil=True)
def _radix(keys, order, spare_keys, spare_order, n, bits, table):
    """Sort `keys[:n]` (unsigned, 32 bits) upwards and `order` along with them."""
    width = 1 << bits
    mask = np.uint32(width - 1)
    passes = (32 + bits - 1) // bits
    table[:passes, :width] = 0
    for i in range(n):
        key = keys[i]
        for p in range(passes):
            table[p, (key >> np.uint32(p * bits)) & mask] += 1
    for p in range(passes):
        shift = np.uint32(p * bits)
        row = table[p]
        if row[(keys[0] >> shift) & mask] == n:
            continue
        place = 0
        for b in range(width):
            many = row[b]
            row[b] = place
            place += many
        for i in range(n):
            b = (keys[i] >> shift) & mask
            at = row[b]
            row[b] = at + 1
            spare_keys[at] = keys[i]
            spare_order[at] = order[i]
        keys, spare_keys = spare_keys, keys
        order, spare_order = spare_order, order
    return order


@njit(cache=True, nogil=True)
def _sorted(d, columns, n, narrow, keys, order, spare_keys, spare_order, table):
    """The columns `columns[:n]` by ascending distance."""
    if not narrow:
        values = np.empty(n, np.float64)
        for i in range(n):
            values[i] = d[columns[i]]
        by = np.argsort(values, kind="mergesort")
        for i in range(n):
            order[i] = columns[by[i]]
        return order
    for i in range(n):
        order[i] = columns[i]
    bits = 11 if n > 1024 else 8
    return _radix(keys, order, spare_keys, spare_order, n, bits, table)


@njit(cache=True, nogil=True)
def rows(d, whole, first, labels, columns, keep, keep_columns, margin, kind, squared, total, count, active, slope):
    """Fill `total`, `count`, `active` (R,) and `slope` (R, M) from the distances `d` (R, M) of anchors `first` and on.

    `whole`: `d` again as 32-bit words where it is float32, else an empty array.
    """
    many, width = d.shape
    narrow = whole.shape[1] == width
    keys, spare_keys = np.empty(width, np.uint32), np.empty(width, np.uint32)
    order, spare_order = np.empty(width, np.int32), np.empty(width, np.int32)
    used = np.empty(width, np.int32)
    table = np.empty((4, 2048), np.int64)
    near, far = np.empty(width, np.float64), np.empty(width, np.float64)
    near_at, far_at = np.empty(width, np.int32), np.empty(width, np.int32)
    near_1, near_2 = np.zeros(width + 1, np.float64), np.zeros(width + 1, np.float64)
    far_1 = np.zeros(width + 1, np.float64)
    top = np.uint32(0x80000000)
    for r in range(many):
        a = first + r
        total[r] = 0.0
        count[r] = 0
        active[r] = 0
        for j in range(width):
            slope[r, j] = 0
        if not keep[a]:
            continue
        n = 0
        friends = 0
        for j in range(width):
            if keep_columns[j] and j != a:
                if narrow:
                    word = whole[r, j]
                    keys[n] = ~word if word & top else word | top
                used[n] = j
                n += 1
                if columns[j] == labels[a]:
                    friends += 1
        if friends in (0, n):
            continue
        found = _sorted(d[r], used, n, narrow, keys, order, spare_keys, spare_order, table)
        pos = 0
        neg = 0
        for i in range(n):
            j = found[i]
            if columns[j] == labels[a]:
                near[pos] = d[r, j]
                near_at[pos] = j
                pos += 1
            else:
                far[neg] = d[r, j]
                far_at[neg] = j
                neg += 1
        zero = far[0]
        for i in range(neg):
            far_1[i + 1] = far_1[i] + (far[i] - zero)
        if squared:
            near_2[0] = 0.0
            for i in range(neg):
                near_2[i + 1] = near_2[i] + (far[i] - zero) ** 2
        start = 0
        stop = 0
        cost = 0.0
        hits = 0
        for i in range(pos):
            reach = near[i] + margin
            if kind != 0:
                while start < neg and far[start] <= near[i]:
                    start += 1
            if kind == 2:
                q = min(start, neg - 1)
                over = reach - far[q]
                if over > 0:
                    hits += 1
                    cost += over * over if squared else over
                    step = 2 * over if squared else 1.0
                    slope[r, near_at[i]] += step
                    slope[r, far_at[q]] -= step
                continue
            while stop < neg and far[stop] < reach:
                stop += 1
            k = stop - start
            if k <= 0:
                continue
            hits += k
            u = reach - zero
            one = far_1[stop] - far_1[start]
            if squared:
                cost += k * u * u - 2 * u * one + near_2[stop] - near_2[start]
                slope[r, near_at[i]] = 2 * (k * u - one)
            else:
                cost += k * u - one
                slope[r, near_at[i]] = k
        total[r] = cost
        active[r] = hits
        count[r] = pos * neg if kind == 0 else (hits if kind == 1 else pos)
        if kind == 2:
            continue
        for i in range(pos):
            near_1[i + 1] = near_1[i] + (near[i] - zero)
        start = 0
        stop = pos if kind == 0 else 0
        for i in range(neg):
            while start < pos and near[start] + margin <= far[i]:
                start += 1
            if kind == 1:
                while stop < pos and near[stop] < far[i]:
                    stop += 1
            k = stop - start
            if k <= 0:
                continue
            if squared:
                slope[r, far_at[i]] = -2 * (near_1[stop] - near_1[start] + k * (margin - (far[i] - zero)))
            else:
                slope[r, far_at[i]] = -k
