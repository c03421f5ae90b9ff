"""A model from the user's file: called with what it takes, and every mistake in it is one sentence with its line."""

import pytest
import torch

from fallline import models
from fallline._core.errors import FalllineError

HEAD = "import torch\nfrom torch import nn\n"


@pytest.fixture
def write(tmp_path):
    def write(body):
        (tmp_path / "mine.py").write_text(HEAD + body)
        return f"{tmp_path / 'mine.py'}:make_model"

    return write


@pytest.mark.parametrize(
    "body",
    [
        "def make_model(input_shape, outputs): return nn.Linear(input_shape[0], outputs)",
        "def make_model(outputs, input_shape): return nn.Linear(input_shape[0], outputs)",
        "def make_model(shape, k): return nn.Linear(shape[0], k)",
        "def make_model(shape, k, /): return nn.Linear(shape[0], k)",
        "def make_model(*, outputs, **more): return nn.Linear(more['input_shape'][0], outputs)",
        "def make_model(outputs, width=4, dropout=0.0): return nn.Sequential(nn.Linear(4, width), nn.Linear(width, outputs))",
        "def make_model(): return nn.Linear(4, 3)",
        "from helper import K\ndef make_model(input_shape): return nn.Linear(input_shape[0], K)",
        "class make_model(nn.Linear):\n    def __init__(self, input_shape, outputs): super().__init__(input_shape[0], outputs)",
    ],
)
def test_the_function_gets_what_its_signature_takes(write, tmp_path, body):
    (tmp_path / "helper.py").write_text("K = 3\n")
    model = models.build(write(body), (4,), 3, dropout=0.25)
    assert model(torch.zeros(2, 4)).shape == (2, 3)


def test_its_weights_follow_the_seed_and_the_global_state_is_left_alone(write):
    spec = write("def make_model(input_shape, outputs): return nn.Linear(input_shape[0], outputs)")
    state = torch.get_rng_state()
    one, two, other = (models.build(spec, (4,), 3, seed=s).weight for s in (1, 1, 2))
    assert torch.get_rng_state().equal(state)
    assert one.equal(two)
    assert not one.equal(other)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def make_modell(): pass", "no function 'make_model'; did you mean 'make_modell'"),
        ("x = 1", "it has no function"),
        ("def make_model():\n    a = 1\n    raise KeyError('width')", r"raised KeyError in line 5: 'width'"),
        ("def make_model():\n    return helper(0)\ndef helper(n):\n    return 1 / n", "ZeroDivisionError in line 6"),
        ("def make_model(:", "SyntaxError in line 3"),
        ("import no_such_module_here", "ModuleNotFoundError in line 3"),
        ("raise SystemExit(3)", "SystemExit in line 3"),
        ("def make_model(): return 5", "must return a torch.nn.Module, but it returned int"),
        ("def make_model(): nn.Linear(4, 3)", "is `return model` missing"),
        ("def make_model(input_shape, depth): return nn.Linear(4, 3)", "takes 'depth', which fallline does not know"),
        ("def make_model(a, b, c): return nn.Linear(4, 3)", "takes 3 arguments"),
        ("def make_model():\n    m = nn.Linear(4, 3)\n    nn.init.zeros_(m.weight)\n    return m", "all weights"),
    ],
)
def test_mistakes_are_one_sentence(write, body, message):
    with pytest.raises(FalllineError, match=message) as caught:
        models.build(write(body), (4,), 3)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FalllineError, match="no model file"):
        models.build(f"{tmp_path}/none.py:make_model", (4,), 3)


def test_an_exception_in_forward_names_its_line(write):
    body = "class M(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.w = nn.Linear(5, 3)\n"
    body += "    def forward(self, x):\n        return self.w(x)\ndef make_model(): return M()"
    model = models.build(write(body), (4,), 3)
    with pytest.raises(FalllineError, match=r"raised RuntimeError in line 8: mat1 and mat2"):
        models.check_output(model, torch.zeros(2, 4), 3)
