"""`like="keras"` beside Keras itself, run in a process of its own with its torch backend.

Epsilon is 0.01, so that its place in the formula matters; Keras keeps its learning rate in float32, which bounds the agreement.
"""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from fallline import optim

SCRIPT = """
import json, sys
import numpy as np, keras
spec = json.load(sys.stdin)
out = {}
for name, (kind, settings) in spec["rules"].items():
    v = keras.Variable(np.array(spec["start"]), dtype="float64")
    optimizer = getattr(keras.optimizers, kind)(learning_rate=0.0625, **settings)
    optimizer.build([v])
    path = []
    for g in spec["grads"]:
        optimizer.apply([keras.ops.convert_to_tensor(np.array(g), dtype="float64")], [v])
        path.append(keras.ops.convert_to_numpy(v).tolist())
    out[name] = path
print(json.dumps(out))
"""
E = {"epsilon": 0.01}
RULES = {
    "sgd": (("SGD", {}), lambda p: optim.SGD(p, lr=0.0625, like="keras")),
    "momentum": (("SGD", {"momentum": 0.75}), lambda p: optim.SGD(p, lr=0.0625, momentum=0.75, like="keras")),
    "nesterov": (
        ("SGD", {"momentum": 0.75, "nesterov": True}),
        lambda p: optim.SGD(p, lr=0.0625, momentum=0.75, nesterov=True, like="keras"),
    ),
    "rmsprop": (
        ("RMSprop", {**E, "momentum": 0.5, "centered": True}),
        lambda p: optim.RMSprop(p, lr=0.0625, eps=0.01, momentum=0.5, centered=True, like="keras"),
    ),
    "adagrad": (("Adagrad", E), lambda p: optim.Adagrad(p, lr=0.0625, eps=0.01, like="keras")),
    "adadelta": (("Adadelta", E), lambda p: optim.Adadelta(p, lr=0.0625, eps=0.01, like="keras")),
    "adam": (("Adam", E), lambda p: optim.Adam(p, lr=0.0625, eps=0.01, like="keras")),
    "amsgrad": (("Adam", {**E, "amsgrad": True}), lambda p: optim.Adam(p, lr=0.0625, eps=0.01, amsgrad=True, like="keras")),
    "adamw": (
        ("AdamW", {**E, "weight_decay": 0.25}),
        lambda p: optim.AdamW(p, lr=0.0625, eps=0.01, weight_decay=0.25, like="keras"),
    ),
    "nadam": (("Nadam", E), lambda p: optim.NAdam(p, lr=0.0625, eps=0.01, like="keras")),
    "adamax": (("Adamax", E), lambda p: optim.Adamax(p, lr=0.0625, eps=0.01, like="keras")),
}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="keras is a peer, installed for development only")
def test_every_rule_follows_keras_own_trajectory():
    rng = np.random.default_rng(3)
    start, grads = rng.normal(size=4), rng.normal(size=(15, 4))
    spec = {"start": start.tolist(), "grads": grads.tolist(), "rules": {k: v[0] for k, v in RULES.items()}}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(spec),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )
    theirs = json.loads(done.stdout.splitlines()[-1])
    for name, (_, make) in RULES.items():
        p = torch.nn.Parameter(torch.tensor(start))
        optimizer = make([p])
        for t, g in enumerate(grads):
            p.grad = torch.tensor(g)
            optimizer.step()
            assert np.abs(p.detach().numpy() - theirs[name][t]).max() < 1e-6, (name, t)
