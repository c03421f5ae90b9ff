"""Ordinary batches of every kind of target, in float32."""

import torch

N, C = 12, 5


def _g(seed=0):
    return torch.Generator().manual_seed(seed)


def _normal(*shape, seed):
    return torch.randn(*shape, generator=_g(seed))


def numbers():
    return _normal(N, seed=1) * 1.5, _normal(N, seed=2) * 2


def rows():
    return _normal(N, 3, seed=3), _normal(N, 3, seed=4)


def column():
    return _normal(N, 1, seed=3), _normal(N, 1, seed=4)


def scores():
    return _normal(N, C, seed=5) * 2, torch.randint(0, C, (N,), generator=_g(6))


def class_probabilities():
    x, y = scores()
    return x.softmax(1), y


def class_log_probabilities():
    x, y = scores()
    return x.log_softmax(1), y


def pictures():
    return _normal(4, 3, 4, 4, seed=7), torch.randint(0, 3, (4, 4, 4), generator=_g(8))


def soft():
    return scores()[0], _normal(N, C, seed=9).softmax(1)


def log_soft():
    return scores()[0].log_softmax(1), soft()[1]


def logits():
    return numbers()[0], torch.randint(0, 2, (N,), generator=_g(10)).float()


def labels():
    return logits()[0].sigmoid(), logits()[1]


def many_labels():
    return _normal(N, 4, seed=11), torch.randint(0, 2, (N, 4), generator=_g(12)).float()


def signed():
    return logits()[0], logits()[1] * 2 - 1


def distances():
    return logits()[0].abs(), signed()[1]


def counts():
    return _normal(N, seed=13), torch.randint(0, 6, (N,), generator=_g(14)).float()


def means_and_spreads():
    return _normal(N, 2, seed=15), numbers()[1]


def couples():
    return _normal(N, 2, 6, seed=16), signed()[1]


def triplets():
    return _normal(N, 3, 6, seed=17), None


def two_scores():
    return _normal(N, 2, seed=18), signed()[1]


def embeddings():
    return _normal(N, 4, seed=19), torch.arange(N) % 3
