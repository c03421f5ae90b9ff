"""Slow float64 oracles of losses between the examples of a batch: the whole batch at once, as the formula reads, in plain Python."""


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
