"""`fallline tune`: its lists and ranges, its JSON, resuming, and what it refuses."""

import json

import pytest
import torch

from fallline.cli.tune import _models, span

pytest.importorskip("optuna")
QUICK = ("--trials", 4, "--epochs", 2, "--batch", 4, "--best", 1, "--seeds", 2, "--models", "linear")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_ranges_and_lists_are_read() -> None:
    assert span("lrs", "1e-4..1e-1") == (1e-4, 0.1)
    assert span("lrs", "0.1, 0.01") == [0.1, 0.01]
    assert span("dropout", "none") == ()
    assert _models("mlp:64,mlp:256,128,cnn") == ["mlp:64", "mlp:256,128", "cnn"]


def test_tunes_prints_the_best_and_how_to_train_it(shell) -> None:
    code, out, err = shell("tune", "iris", *QUICK, "--optimizers", "adam,momentum", "--lrs", "1e-3..0.5", "--out", "run")
    assert (code, err) == (0, "")
    assert "train the first: fallline train iris --model linear --optimizer" in out
    assert "fresh seeds" in out
    assert "report: run/report.html" in out
    assert {"run/trials.db", "run/record.sqlite", "run/run.json", "run/report.html"} <= shell.files()
    again, out, _ = shell("tune", "--resume", "run", "--trials", 6, "--json")
    told = json.loads(out)
    assert again == 0
    assert len(told["trials"]) == 6
    assert told["best"]["model"] == "linear"
    assert told["command"].startswith("fallline train iris")
    assert all(1e-3 <= t["settings"]["lr"] <= 0.5 for t in told["trials"])
    assert shell("report", "run", "--out", "page.html")[0] == 0


def test_what_is_not_searched_is_left_out(shell) -> None:
    words = ("--own", "none", "--weight-decay", "none", "--dropout", "none", "--schedules", "cosine", "--batch-sizes", "16,full")
    code, out, _ = shell("tune", "iris", *QUICK, *words, "--json")
    assert code == 0
    told = json.loads(out)
    for trial in told["trials"]:
        assert set(trial["factors"]) == {"model", "optimizer", "lr", "batch_size", "schedule", "loss"}
        assert trial["settings"]["schedule"] == "cosine"
        assert trial["settings"]["batch_size"] in (16, "full")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ((), "nothing to search on"),
        (("iris", "--trials", "0"), "trials >= 1"),
        (("iris", "--lrs", "0.1..0.001"), "goes from low to high"),
        (("iris", "--lrs", "0..0.1"), "lr > 0"),
        (("iris", "--lrs", "low..high"), "1e-4..1e-1 is an example"),
        (("iris", "--optimizers", "adm"), "did you mean 'adam'"),
        (("iris", "--optimizers", ","), "optimizers is a list"),
        (("iris", "--metric", "acc"), "the metric is known"),
        (("iris", "--sampler", "cmaes"), "there is no sampler 'cmaes'"),
        (("iris", "--own", "mom"), "each of own is one of"),
        (("--resume", "nowhere"), "does not exist"),
        (("--resume", "nowhere", "--epochs", "3"), "keeps its own settings"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(shell, tokens, words) -> None:
    assert words in shell.refused("tune", *tokens)
