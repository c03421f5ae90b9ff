"""Slow float64 oracles: each loss written as the formula reads, one example at a time, in plain Python."""

import math


def softmax(scores):
    top = max(scores)
    parts = [math.exp(s - top) for s in scores]
    return [p / sum(parts) for p in parts]


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def softplus(x):
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def mse(x, y):
    return (y - x) ** 2


def mae(x, y):
    return abs(y - x)


def msle(x, y):
    return (math.log(1 + y) - math.log(1 + x)) ** 2


def huber(x, y, delta=1.0):
    e = abs(y - x)
    return e * e / 2 if e <= delta else delta * (e - delta / 2)


def smooth_l1(x, y, beta=1.0):
    e = abs(y - x)
    return e * e / 2 / beta if e < beta else e - beta / 2


def log_cosh(x, y):
    return math.log(math.cosh(y - x))


def quantile(x, y, q=0.5):
    return q * (y - x) if y >= x else (1 - q) * (x - y)


def poisson_nll(x, y):
    return math.exp(x) - y * x


def gaussian_nll(x, y, eps=1e-6):
    v = softplus(x[1]) + eps
    return (math.log(v) + (y - x[0]) ** 2 / v) / 2


def binary_cross_entropy(x, y):
    return y * softplus(-x) + (1 - y) * softplus(x)


def asymmetric(x, y, gamma_positive=0.0, gamma_negative=4.0, margin=0.05):
    p = sigmoid(x)
    shifted = max(p - margin, 0)
    return -y * (1 - p) ** gamma_positive * math.log(p) - (1 - y) * shifted**gamma_negative * math.log(1 - shifted)


def hinge(x, y):
    return max(0.0, 1 - y * x)


def squared_hinge(x, y):
    return max(0.0, 1 - y * x) ** 2


def cross_entropy(x, y):
    return -math.log(softmax(x)[y])


def multiclass_hinge(x, y, delta=1.0):
    return sum(max(0.0, s - x[y] + delta) for j, s in enumerate(x) if j != y)


def focal(x, y, gamma=2.0):
    p = softmax(x)[y]
    return -((1 - p) ** gamma) * math.log(p)


def coral(x, y):
    return -sum(math.log(sigmoid(f)) if y > k else math.log(1 - sigmoid(f)) for k, f in enumerate(x))


def poly1(x, y, epsilon=1.0):
    p = softmax(x)[y]
    return -math.log(p) + epsilon * (1 - p)


def generalized_cross_entropy(x, y, q=0.7):
    return (1 - softmax(x)[y] ** q) / q


def kl_divergence(x, y):
    return sum(p * math.log(p / q) for p, q in zip(y, softmax(x), strict=True) if p > 0)


def arc_face(cosines, label, margin=0.5, scale=64.0):
    c = cosines[label]
    angle = math.acos(c)
    raised = math.cos(angle + margin) if angle < math.pi - margin else c - margin * math.sin(margin)
    return cross_entropy([scale * (raised if j == label else other) for j, other in enumerate(cosines)], label)


def cos_face(cosines, label, margin=0.35, scale=64.0):
    return cross_entropy([scale * (c - margin * (j == label)) for j, c in enumerate(cosines)], label)


def cosine_similarity(x, y):
    length = math.sqrt(sum(a * a for a in x)) * math.sqrt(sum(b * b for b in y))
    return 1 - sum(a * b for a, b in zip(x, y, strict=True)) / length
