"""What each command prints, writes and returns."""

import json
from pathlib import Path

import polars as pl
import pytest

from tests.cli.conftest import people

FAST = ("--lr", "0.02", "--epochs", "3", "--model", "mlp:8")


@pytest.fixture
def run(shell, table):
    code, _, err = shell("train", table, "--target", "spent", "--out", "run", *FAST)
    assert code == 0, err
    return shell.home / "run"


# -- train -----------------------------------------------------------------------------------------------------------------------------


def test_train_says_what_it_did_and_what_to_do_next(shell, table):
    code, out, err = shell("train", table, "--target", "answer", "--out", "run", "--epochs", "2")
    assert code == 0, err
    for word in (
        "binary",
        "code",
        "identifier",
        "loss: binary_cross_entropy",
        "learning rate",
        "mlp:128",
        "adam",
        "ROC AUC",
        "validation",
        "test",
    ):
        assert word in out, word
    for line in ("fallline predict run DATA", "fallline report run", "fallline train --resume run --epochs 4"):
        assert line in out
    assert [line.split(":")[0] for line in err.splitlines()] == ["epoch 1/2", "epoch 2/2"]


def test_train_json_is_the_only_output(shell, table):
    code, out, err = shell("train", table, "--target", "answer", "--out", "run", "--json", *FAST)
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["status"] == "finished"
    assert told["folder"] == "run"
    assert 0 <= told["metrics"]["test"]["accuracy"] <= 1
    assert told["settings"]["epochs"] == 3


def test_quiet_prints_nothing(shell, table):
    assert shell("train", table, "--target", "answer", "--out", "run", "--quiet", *FAST) == (0, "", "")
    assert shell("report", "run", "--quiet") == (0, "", "")
    assert (shell.home / "run" / "report.html").stat().st_size > 1000


def test_the_folder_is_named_after_data_and_time(shell, table):
    for _ in range(2):
        assert shell("train", table, "--target", "answer", "--quiet", *FAST)[0] == 0
    first, second = sorted(path.name for path in (shell.home / "runs").iterdir())
    assert first.startswith("people-2")
    assert first != second


def test_options_reach_the_settings(shell, table):
    given = {
        "loss": "huber:delta=2",
        "optimizer": "rmsprop:alpha=0.9",
        "lr": 0.003,
        "batch_size": 16,
        "epochs": 2,
        "schedule": "cosine",
        "clip_norm": 0.5,
        "weight_decay": 0.01,
        "l1": 0.001,
        "l2": 0.002,
        "patience": 4,
        "seed": 7,
        "dropout": 0.25,
        "device": "cpu",
    }
    tokens = [part for key, value in given.items() for part in (f"--{key.replace('_', '-')}", value)]
    code, out, err = shell("train", table, "--target", "spent", "--out", "run", "--json", *tokens)
    assert code == 0, err
    assert {key: json.loads(out)["settings"][key] for key in given} == given


def test_class_weights_and_full_batches(shell, table):
    code, out, err = shell("train", table, "--target", "answer", "--class-weight", "no:1,yes:3", "--batch-size", "full", "--json", *FAST)
    assert code == 0, err
    assert json.loads(out)["settings"]["batch_size"] == "full"
    assert json.loads(out)["settings"]["class_weight"] == "no:1,yes:3"


def test_task_and_scale_can_be_overridden(shell, table):
    code, out, err = shell("train", table, "--target", "bought", "--task", "regression", "--scale", "minmax", *FAST)
    assert code == 0, err
    assert "regression" in out
    assert "0 to 1" in out


def test_a_run_that_diverged_returns_1_and_says_so(shell, table):
    code, out, _ = shell("train", table, "--target", "spent", "--optimizer", "sgd", "--lr", "1e6", "--epochs", "3", "--out", "run")
    assert code == 1
    assert "diverged" in out


def test_model_file(shell, table, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make(input_shape, outputs):\n    return nn.Linear(input_shape[0], outputs)\n"
    )
    code, _, err = shell("train", table, "--target", "spent", "--model", "net.py:make", "--lr", "0.1", "--epochs", "1", "--out", "run")
    assert code == 0, err
    assert shell("predict", "run", table)[0] == 0


def test_tensorboard_files_are_in_the_run_folder(shell, table):
    pytest.importorskip("tensorboard")
    code, _, err = shell("train", table, "--target", "spent", "--out", "run", "--track", "tensorboard", *FAST)
    assert code == 0, err
    assert list((shell.home / "run").rglob("events.out.tfevents*"))


def test_a_finished_run_resumes_to_the_same_numbers(shell, run):
    weights = (run / "model.safetensors").read_bytes()
    code, out, err = shell("train", "--resume", "run", "--json")
    assert code == 0, err
    assert json.loads(out)["status"] == "finished"
    assert (run / "model.safetensors").read_bytes() == weights


def test_a_finished_run_can_be_given_more_epochs_and_nothing_else(shell, run, table):
    code, out, err = shell("train", "--resume", "run", "--epochs", "5", "--json")
    assert code == 0, err
    assert json.loads(out)["settings"]["epochs"] == 5
    assert shell("train", table, "--target", "spent", "--out", "whole", *FAST, "--epochs=5")[0] == 2  # given twice
    longer = [token if token != "3" else "5" for token in FAST]
    assert shell("train", table, "--target", "spent", "--out", "whole", "--json", *longer)[0] == 0
    here, there = (json.loads((shell.home / name / "run.json").read_text())["result"]["metrics"] for name in ("run", "whole"))
    assert here == there
    sentence = shell.refused("train", "--resume", "run", "--lr", "0.5", "--model=cnn")
    assert "--lr, --model" in sentence


# -- predict ---------------------------------------------------------------------------------------------------------------------------


def test_predict_numbers_with_intervals_beside_identifiers(shell, run, write):
    rows = people(9, seed=5)
    code, out, err = shell("predict", "run", write("new.csv", [{k: v for k, v in row.items() if k != "spent"} for row in rows]))
    assert code == 0, err
    frame = pl.read_csv(out.encode())
    assert frame.columns == ["code", "spent", "low", "high"]
    assert frame["code"].to_list() == [row["code"] for row in rows]
    assert (frame["low"] < frame["high"]).all()


def test_predict_classes_with_probabilities(shell, table):
    assert shell("train", table, "--target", "answer", "--out", "run", *FAST)[0] == 0
    code, out, err = shell("predict", "run", table)
    assert code == 0, err
    frame = pl.read_csv(out.encode())
    assert frame.columns == ["code", "answer", "probability_no", "probability_yes"]
    assert (frame["probability_no"] + frame["probability_yes"] - 1).abs().max() < 1e-6
    assert ((frame["probability_yes"] > 0.5) == (frame["answer"] == "yes")).all()


@pytest.mark.parametrize("name", ["p.csv", "p.parquet", "p.json"])
def test_predict_writes_by_suffix(shell, run, table, name):
    code, out, err = shell("predict", "run", table, "--out", name)
    assert code == 0, err
    assert "120" in out
    read = {".csv": pl.read_csv, ".parquet": pl.read_parquet, ".json": pl.read_json}[Path(name).suffix](shell.home / name)
    assert read.shape == (120, 4)
    printed = pl.read_csv(shell("predict", "run", table)[1].encode())
    assert (read["spent"] - printed["spent"]).abs().max() < 1e-9


def test_predict_json(shell, run, table):
    code, out, _ = shell("predict", "run", table, "--json")
    assert code == 0
    assert json.loads(out)["rows"] == 120
    code, out, _ = shell("predict", "run", table, "--json", "--out", "p.csv")
    assert json.loads(out) == {"rows": 120, "columns": ["code", "spent", "low", "high"], "out": "p.csv"}


# -- report, lr, compare, explain ------------------------------------------------------------------------------------------------------


def test_report_of_a_run_and_elsewhere(shell, run):
    code, out, _ = shell("report", "run")
    assert (code, out) == (0, "report: run/report.html\n")
    code, out, _ = shell("report", "run", "--out", "page.html", "--json")
    assert json.loads(out) == {"report": "page.html"}
    assert (shell.home / "page.html").read_text() == (run / "report.html").read_text()


def test_lr_finds_a_range(shell, table):
    code, out, err = shell("lr", table, "--target", "spent", "--model", "linear", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["useful"][0] <= found["suggested"] <= found["useful"][1]
    assert len(found["lrs"]) == len(found["losses"])


def test_compare_ranks_writes_a_page_and_resumes(shell, table):
    tokens = ("--target", "answer", "--optimizers", "sgd,adam", "--lrs", "0.05", "--seeds", "2", "--epochs", "2", "--model", "linear")
    code, out, err = shell("compare", table, *tokens, "--out", "study", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert {row["optimizer"] for row in told["table"]} == {"sgd", "adam"}
    assert {row["seeds"] for row in told["table"]} == {2}
    assert {row["lr"] for row in told["table"]} == {0.05}
    assert (shell.home / told["report"]).stat().st_size > 1000
    code, out, err = shell("compare", "--resume", "study")
    assert code == 0, err
    assert "report: study/report.html" in out


COMPARE = ("--target", "answer", "--optimizers", "sgd,adam", "--seeds", "2", "--model", "linear")


def test_a_comparison_without_a_rank_returns_1(shell, table):
    code, _, err = shell("compare", table, *COMPARE, "--lrs", "1e30,1e31", "--epochs", "1")
    assert code == 1, err


def test_a_comparison_whose_time_is_over_keeps_what_it_has_and_goes_on(shell, table, monkeypatch):
    """Before anything is whole, and when it is resumed."""
    over = [True]
    monkeypatch.setattr("fallline.study.budget.Clock.over", property(lambda self: over[0]))
    code, out, err = shell("compare", table, *COMPARE, "--lrs", "0.05", "--epochs", "2", "--budget", "1h", "--out", "study", "--json")
    assert code == 1
    assert "the budget was spent before the end" in err
    assert json.loads(out)["status"] == "out of time"
    assert json.loads((shell.home / "study" / "run.json").read_text())["status"] == "out of time"
    code, out, err = shell("compare", "--resume", "study", "--json")
    assert (code, json.loads(out)["status"]) == (1, "out of time")
    over[0] = False
    code, out, err = shell("compare", "--resume", "study", "--json")
    assert (code, json.loads(out)["status"]) == (0, "finished"), err


def test_another_data_set_is_not_taken_for_that_of_the_study(shell):
    tokens = ("--optimizers", "sgd,adam", "--lrs", "0.05", "--seeds", "1", "--epochs", "1", "--model", "linear", "--scale", "minmax")
    assert shell("compare", "iris", *tokens, "--out", "study")[0] == 0
    assert "cannot take its place" in shell.refused("compare", "wine", "--resume", "study")
    code, _, err = shell("compare", "iris", "--resume", "study")
    assert code == 0, err


def test_compare_batch_sizes_and_lists(shell, table):
    tokens = ("--target", "answer", "--optimizers", "rmsprop:alpha=0.9,like=keras", "--lrs", "0.05,0.01", "--batch-sizes", "16,full")
    code, out, err = shell("compare", table, *tokens, "--seeds", "3,4", "--epochs", "1", "--model", "linear", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert {row["optimizer"] for row in told["table"]} == {"rmsprop:alpha=0.9,like=keras"}
    assert {row["batch_size"] for row in told["table"]} == {16, "full"}
    assert {row["lr"] for row in told["table"]} <= {0.01 * 5**i for i in range(-3, 1)} | {0.05, 0.25, 1.25, 6.25}  # grown at its edge


def test_explain(shell):
    code, out, _ = shell("explain", "huber")
    assert code == 0
    assert "Huber" in out
    code, out, _ = shell("explain", "huber", "--json")
    assert json.loads(out)["name"] == "huber"
    code, out, _ = shell("explain")
    for name in ("huber", "rmsprop", "cosine", "relu"):
        assert name in out
    code, out, _ = shell("explain", "adam", "--plot", "adam.png", "--html", "adam.html")
    assert code == 0
    assert (shell.home / "adam.png").read_bytes()[:4] == b"\x89PNG"
    assert "Adam" in (shell.home / "adam.html").read_text()
