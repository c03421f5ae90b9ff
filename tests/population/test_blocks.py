"""Sizes of squads and blocks: within memory, measured once, the same again."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from fallline import models
from fallline.losses import CrossEntropy
from fallline.population import blocks
from fallline.population.blocks import MOST, SIZES, block_size, fitting
from fallline.training import Settings

ADAM = Settings(optimizer="adam", lr=0.001)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A cache of its own."""
    monkeypatch.setattr(blocks, "folder", lambda: tmp_path)
    return tmp_path


def digits_like(spec="mlp:32", shape=(64,), batch=32):
    torch.manual_seed(0)
    return models.build(spec, shape, 10), torch.randn(batch, *shape), torch.arange(batch) % 10, CrossEntropy()


def test_measured_once_and_the_same_again(fresh, monkeypatch):
    found = block_size(*digits_like(), ADAM)
    assert (fresh / "blocks.json").is_file()
    monkeypatch.setattr(blocks, "_measure", lambda *a: pytest.fail("measured again"))
    assert block_size(*digits_like(), ADAM) == found
    assert found.squad in SIZES
    assert found.squad <= found.block <= MOST


def test_another_shape_is_another_measurement(fresh, monkeypatch):
    asked = []
    monkeypatch.setattr(blocks, "_measure", lambda model, *rest: asked.append(model) or 4)
    for spec, batch in (("mlp:32", 32), ("mlp:33", 32), ("mlp:32", 16), ("mlp:32", 32)):
        block_size(*digits_like(spec, batch=batch), ADAM)
    assert len(asked) == 3


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": "x"}', '{"a": null}', '{"a": [1]}', '{"a": 1e999}', '{"a": 0}'])
def test_a_damaged_cache_is_no_cache(fresh, content):
    (fresh / "blocks.json").write_text(content)
    assert block_size(*digits_like(), ADAM).squad >= 1


def test_the_smallest_of_those_that_are_as_fast(monkeypatch):
    each = {1: 10.0, 2: 6.0, 4: 4.0, 8: 3.05, 16: 3.0, 32: 3.1, 64: 3.2, 128: 9.9}
    timed = []

    def time(model, x, target, loss, settings, size):
        timed.append(size)
        return each[size] * size

    monkeypatch.setattr(blocks, "_time", time)
    assert blocks._measure(*digits_like(), ADAM, MOST) == 8
    assert 128 not in timed  # two in a row were no faster
    assert blocks._measure(*digits_like(), ADAM, 5) == 4


def test_memory_bounds_both(fresh, monkeypatch):
    model, x, target, loss = digits_like("mlp:256", (784,))
    weights = sum(p.numel() * 4 for p in model.parameters())
    monkeypatch.setattr(blocks, "free_memory", lambda device: 2 * 3 * 8 * weights)
    assert 1 <= fitting(model, x) <= 4
    found = block_size(model, x, target, loss, ADAM)
    assert found.squad <= found.block <= fitting(model, x)


def test_a_small_network_has_larger_squads_than_a_large_one(fresh):
    small = block_size(*digits_like(), ADAM)
    large = block_size(*digits_like("mlp:512", (784,)), ADAM)
    assert small.squad >= 8
    assert large.squad < small.squad


def test_torch_keeps_its_threads(fresh):
    before = torch.get_num_threads()
    block_size(*digits_like("mlp:8"), ADAM)
    assert torch.get_num_threads() == before


def test_counting_memory_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    model[2].eval()
    fitting(model, torch.randn(8, 4))
    assert [m.training for m in model] == [True, True, False]
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "shape", "members"), [("mlp:256", (784,), 64), ("mlp:1024", (784,), 16), ("cnn", (1, 28, 28), 16)])
def test_the_peak_is_within_the_estimate(spec, shape, members):
    """A block in a process of its own takes no more memory than `fitting` counts for each of its members."""
    program = f"""
        import resource, torch
        from fallline import models
        from fallline.data import Data, Split
        from fallline.population import Job, blocks
        from fallline.population.crew import Crew
        from fallline.record import Writer
        from fallline.training import Settings, aim
        from fallline.training.loop import train
        made = lambda seed: models.build({spec!r}, {shape!r}, 10)
        split = lambda n: Split(torch.randn(n, *{shape!r}), torch.arange(n) % 10)
        data = Data("noise", split(96), split(32), split(32), "multiclass", tuple("abcdefghij"), tuple("abcdefghij"), {shape!r},
                    ("x",), "y")
        goal = aim(data, Settings())
        settings = [Settings(optimizer="adam", lr=1e-3, seed=i, epochs=2) for i in range({members})]
        def run(some):
            jobs = [Job(f"m{{s.seed}}", s) for s in some]
            return Crew(jobs, [made(s.seed) for s in some], data, goal, Writer(None), squad={members}).train()
        run(settings[:1])
        blocks.free_memory = lambda device: int(1e12)
        each = 1e12 * blocks._SHARE / blocks.fitting(made(0), data.train.x[:32])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run(settings)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / ({members} * each))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    share = float(done.stdout.split()[-1])
    assert 0.2 < share < 1.0
