"""Losses that optax has too, equal to optax' own values; what we mean to differ in stands at the end with its reason."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from fallline.losses import functional

SCRIPT = """
import json, sys
import jax; jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, optax.losses as L
x, y, logits, labels, soft, bits, far = (jnp.array(a) for a in json.load(sys.stdin))
sign = 2 * bits - 1
out = {
    "mse": L.squared_error(x, y),
    "huber": L.huber_loss(x, y, delta=0.7),
    "log_cosh": L.log_cosh(x, y),
    "hinge": L.hinge_loss(x, sign),
    "bce": L.sigmoid_binary_cross_entropy(x, bits),
    "ce": L.softmax_cross_entropy_with_integer_labels(logits, labels),
    "ce soft": L.softmax_cross_entropy(logits, soft),
    "ce smoothing": L.softmax_cross_entropy(logits, L.smooth_labels(jax.nn.one_hot(labels, 4, dtype=x.dtype), 0.1)),
    "kl": L.kl_divergence(jax.nn.log_softmax(logits), soft),
    "kl logs": L.kl_divergence_with_log_targets(jax.nn.log_softmax(logits), jnp.log(soft)),
    "poly1": L.poly_loss_cross_entropy(logits, jax.nn.one_hot(labels, 4, dtype=x.dtype), epsilon=2.0),
    "crammer-singer": L.multiclass_hinge_loss(logits, labels),
    "log_cosh far": L.log_cosh(far, jnp.zeros(3)),
    "bce far": L.sigmoid_binary_cross_entropy(far, jnp.array([0.0, 1.0, 1.0])),
    "focal": L.sigmoid_focal_loss(x, bits, alpha=None, gamma=2.0),
}
print(json.dumps({k: v.tolist() for k, v in out.items()}))
"""
X = [0.5, -1.5, 2.0, 0.0, -0.25]
Y = [1.0, 0.5, 2.5, 0.0, 3.0]
LOGITS = [[2.0, -1.0, 0.5, 0.0], [0.0, 0.25, -3.0, 1.0], [5.0, 5.0, -5.0, 1.5], [0.1, 0.2, 0.3, 0.4], [-2.0, 8.0, 1.0, 0.0]]
LABELS = [0, 1, 2, 3, 0]
SOFT = [[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.1, 0.2, 0.3, 0.4]]
BITS = [1.0, 0.0, 1.0, 0.0, 1.0]
FAR = [800.0, -800.0, 40.0]
D = torch.float64
NAN = float("nan")
x, y, logits, soft, bits, far = (torch.tensor(a, dtype=D) for a in (X, Y, LOGITS, SOFT, BITS, FAR))
labels = torch.tensor(LABELS)
EACH = {"reduction": "none"}
PAIR = torch.stack([torch.zeros(5, dtype=D), x], -1)
OURS = {
    "mse": lambda: functional.mse(x, y, **EACH),
    "huber": lambda: functional.huber(x, y, delta=0.7, **EACH),
    "log_cosh": lambda: functional.log_cosh(x, y, **EACH),
    "hinge": lambda: functional.hinge(x, 2 * bits - 1, **EACH),
    "bce": lambda: functional.binary_cross_entropy(x, bits, **EACH),
    "ce": lambda: functional.cross_entropy(logits, labels, **EACH),
    "ce soft": lambda: functional.cross_entropy(logits, soft, **EACH),
    "ce smoothing": lambda: functional.cross_entropy(logits, labels, label_smoothing=0.1, **EACH),
    "kl": lambda: functional.kl_divergence(logits, soft, **EACH),
    "kl logs": lambda: functional.kl_divergence(logits, soft.log(), target_from="log_probabilities", **EACH),
    "poly1": lambda: functional.poly1(logits, labels, epsilon=2.0, **EACH),
    "log_cosh far": lambda: functional.log_cosh(far, torch.zeros(3, dtype=D), **EACH),
    "bce far": lambda: functional.binary_cross_entropy(far, torch.tensor([0.0, 1.0, 1.0], dtype=D), **EACH),
    "focal": lambda: functional.focal(PAIR, bits.long(), gamma=2.0, **EACH),  # the sigmoid of x is the softmax of (0, x)
}
OPTAX = {  # what optax 0.2.8 gave, in float64
    "mse": [0.25, 4.0, 0.25, 0.0, 10.5625],
    "huber": [0.125, 1.1549999999999998, 0.125, 0.0, 2.03],
    "log_cosh": [0.12011450695827752, 1.3250027473578645, 0.12011450695827752, 0.0, 2.558355129599809],
    "hinge": [0.5, 0.0, 0.0, 1.0, 1.25],
    "bce": [0.4740769841801067, 0.2014132779827524, 0.1269280110429725, 0.6931471805599453, 0.8259394198788437],
    "ce": [0.34234958238982216, 1.3698028728639995, 10.708155383612844, 1.242535529455163, 10.00129190964846],
    "ce soft": [0.9923495823898221, 2.0573028728639997, 0.7081553836128446, 1.2425355294551628, 6.3012919096484605],
    "ce smoothing": [0.504849582389822, 1.4385528728639996, 10.045655383612845, 1.257535529455163, 9.62629190964846],
    "kl": [0.05190159373449568, 0.6710085117441089, 0.015008203052899294, 1.2425355294551628, 5.021437683814793],
    "kl logs": [0.051901593734495696, 0.6710085117441089, NAN, NAN, 5.021437683814793],
    "poly1": [0.9221497366174733, 2.8614887611290314, 12.70811065996685, 2.6652327191403584, 12.001201227018408],
    "crammer-singer": [0.0, 1.75, 11.0, 0.9, 11.0],
    "log_cosh far": [799.3068528194401, 799.3068528194401, 39.30685281944005],
    "bce far": [800.0, 800.0, 4.248354255291589e-18],
    "focal": [0.06757349051750364, 0.0067028469265756575, 0.0018035628352403748, 0.17328679513998632, 0.26103189150243095],
}


def expected(name):
    """optax' values; NaN where it has none to compare."""
    return torch.tensor(OPTAX[name], dtype=D)


@pytest.mark.parametrize("name", OURS)
def test_equals_what_optax_gave(name):
    got, there = OURS[name](), ~expected(name).isnan()
    assert there.sum() >= 3
    assert torch.allclose(got[there], expected(name)[there], rtol=1e-10, atol=1e-12)
    assert torch.isfinite(got).all()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("optax") is None, reason="optax is a peer, installed for development only")
def test_the_table_is_what_optax_gives():
    inputs = json.dumps([X, Y, LOGITS, LABELS, SOFT, BITS, FAR])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], input=inputs, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(OPTAX)
    for name, values in found.items():
        assert torch.allclose(torch.tensor(values, dtype=D), expected(name), rtol=1e-12, atol=1e-12, equal_nan=True), name


# Where we mean to differ.


def test_zeros_in_a_target_of_logarithms_have_a_value():
    # optax gives NaN, exp(-inf) * (-inf - log q); 0 log 0 is 0.
    assert torch.isnan(expected("kl logs")[2:4]).all()
    assert torch.allclose(OURS["kl logs"](), OURS["kl"](), rtol=1e-12)


def test_optax_multiclass_hinge_is_crammer_and_singers():
    # It takes the largest violation; Weston and Watkins add all of them. They agree where at most one class violates.
    ours = functional.multiclass_hinge(logits, labels, **EACH)
    assert (ours >= expected("crammer-singer") - 1e-12).all()
    assert (ours > expected("crammer-singer") + 0.1).any()
