"""`fallline table`: words, JSON, folder and page, how it goes on, and one sentence for wrong use."""

import json
from itertools import chain

import pytest

from fallline.data.sources.place import VARIABLE

OPTIONS = {"--model": "mlp:8", "--batch-sizes": "16,full", "--epochs": "1,2", "--seeds": "2", "--lr": "0.01"}
QUICK = ("table", "iris", *chain(*OPTIONS.items()))


def test_the_table_is_told_and_kept(shell):
    code, out, err = shell(*QUICK, "--out", "t")
    assert (code, err) == (0, "")
    assert "iris: multiclass" in out
    assert "1 epoch [95 %]" in out
    assert "full" in out
    assert "After 1 epoch: " in out
    assert "report: t/report.html" in out
    assert (shell.home / "t" / "report.html").stat().st_size > 10_000
    code, out, _ = shell("report", "t", "--out", "again.html")
    assert code == 0
    assert (shell.home / "again.html").read_text() == (shell.home / "t" / "report.html").read_text()


def test_json_is_alone_on_standard_output_and_repeats_are_merged(shell):
    repeated = {**OPTIONS, "--epochs": "2,1,2", "--seeds": "0,1"}
    code, out, err = shell("table", "iris", *chain(*repeated.items()), "--out", "t", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert [(c["batch_size"], c["epochs"]) for c in told["cells"]] == [(16, 1), (16, 2), ("full", 1), ("full", 2)]
    assert len(told["differences"]) == 2
    assert told["status"] == "finished"
    assert any("number of epochs 2 was asked for more than once" in note for note in told["notes"])


def test_quiet_says_nothing_and_a_whole_table_can_be_resumed(shell):
    assert shell(*QUICK, "--out", "t", "--quiet") == (0, "", "")
    code, out, _ = shell("table", "--resume", "t", "--json")
    assert code == 0
    assert json.loads(out)["status"] == "finished"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("--batch-sizes", ","), "batch_sizes is a list"),
        (("--batch-sizes", "16,0"), "batch_sizes >= 1"),
        (("--batch-sizes", "16,many"), "batch_sizes >= 1"),
        (("--batch-sizes", "16,4000"), "batch_size <="),
        (("--epochs", "0"), "epochs >= 1"),
        (("--epochs", ""), "epochs is a list"),
        (("--epochs", "2.5"), "epochs >= 1"),
        (("--seeds", "0"), "seeds >= 1"),
        (("--lr", "0"), "lr > 0"),
        (("--lr", "auto"), "lr > 0"),
        (("--metric", "acuracy"), "did you mean 'accuracy'"),
        (("--optimizer", "rmsprob"), "did you mean 'rmsprop'"),
        (("--loss", "mse"), "multiclass"),
    ],
)
def test_wrong_use_is_one_sentence_and_leaves_nothing(shell, changed, words):
    assert words in shell.refused("table", "iris", *chain(*{**OPTIONS, changed[0]: changed[1]}.items()))


def test_unknown_data_and_none(shell, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert "did you mean 'iris'" in shell.refused("table", "iriss")
    assert "nothing to make a table of" in shell.refused("table")


def test_a_resumed_table_keeps_its_own_settings(shell):
    assert "leave out --lr" in shell.refused("table", "--resume", "t", "--lr", "0.1")
    assert "does not exist" in shell.refused("table", "--resume", "t")
