"""`fl.tune`: what it takes, what it refuses before anything is written, what it gives back, and its page."""

import builtins
import dataclasses
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import fallline as fl
from fallline import report
from fallline._core.errors import FalllineError
from fallline.api.tune import space_text, train_line
from fallline.cli.main import main
from fallline.record import Reader, Writer
from fallline.report.figures import trials as figures
from fallline.study.space import make_space
from fallline.study.trials_db import held
from fallline.training import Settings

optuna = pytest.importorskip("optuna")
FloatDistribution = optuna.distributions.FloatDistribution
SMALL = {"optimizer": ["adam", "momentum"], "batch_size": [16]}
USUAL = {"trials": 6, "space": SMALL, "epochs": 3, "batch": 3, "best": 2, "seeds": 2, "quiet": True}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("tuned") / "run"
    return fl.tune("mlp:8", "iris", out=place, **USUAL)


def test_what_comes_back(made) -> None:
    assert made.status == "finished"
    assert len(made.trials) == 6
    assert made.counts["trials"] == 6
    assert made.counts["finished"] + made.counts["stopped"] + made.counts["diverged"] == 6
    assert 1 <= len(made.table) <= 2
    assert made.best is not None
    assert made.best["model"] == "mlp:8"
    assert made.best["batch_size"] == 16
    text = made.text()
    assert f"{made.table[0]['mean']:.4f}" in text
    assert made.headline[1:] in text
    assert all(note in text for note in made.notes)


def test_the_best_trains_again_by_object_and_by_the_line_it_prints(made, tmp_path: Path, monkeypatch) -> None:
    run = made.fit(seed=1, quiet=True)
    first = made.table[0]
    at = first["at_seeds"].index(1)
    assert run.metrics["validation"]["accuracy"] == pytest.approx(first["values"][at], abs=0.05)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(made.command)
    assert words[:3] == ["fallline", "train", "iris"]
    assert main([*words[1:], "--quiet", "--out", "again"]) == 0
    config = Reader(tmp_path / "again").info["config"]
    wanted = dataclasses.replace(made.plan.settings, **{k: v for k, v in made.best.items() if k != "model"}).to_json()
    assert {k: v for k, v in config.items() if k in wanted and k != "loss"} == {k: v for k, v in wanted.items() if k != "loss"}


def test_the_python_call_of_the_page_asks_for_the_same_search(made) -> None:
    call = Reader(made.folder).info["python"]
    scope: dict = {}
    exec(call.replace("space=", "quiet=True, space="), scope)
    again = scope["found"]
    assert [t["params"] for t in again.trials] == [t["params"] for t in made.trials]
    assert [t["value"] for t in again.trials] == [t["value"] for t in made.trials]


def test_space_in_words_is_the_space() -> None:
    space = make_space({"lr": (1e-4, 0.1), "momentum": (0.8, 0.99), "beta1": [0.8, 0.9], "eps": None, "dropout": None})
    again = make_space({"model": list(space.models), **eval(space_text(space))})
    assert again == space


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"weight_decay": FloatDistribution(0.0, 0.1)},
        {"dropout": FloatDistribution(0.0, 0.5)},
        {"dropout": FloatDistribution(0.0, 0.4, step=0.1)},
        {"dropout": (0.0, 0.5)},
        {"lr": FloatDistribution(0.01, 0.1), "eps": FloatDistribution(1e-9, 1e-3, log=True)},
        {"lr": FloatDistribution(0.01, 0.1, log=True), "momentum": (0.8, 0.99)},
    ],
)
def test_distributions_in_words_are_the_same_distributions(given) -> None:
    space = make_space(given)
    assert make_space({"model": list(space.models), **eval(space_text(space), {"optuna": optuna})}) == space


def test_a_model_in_memory_and_a_loss_of_ones_own() -> None:
    x = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5], dtype=np.float32)

    def make_model(input_shape, outputs):
        return torch.nn.Sequential(torch.nn.Linear(input_shape[0], 8), torch.nn.Tanh(), torch.nn.Linear(8, outputs))

    def my_loss(input, target):
        return ((input - target) ** 2).mean()

    found = fl.tune(make_model, (x, y), loss=my_loss, **USUAL)
    assert found.best is not None
    assert "dropout" not in found.best  # of models that fallline builds only
    assert found.command == ""
    assert found.plan.metric == "r2"
    assert found.fit(quiet=True).status == "finished"


def test_a_setting_that_is_a_factor_is_then_not_searched() -> None:
    found = fl.tune("linear", "iris", weight_decay=0.001, schedule="cosine", **USUAL)
    assert {t["settings"]["weight_decay"] for t in found.trials} == {0.001}
    assert {t["settings"]["schedule"] for t in found.trials} == {"cosine"}
    assert not any("weight_decay" in t["params"] for t in found.trials)


def test_the_loss_can_be_the_metric_and_lower_is_then_better() -> None:
    found = fl.tune("linear", "iris", metric="loss", **{**USUAL, "pruner": "none"})
    values = [row["mean"] for row in found.table]
    assert values == sorted(values)
    assert found.table[0]["searched"] == min(t["value"] for t in found.trials if t["value"] is not None)


def test_a_search_goes_on_from_its_folder(tmp_path: Path) -> None:
    first = fl.tune("linear", "iris", out=tmp_path / "run", **USUAL)
    same = fl.tune(resume=tmp_path / "run", quiet=True)
    fewer = fl.tune(resume=tmp_path / "run", trials=2, quiet=True)
    assert [t["value"] for t in first.trials] == [t["value"] for t in same.trials] == [t["value"] for t in fewer.trials]
    more = first.resume(9, quiet=True)
    assert len(more.trials) == 9
    assert len(fl.tune(resume=tmp_path / "run", quiet=True).trials) == 9


def test_a_second_process_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    """Asked from within the first one: the lock is that of the folder, whoever asks."""
    folder, seen = tmp_path / "run", []

    def stop() -> bool:
        if not seen:
            before = (folder / "run.json").read_bytes()
            with pytest.raises(FalllineError, match="held by another process"):
                fl.tune(resume=folder, trials=50, quiet=True)
            seen.append((folder / "run.json").read_bytes() == before)
        return False

    found = fl.tune("linear", "iris", out=folder, stop=stop, **USUAL)
    assert seen == [True]
    with pytest.raises(FalllineError, match="held by another process"), held(folder):
        found.resume(9, quiet=True)
    info = json.loads((folder / "run.json").read_text())
    assert (info["status"], info["config"]["trials"], len(info["result"]["trials"])) == ("finished", 6, 6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trials": 0}, "trials >= 1"),
        ({"space": {"lr": (0.1, 0.001)}}, "goes from low to high"),
        ({"space": {"optimizer": []}}, "at least one choice"),
        ({"space": {"optimizer": ["adm"]}}, "did you mean 'adam'"),
        ({"metric": "acuracy"}, "the metric is known"),
        ({"space": {"batch_size": [100000]}}, "batch_size"),
        ({"space": {"lr": [0.1]}, "lr": 0.2}, "given once"),
        ({"sampler": "grid", "space": {"lr": (1e-4, 1.0)}}, "the grid has at most"),
        ({"loss": ["cross_entropy", "wrong"]}, "no loss 'wrong'"),
        ({"track": "tensorboard"}, "no tracker"),
        ({"data": None}, "tune has data"),
        ({"make_model": "mpl:8"}, "mpl"),
        ({"make_model": []}, "at least one model"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(changes, words, tmp_path: Path) -> None:
    given = {"make_model": "linear", "data": "iris", **USUAL, "out": tmp_path / "run", **changes}
    with pytest.raises(FalllineError, match=words) as caught:
        fl.tune(**given)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    fl.tune("linear", "iris", out=tmp_path / "run", **USUAL)
    with pytest.raises(FalllineError, match="already holds a run"):
        fl.tune("linear", "iris", out=tmp_path / "run", **USUAL)
    with pytest.raises(FalllineError, match="other rows"):
        fl.tune(data=fl.data.load("wine"), resume=tmp_path / "run", quiet=True)
    with Writer(tmp_path / "study", kind="study") as other:
        other.describe(status="finished")
    with pytest.raises(FalllineError, match="a search can be resumed"):
        fl.tune(resume=tmp_path / "study")
    (tmp_path / "run" / "trials.db").write_bytes(b"x" * 5000)
    with pytest.raises(FalllineError, match=r"trials\.db"):
        fl.tune(resume=tmp_path / "run", quiet=True)


def test_without_optuna_one_sentence_says_what_to_install(monkeypatch) -> None:
    true_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "optuna":
            raise ImportError("No module named 'optuna'")
        return true_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FalllineError, match=re.escape("pip install 'fallline[tune]'")) as caught:
        fl.tune("linear", "iris", **USUAL)
    assert "\n" not in str(caught.value)


def test_train_line_leaves_out_what_is_usual() -> None:
    best = {"model": "mlp:8", "optimizer": "adam", "lr": 0.01, "batch_size": 32, "schedule": "constant", "dropout": 0.2, "loss": "auto"}
    assert train_line({"source": "iris", "scale": "zscore"}, best, Settings(epochs=10, lr=1.0)) == (
        "fallline train iris --model mlp:8 --optimizer adam --lr 0.01 --dropout 0.2"
    )
    line = train_line(
        {"source": "my houses.csv", "target": "price", "task": "regression", "scale": "minmax"}, best, Settings(lr=1.0, l2=0.1)
    )
    assert line.startswith("fallline train 'my houses.csv' --target price --task regression --scale minmax ")
    assert "--l2 0.1" in line
    assert train_line({}, best, Settings(lr=1.0)) == ""


# --- the page -------------------------------------------------------------------------------------------------------------------------


def test_the_page_shows_the_finalists_and_what_was_spent(made) -> None:
    page = made.report().read_text()
    assert made.command.replace("'", "&#39;") in page
    for row in made.table:
        assert f"trial {row['trial']}" in page
    assert f"{made.counts['finished']} finished, {made.counts['stopped']} stopped" in page
    assert "Traceback" not in page


def test_the_figures_are_the_trials() -> None:
    writer = Writer(None, kind="search")
    trials = [
        {"number": 0, "status": "finished", "value": 0.5, "epochs": 3, "factors": {"optimizer": "adam", "lr": 0.1, "momentum": 0.9}},
        {"number": 1, "status": "diverged", "value": None, "epochs": 0, "factors": {"optimizer": "sgd", "lr": 9.0}},
        {"number": 2, "status": "stopped", "value": 0.9, "epochs": 1, "factors": {"optimizer": "sgd", "lr": 0.2, "momentum": 0.99}},
        {"number": 3, "status": "finished", "value": 0.7, "epochs": 3, "factors": {"optimizer": "sgd", "lr": 0.3}},
    ]
    writer.info |= {"config": {"metric": "accuracy"}, "result": {"trials": trials, "expected": [0.4, 0.5], "importances": []}}
    reader = Reader(writer)
    grown = figures.history(reader)
    assert grown is not None
    assert (grown.lines[0].x, grown.lines[0].y) == ([1.0, 2.0, 3.0, 4.0], [0.5, 0.5, 0.5, 0.7])  # a stopped trial is never the best
    assert grown.lines[1].y == [0.4, 0.5]
    every = figures.every_trial(reader)
    assert every is not None
    assert [(g.name, g.x, g.y) for g in every.groups] == [("finished", [1.0, 4.0], [0.5, 0.7]), ("stopped early", [3.0], [0.9])]
    by = {f.name: f for f in figures.slices(reader)}
    assert {(g.name, *g.x) for g in by["by-lr"].groups} == {("adam", 0.1), ("sgd", 0.2, 0.3)}
    assert sorted(x for g in by["by-momentum"].groups for x in g.x) == pytest.approx([0.01, 0.1])
    assert {r.name: r.mean for r in by["by-optimizer"].rows} == {"adam": 0.5, "sgd": 0.7}


@pytest.mark.parametrize("result", [{}, {"trials": [], "table": []}, {"trials": [{}, 3], "table": [{"mean": None}], "importances": [{}]}])
def test_a_record_that_lacks_everything_still_has_a_page(result) -> None:
    writer = Writer(None, kind="search")
    writer.info |= {"config": {}, "result": result, "status": "interrupted"}
    page = report.tune_page(Reader(writer))
    assert "stopped by hand" in page


def test_names_from_the_data_are_escaped() -> None:
    evil = "<script>alert(1)</script>"
    writer = Writer(None, kind="search")
    trial = {"number": 0, "status": "finished", "value": 0.5, "epochs": 3, "model": evil, "factors": {"optimizer": evil, "lr": 0.1}}
    row = {"cell": evil, "trial": 0, "model": evil, "factors": trial["factors"], "mean": 0.5, "values": [0.5], "seeds": 1}
    writer.info |= {"config": {"metric": "accuracy"}, "data": {"name": evil}, "result": {"trials": [trial], "table": [row], "train": evil}}
    assert evil not in report.tune_page(Reader(writer))
    assert json.dumps(writer.info)
