"""Slow float64 oracles of losses between the examples of a batch: the whole batch at once, as the formula reads, in plain Python."""

import math


def pairwise_auc(scores, labels, weights=None, margin=1.0, squared=True):
    weights = weights or [1.0] * len(scores)
    total = count = 0.0
    for s, y, w in zip(scores, labels, weights, strict=True):
        for t, z, v in zip(scores, labels, weights, strict=True):
            if y == 1 and z == 0:
                miss = max(0.0, margin - (s - t))
                total += w * v * (miss**2 if squared else miss)
                count += w * v
    return total / count if count else 0.0


def dot(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True))


def cosine(a, b):
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def _cross_entropy(near, far):
    top = max([near, *far])
    return math.log(sum(math.exp(s - top) for s in [near, *far])) - (near - top)


def _others(i, rows, labels, more, more_labels):
    """The rows of one side that are negatives of pair i, the further ones too."""
    here = [row for j, row in enumerate(rows) if (labels[j] != labels[i] if labels else j != i)]
    return here + [row for j, row in enumerate(more) if not labels or more_labels[j] != labels[i]]


def info_nce(x, y, temperature=0.07, views="cross", symmetric=True, labels=None, more=((), (), ()), s=cosine):
    """(sum, number) of each pair's terms."""
    found = []
    for i in range(len(x)):
        far_y, far_x = _others(i, y, labels, more[1], more[2]), _others(i, x, labels, more[0], more[2])
        near = s(x[i], y[i]) / temperature
        if views == "both":
            far_x = far_y = far_x + far_y
        terms = [_cross_entropy(near, [s(x[i], other) / temperature for other in far_y])]
        if symmetric or views == "both":
            terms.append(_cross_entropy(near, [s(y[i], other) / temperature for other in far_x]))
        found.append((sum(terms), len(terms)))
    return found


def info_nce_of_classes(x, labels, temperature=0.07, more=((), ()), s=cosine):
    found = []
    everything, classes = [*x, *more[0]], [*labels, *more[1]]
    for i in range(len(x)):
        far = [s(x[i], z) / temperature for z, c in zip(everything, classes, strict=True) if c != labels[i]]
        near = [s(x[i], z) / temperature for j, (z, c) in enumerate(zip(everything, classes, strict=True)) if c == labels[i] and j != i]
        found.append((sum(_cross_entropy(p, far) for p in near), len(near)))
    return found


def sup_con(x, labels, temperature=0.1, more=((), ()), s=cosine):
    found = []
    everything, classes = [*x, *more[0]], [*labels, *more[1]]
    for i in range(len(x)):
        scores = [(s(x[i], z) / temperature, c) for j, (z, c) in enumerate(zip(everything, classes, strict=True)) if j != i]
        near = [v for v, c in scores if c == labels[i]]
        top = max((v for v, _ in scores), default=0.0)
        total = math.log(sum(math.exp(v - top) for v, _ in scores)) + top if scores else 0.0
        found.append((-sum(v - total for v in near) / len(near), 1) if near else (0.0, 0))
    return found


def sig_lip(x, y, scale=10.0, bias=-10.0, labels=None, more=((), (), ()), s=cosine):
    def softplus(v):
        return max(v, 0) + math.log1p(math.exp(-abs(v)))

    found = []
    for i in range(len(x)):
        far = _others(i, y, labels, more[1], more[2])
        apart = sum(softplus(scale * s(x[i], other) + bias) for other in far)
        found.append((softplus(-(scale * s(x[i], y[i]) + bias)) + apart, 1))
    return found


def cross_modal_ranking(x, y, margin=0.2, negatives="all", symmetric=True, labels=None, more=((), (), ()), s=cosine):
    found = []
    for i in range(len(x)):
        near = s(x[i], y[i])
        ways = [[max(0.0, margin - near + s(x[i], other)) for other in _others(i, y, labels, more[1], more[2])]]
        if symmetric:
            ways.append([max(0.0, margin - near + s(other, y[i])) for other in _others(i, x, labels, more[0], more[2])])
        if negatives == "hardest":
            ways = [[max(way)] if way else [] for way in ways]
        found.append((sum(map(sum, ways)), sum(map(len, ways))))
    return found


def tversky(p, y, alpha=0.3, beta=0.7, smooth=1.0, gamma=1.0):
    """All elements of one ratio; dice is alpha = beta = 1/2 with half the smoothing."""
    tp = sum(a * b for a, b in zip(p, y, strict=True))
    fp = sum(a * (1 - b) for a, b in zip(p, y, strict=True))
    fn = sum((1 - a) * b for a, b in zip(p, y, strict=True))
    return (1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)) ** gamma


def dice(p, y, smooth=1.0, squared=False):
    common = sum(a * b for a, b in zip(p, y, strict=True))
    power = 2 if squared else 1
    both = sum(a**power for a in p) + sum(b**power for b in y)
    return 1 - (2 * common + smooth) / (both + smooth)


def distance(a, b, kind="euclidean"):
    if kind == "cosine":
        return 1 - cosine(a, b)
    squares = sum((p - q) ** 2 for p, q in zip(a, b, strict=True))
    return squares if kind == "squared" else math.sqrt(squares)


def _negatives(near, far, mining, margin):
    """For each distance to a positive, the distances to the negatives that `mining` takes with it."""
    if not far:
        return []
    if mining == "batch_hard":
        return [(max(near), min(far))] if near else []
    if mining == "semi_hard":
        return [(p, min((n for n in far if n > p), default=max(far))) for p in near]
    return [(p, n) for p in near for n in far if mining == "all" or p < n < p + margin]


def triplet(x, labels, margin=0.2, kind="euclidean", mining="all", squared=False, average="all", more=((), ())):
    """(sum, number) of each anchor's terms."""
    found = []
    everything, classes = [*x, *more[0]], [*labels, *more[1]]
    for a in range(len(x)):
        near, far = [], []
        for j, (z, c) in enumerate(zip(everything, classes, strict=True)):
            if j != a:
                (near if c == labels[a] else far).append(distance(x[a], z, kind))
        over = [max(0.0, margin + p - n) for p, n in _negatives(near, far, mining, margin)]
        counted = [t for t in over if t > 0] if average == "active" else over
        found.append((sum(t * t if squared else t for t in over), len(counted)))
    return found


def _every_pair(x, labels, more, cost):
    everything, classes = [*x, *more[0]], [*labels, *more[1]]
    each = [
        [cost(x[a], z, c == labels[a]) for j, (z, c) in enumerate(zip(everything, classes, strict=True)) if j != a] for a in range(len(x))
    ]
    return [(sum(terms), len(terms)) for terms in each]


def contrastive_pair(a, b, similar, margin=1.0):
    return distance(a, b, "squared") / 2 if similar else max(0.0, margin - distance(a, b)) ** 2 / 2


def contrastive(x, labels, margin=1.0, more=((), ())):
    return _every_pair(x, labels, more, lambda a, b, similar: contrastive_pair(a, b, similar, margin))


def cosine_embedding_pair(a, b, similar, margin=0.0):
    return 1 - cosine(a, b) if similar else max(0.0, cosine(a, b) - margin)


def cosine_embedding(x, labels, margin=0.0, more=((), ())):
    return _every_pair(x, labels, more, lambda a, b, similar: cosine_embedding_pair(a, b, similar, margin))
