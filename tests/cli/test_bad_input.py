"""Each kind of bad input: one sentence, exit code 2, no traceback, nothing half-written."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import people

FAST = ("--lr", "0.01", "--epochs", "1", "--model", "linear")


def without(rows, *names):
    return [{key: value for key, value in row.items() if key not in names} for row in rows]


def replaced(rows, name, values):
    return [{**row, name: values(index, row)} for index, row in enumerate(rows)]


# -- the command line itself -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["trian"], ["trian", "train"]),
        (["train", "digits", "--epoch", "3"], ["--epoch", "--epochs"]),
        (["train", "digits", "--epochs"], ["--epochs"]),
        (["train", "digits", "extra"], ["extra"]),
        (["train"], ["nothing to train on"]),
        (["predict"], ["RUN"]),
        (["compare"], ["nothing to compare"]),
        (["train", "digits", "--lr", "fast"], ["lr > 0", "fast"]),
        (["train", "digits", "--lr", "0"], ["lr > 0"]),
        (["train", "digits", "--lr", "-0.1"], ["lr > 0", "-0.1"]),
        (["train", "digits", "--lr", "nan"], ["lr > 0", "nan"]),
        (["train", "digits", "--lr", "inf"], ["lr > 0", "inf"]),
        (["train", "digits", "--epochs", "0"], ["epochs >= 1"]),
        (["train", "digits", "--epochs", "2.5"], ["epochs >= 1", "2.5"]),
        (["train", "digits", "--batch-size", "0"], ["batch_size >= 1"]),
        (["train", "digits", "--batch-size", "half"], ["batch_size", "half", "full"]),
        (["train", "digits", "--dropout", "1"], ["0 <= dropout < 1"]),
        (["train", "digits", "--clip-norm", "0"], ["clip_norm > 0"]),
        (["train", "digits", "--weight-decay", "-1"], ["weight_decay >= 0"]),
        (["train", "digits", "--l1", "-1"], ["l1 >= 0"]),
        (["train", "digits", "--l2", "-1"], ["l2 >= 0"]),
        (["train", "digits", "--patience", "0"], ["patience >= 1"]),
        (["train", "digits", "--seed", "-1"], ["seed >= 0"]),
        (["train", "digits", "--task", "ranking"], ["ranking", "regression"]),
        (["train", "digits", "--scale", "log"], ["log", "zscore"]),
        (["train", "digits", "--track", "wandb"], ["wandb", "tensorboard"]),
        (["train", "digits", "--device", "abacus", *FAST], ["abacus"]),
        (["train", "digits", "--lr", "0.1", "--lr", "0.2"], ["--lr"]),
        (["compare", "digits", "--optimizers", ""], ["optimizers"]),
        (["compare", "digits", "--seeds", "0"], ["seeds"]),
        (["compare", "digits", "--seeds", "a,b"], ["seeds"]),
        (["compare", "digits", "--lrs", "0.1,x"], ["lrs", "x"]),
        (["compare", "digits", "--batch-sizes", "32,-1"], ["batch_sizes", "-1"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_use_is_one_sentence(shell, tokens, words):
    sentence = shell.refused(*tokens)
    for word in words:
        assert word in sentence


# -- data ------------------------------------------------------------------------------------------------------------------------------


def test_no_such_file(shell):
    assert "houses.csv" in shell.refused("train", "houses.csv", "--target", "price")


def test_no_such_named_set_offers_the_nearest(shell):
    assert "digits" in shell.refused("train", "digit")


def test_no_such_column_offers_the_nearest(shell, table):
    sentence = shell.refused("train", table, "--target", "spend")
    assert "spend" in sentence
    assert "spent" in sentence


def test_no_target_given(shell, table):
    assert "--target" in shell.refused("train", table) or "target" in shell.refused("train", table)


@pytest.mark.parametrize("text", ["", "age,income,spent\n", "\n"], ids=["no bytes", "header only", "blank line"])
def test_empty_table(shell, tmp_path, text):
    (tmp_path / "empty.csv").write_text(text)
    shell.refused("train", "empty.csv", "--target", "spent")


def test_one_row_table(shell, write):
    assert "1" in shell.refused("train", write("one.csv", people(1)), "--target", "spent")


def test_not_a_table(shell, tmp_path):
    (tmp_path / "noise.parquet").write_bytes(os.urandom(200))
    assert "noise.parquet" in shell.refused("train", "noise.parquet", "--target", "x")
    (tmp_path / "noise.npz").write_bytes(os.urandom(200))
    assert "noise.npz" in shell.refused("train", "noise.npz")


@pytest.mark.parametrize("target", ["spent", "answer"])
def test_constant_target(shell, write, target):
    rows = replaced(people(40), target, lambda i, row: people(1)[0][target])
    assert target in shell.refused("train", write("constant.csv", rows), "--target", target)


def test_target_all_missing(shell, write):
    assert "spent" in shell.refused("train", write("gone.csv", replaced(people(40), "spent", lambda i, row: "")), "--target", "spent")


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_target_not_finite(shell, write, bad):
    rows = replaced(people(40), "spent", lambda i, row: bad if i == 7 else row["spent"])
    assert "spent" in shell.refused("train", write("holes.csv", rows), "--target", "spent")


def test_text_target_that_is_an_identifier(shell, write):
    assert "code" in shell.refused("train", write("ids.csv", people(40)), "--target", "code")


# -- what fits what --------------------------------------------------------------------------------------------------------------------


def test_labels_0_and_1_to_a_signed_loss(shell, table):
    sentence = shell.refused("train", table, "--target", "bought", "--loss", "hinge", *FAST)
    assert "--signed-labels" in sentence
    code, _, err = shell("train", table, "--target", "bought", "--loss", "hinge", "--signed-labels", *FAST)
    assert code == 0, err


def test_classification_loss_on_numbers_says_which_to_use(shell, table):
    sentence = shell.refused("train", table, "--target", "spent", "--loss", "cross_entropy", *FAST)
    assert "mse" in sentence


def test_regression_loss_on_classes_says_which_to_use(shell, table):
    sentence = shell.refused("train", table, "--target", "answer", "--loss", "mse", *FAST)
    assert "binary_cross_entropy" in sentence


def test_batch_size_above_the_rows(shell, table):
    sentence = shell.refused("train", table, "--target", "spent", "--batch-size", "1000", "--lr", "0.1")
    assert "1000" in sentence
    assert "full" in sentence


@pytest.mark.parametrize(
    ("option", "value", "near"),
    [
        ("--optimizer", "adma", "adam"),
        ("--loss", "hubr", "huber"),
        ("--model", "mpl:3", "mlp"),
        ("--schedule", "cosin", "cosine"),
        ("--optimizer", "rmsprop:alhpa=0.9", "alpha"),
        ("--class-weight", "balance", "balanced"),
        ("--class-weight", "maybe:2", "yes"),
    ],
)
def test_unknown_name_offers_the_nearest(shell, table, option, value, near):
    assert near in shell.refused("train", table, "--target", "answer", "--lr", "0.01", "--epochs", "1", option, value)


def test_augment_is_refused_for_tables(shell, table):
    assert "picture" in shell.refused("train", table, "--target", "answer", "--augment", "flip", *FAST)


@pytest.mark.parametrize("command", ["compare", "lr"])
@pytest.mark.parametrize(
    ("tokens", "word"),
    [
        (["nowhere.csv"], "nowhere.csv"),
        (["people.csv", "--target", "spend"], "spent"),
        (["people.csv", "--target", "spent", "--loss", "cross_entropy"], "mse"),
        (["people.csv", "--target", "bought", "--loss", "hinge"], "--signed-labels"),
        (["people.csv", "--target", "spent", "--model", "mpl:3"], "mlp"),
        (["people.csv", "--target", "spent", "--class-weight", "balanced"], "class_weight"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_other_commands_refuse_alike(shell, table, command, tokens, word):
    assert word in shell.refused(command, *tokens)


@pytest.mark.parametrize(
    ("tokens", "word"),
    [
        (["--optimizers", "sgd,adma"], "adam"),
        (["--batch-sizes", "16,1000"], "1000"),
        (["--metric", "speed"], "accuracy"),
        (["--goal", "high"], "high"),
        (["--seeds=--5"], "seeds >= 1"),
        (["--seeds=\N{SUPERSCRIPT TWO}"], "seeds >= 1"),
        (["--batch-sizes=16,\N{SUPERSCRIPT TWO}"], "batch_sizes >= 1"),
        (["--losses", "auto,focal"], "each of losses is named"),
        (["--schedule", "cosin"], "cosine"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_comparison_that_makes_no_sense(shell, table, tokens, word):
    assert word in shell.refused("compare", table, "--target", "answer", "--lrs", "0.1", "--epochs", "1", "--model", "linear", *tokens)


# -- a model file ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def make(input_shape, outputs):\n    raise KeyError('oops')\n", ["KeyError", "oops"]),
        ("import nowhere_to_be_found\n", ["nowhere_to_be_found"]),
        ("def make(:\n", ["net.py"]),
        ("def other():\n    pass\n", ["make"]),
        ("def make():\n    return 3\n", ["int"]),
        ("from torch import nn\ndef make(input_shape, outputs):\n    return nn.Linear(input_shape[0], 7)\n", ["7", "1"]),
        ("from torch import nn\ndef make(input_shape, outputs):\n    return nn.Linear(3000, outputs)\n", ["3000"]),
    ],
    ids=["raises", "imports nothing", "syntax", "no such function", "no module", "wrong width", "wrong input"],
)
def test_broken_model_file(shell, table, tmp_path, code, words):
    (tmp_path / "net.py").write_text(code)
    sentence = shell.refused("train", table, "--target", "spent", "--model", "net.py:make", "--lr", "0.01")
    for word in words:
        assert word in sentence


def test_no_such_model_file(shell, table):
    assert "gone.py" in shell.refused("train", table, "--target", "spent", "--model", "gone.py:make", "--lr", "0.01")


# -- the output folder -----------------------------------------------------------------------------------------------------------------


def test_out_below_a_file(shell, table, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "file" in shell.refused("train", table, "--target", "spent", "--out", "file/run", *FAST)
    assert (tmp_path / "file").read_text() == "in the way"


def test_out_that_is_not_empty(shell, table, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    assert "mine" in shell.refused("train", table, "--target", "spent", "--out", "mine", *FAST)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that nobody can write to")
def test_read_only_folder(shell, table):
    assert "/proc/run" in shell.refused("train", table, "--target", "spent", "--out", "/proc/run", *FAST)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_full_disk(shell, table, monkeypatch, code):
    real = os.replace

    def full(source, target, *more, **named):
        if "people" in str(target) or "run" in str(target):
            raise OSError(code, os.strerror(code), str(target))
        return real(source, target, *more, **named)

    monkeypatch.setattr(os, "replace", full)
    sentence = shell.refused("train", table, "--target", "spent", "--out", "run", *FAST)
    assert "full" in sentence or "read-only" in sentence or "quota" in sentence


# -- a run that cannot be used ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(shell, table):
    code, _, err = shell("train", table, "--target", "spent", "--out", "run", *FAST)
    assert code == 0, err
    return shell.home / "run"


def interrupted(run: Path, change) -> None:
    """The run as if it had been killed, with its checkpoint changed."""
    import json

    info = json.loads((run / "run.json").read_text())
    info["status"] = "running"
    (run / "run.json").write_text(json.dumps(info))
    change(run / "checkpoint.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_checkpoint(shell, run, share):
    interrupted(run, lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)]))
    assert "checkpoint" in shell.refused("train", "--resume", "run")


def test_foreign_checkpoint(shell, run):
    import torch
    from safetensors.torch import save_file

    interrupted(run, lambda path: save_file({"weight": torch.zeros(3)}, path))
    assert "checkpoint" in shell.refused("train", "--resume", "run")


def test_checkpoint_of_another_run(shell, run, table):
    code, _, err = shell("train", table, "--target", "spent", "--out", "other", "--lr", "0.01", "--epochs", "1", "--model", "mlp:5")
    assert code == 0, err
    interrupted(run, lambda path: shutil.copy(shell.home / "other" / "checkpoint.safetensors", path))
    assert "checkpoint" in shell.refused("train", "--resume", "run")


@pytest.mark.parametrize("command", [["train", "--resume", "nowhere"], ["report", "nowhere"], ["predict", "nowhere", "people.csv"]])
def test_no_such_run(shell, table, command):
    assert "nowhere" in shell.refused(*command)


def test_a_folder_that_is_no_run(shell, table, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "run.json").write_text("{]")
    for command in (["train", "--resume", "folder"], ["report", "folder"], ["predict", "folder", table]):
        shell.refused(*command)


def test_predict_without_a_column(shell, run, write):
    assert "income" in shell.refused("predict", "run", write("new.csv", without(people(5), "income")))


def test_predict_into_an_unknown_kind_of_file(shell, run, table):
    assert ".csv" in shell.refused("predict", "run", table, "--out", "predictions.docx")


def test_predict_an_empty_file(shell, run, tmp_path):
    (tmp_path / "none.csv").write_text("")
    assert "none.csv" in shell.refused("predict", "run", "none.csv")


def test_explain_offers_the_nearest(shell):
    assert "huber" in shell.refused("explain", "hubr")
