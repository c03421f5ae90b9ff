"""Losses by name on the command line: embeddings, class vectors, a border, mistyped names, pictures."""

import json

import pytest

from tests.cli.conftest import people


@pytest.fixture
def table(write):
    return write("people.csv", people(200))


def train(shell, table, loss, *more):
    return shell("train", table, "--target", "answer", "--out", "run", "--loss", loss, "--lr", "0.01", "--epochs", "8", "--json", *more)


@pytest.mark.parametrize("loss", ["triplet:margin=0.5,mining=batch_hard", "sup_con", "pairwise_auc", "tversky:beta=0.7", "focal:gamma=1"])
def test_a_run_is_trained_reported_resumed_and_predicts(shell, table, loss):
    wide = ("--embedding", "6") if loss.startswith(("triplet", "sup")) else ()
    code, out, err = train(shell, table, loss, *wide)
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["settings"]["loss"] == loss
    assert told["metrics"]["test"]["accuracy"] > 0.75
    assert shell("report", "run", "--quiet") == (0, "", "")
    assert loss.partition(":")[0] in (shell.home / "run" / "report.html").read_text()
    code, out, err = shell("predict", "run", table, "--json")
    assert code == 0, err
    first = json.loads(out)["predictions"][0]
    assert ("score" in first) == (loss == "pairwise_auc")
    code, out, err = shell("train", "--resume", "run", "--epochs", "9", "--json")
    assert code == 0, err
    assert json.loads(out)["metrics"]["test"]["accuracy"] > 0.75


def test_the_width_is_said(shell, table):
    code, out, _ = shell("train", table, "--target", "answer", "--out", "run", "--loss", "contrastive", "--lr", "0.01", "--epochs", "1")
    assert code == 0
    assert "an embedding of 64 numbers (embedding=64), read by the nearest class mean" in out


@pytest.mark.parametrize("command", ["train", "compare", "lr"])
@pytest.mark.parametrize(
    ("option", "spec", "words"),
    [
        ("--loss", "tripplet", "did you mean 'triplet'"),
        ("--loss", "triplet:margn=1", "did you mean 'margin'"),
        ("--loss", "triplet:margin=-1", "`margin > 0` must hold"),
        ("--loss", "triplet:mining=hard", "mining is one of all, batch_hard"),
        ("--loss", "multi_task", "use fl.losses.MultiTask"),
        ("--optimizer", "adma", "did you mean 'ada"),
    ],
)
def test_mistyped_names_are_refused_before_the_data_is_read(shell, command, option, spec, words):
    if (command, option) == ("compare", "--optimizer"):
        option = "--optimizers"
    assert words in shell.refused(command, "there_is_no_such_file.csv", option, spec)


def test_losses_that_need_another_target_say_so(shell, table):
    for loss, needs in (("sig_lip", "two embeddings for each example"), ("cosine_similarity", "a vector for each example")):
        assert needs in shell.refused("train", table, "--target", "answer", "--loss", loss)
    assert "is for multiclass targets" in shell.refused("train", table, "--target", "answer", "--loss", "coral")
    assert "embedding is left out" in shell.refused("train", table, "--target", "answer", "--embedding", "8")


def test_plot_without_a_file_draws_by_the_name(shell):
    code, out, _ = shell("explain", "huber", "--plot")
    assert code == 0
    assert "Drawn into huber.png" in out
    assert (shell.home / "huber.png").read_bytes()[:4] == b"\x89PNG"
    assert shell("explain", "nt_xent", "--plot", "pairs.svg")[0] == 0
    assert (shell.home / "pairs.svg").is_file()


def test_mining_is_listed_and_told(shell):
    code, out, _ = shell("explain", "mining")
    assert code == 0
    assert "batch_hard" in out
    assert "cross_batch_memory" in out
    assert "Hermans" in shell("explain", "batch_hard")[1]
