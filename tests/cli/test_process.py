"""The command as a process: how it starts, how it is stopped, what it leaves behind."""

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import fallline
from fallline.cli.main import COMMANDS, main
from fallline.cli.place import has_record

HEAVY = ("torch", "numpy", "polars", "sklearn", "scipy", "numba", "matplotlib", "plotly")
PYTHON = (sys.executable, "-m", "fallline.cli.main")


@pytest.mark.parametrize("tokens", [["--help"], ["--version"], ["train", "--help"], ["compare", "--help"], ["train"], ["trian"]])
def test_starts_without_anything_heavy(tokens):
    code = f"""
import sys
from fallline.cli.main import main
main({tokens!r})
found = [name for name in {HEAVY!r} if name in sys.modules]
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_groups_the_commands_and_shows_an_example_of_each(shell):
    code, out, err = shell("--help")
    assert (code, err) == (0, "")
    for command in COMMANDS:
        assert command.purpose in out
        assert command.examples[0] in out
    for group in ("Train and use a model", "Choose", "Understand"):
        assert group in out


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_of_a_command_shows_its_examples(shell, command):
    code, out, err = shell(command.name, "--help")
    assert (code, err) == (0, "")
    for example in command.examples:
        assert example in out


def test_help_shows_defaults_and_ranges(shell):
    out = " ".join(shell("train", "--help")[1].replace("│", " ").split())
    for words in ("[default: mlp:128]", "[default: 32]", "[default: adam]", "lr > 0, or auto", "0 <= dropout < 1", "epochs >= 1"):
        assert words in out, words


def test_version(shell):
    assert shell("--version") == (0, f"{fallline.__version__}\n", "")


def test_defaults_are_those_of_fit():
    import inspect

    from fallline.api.fit import fit
    from fallline.cli.train import train
    from fallline.training import Settings

    api = {name: p.default for name, p in inspect.signature(fit).parameters.items()}
    api |= {name: p.default for name, p in inspect.signature(Settings).parameters.items()}
    here = {name: p.default for name, p in inspect.signature(train).parameters.items()}
    shared = here.keys() & api.keys() - {"data", "out", "quiet"}
    assert len(shared) > 15
    assert {name: here[name] for name in shared} == {name: api[name] for name in shared}


def test_ranges_are_those_of_settings(shell):
    """A number that the command line refuses is refused by `Settings` as well, in the same words."""
    from fallline.training import Settings

    for name, bad in [("lr", 0.0), ("clip_norm", 0.0), ("dropout", 1.0), ("l1", -1.0), ("l2", -1.0), ("weight_decay", -1.0), ("epochs", 0)]:
        sentence = shell.refused("train", "digits", f"--{name.replace('_', '-')}", bad)
        with pytest.raises(fallline.FalllineError) as refusal:
            Settings(**{name: bad})
        assert str(refusal.value).split(" must hold")[0] in sentence


# -- interruption ----------------------------------------------------------------------------------------------------------------------


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def begun(folder: Path) -> bool:
    return (folder / "checkpoint.safetensors").exists()


def same_weights(one: Path, other: Path) -> bool:
    """Bit for bit; the order of a file's description may differ."""
    from safetensors.torch import load_file

    here, there = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return here.keys() == there.keys() and all(here[name].equal(there[name]) for name in here)


def interrupt_once(ready):
    """Ctrl-C to this process as soon as `ready()`."""

    def press():
        wait_for(ready)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press, daemon=True)
    thread.start()
    return thread


LONG = ("--target", "spent", "--lr", "0.01", "--epochs", "60", "--batch-size", "4", "--model", "mlp:16", "--seed", "3")


def test_ctrl_c_saves_returns_130_and_resumes_bit_for_bit(shell, table):
    assert shell("train", table, *LONG, "--out", "whole", "--quiet")[0] == 0
    thread = interrupt_once(lambda: begun(shell.home / "run"))
    code, out, err = shell("train", table, *LONG, "--out", "run")
    thread.join()
    assert code == 130
    assert "--resume run" in err
    assert "Traceback" not in out + err
    assert json.loads((shell.home / "run" / "run.json").read_text())["status"] == "interrupted"
    code, out, err = shell("train", "--resume", "run", "--json")
    assert code == 0, err
    assert json.loads(out)["status"] == "finished"
    assert same_weights(shell.home / "run", shell.home / "whole")


def test_ctrl_c_in_a_comparison_keeps_what_is_whole(shell, table):
    tokens = ("--target", "spent", "--optimizers", "sgd,adam", "--lrs", "0.01", "--seeds", "40", "--epochs", "60", "--model", "mlp:16")
    thread = interrupt_once(lambda: has_record(shell.home / "study"))
    code, _, err = shell("compare", table, *tokens, "--out", "study", "--quiet")
    thread.join()
    assert code == 130
    assert "--resume study" in err
    code, out, err = shell("compare", "--resume", "study", "--json")
    assert code == 0, err
    assert {row["seeds"] for row in json.loads(out)["table"]} == {40}


def test_ctrl_c_before_the_training_leaves_nothing(shell, table, monkeypatch):
    import fallline.data

    def load(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fallline.data, "load", load)
    before = shell.files()
    code, _, err = shell("train", table, "--target", "spent")
    assert code == 130
    assert "nothing to save" in err
    assert shell.files() == before


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_can_be_resumed(shell, table, sent):
    assert shell("train", table, *LONG, "--out", "whole", "--quiet")[0] == 0
    process = subprocess.Popen([*PYTHON, "train", table, *LONG, "--out", "run"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: begun(shell.home / "run"))
    time.sleep(0.1)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    if process.returncode != 0:  # not finished before the signal came
        assert process.returncode == (130 if sent == signal.SIGINT else -signal.SIGKILL)
    code, _, err = shell("train", "--resume", "run", "--quiet")
    assert code == 0, err
    assert same_weights(shell.home / "run", shell.home / "whole")


def test_a_disk_that_fills_up_while_training_keeps_the_last_whole_checkpoint(shell, table, monkeypatch):
    real, count = os.replace, [0]

    def full(source, target, *more, **named):
        count[0] += "checkpoint" in str(target)
        if count[0] >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return real(source, target, *more, **named)

    monkeypatch.setattr(os, "replace", full)
    code, _, err = shell("train", table, *LONG, "--out", "run", "--quiet")
    assert code == 2
    assert err.count("\n") == 1
    assert "full" in err
    assert "--resume run" in err
    assert not [name for name in shell.files() if "checkpoint.safetensors-" in name]
    monkeypatch.undo()
    monkeypatch.chdir(shell.home)
    assert shell("train", "--resume", "run", "--quiet") == (0, "", "")


# -- the process around it -------------------------------------------------------------------------------------------------------------


def test_a_reader_that_leaves_is_no_error():
    process = subprocess.Popen(
        [*PYTHON, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() == 0
    process.stderr.close()


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (MemoryError(), "--batch-size"),
        (sqlite3.OperationalError("database or disk is full"), "full"),
        (PermissionError(errno.EACCES, "Permission denied", "houses.csv"), "houses.csv"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_the_machine_lacks_is_one_sentence(shell, table, monkeypatch, error, word):
    import fallline.data

    def load(*_, **__):
        raise error

    monkeypatch.setattr(fallline.data, "load", load)
    assert word in shell.refused("train", table, "--target", "spent")


def test_a_bug_keeps_its_traceback(shell, table, monkeypatch):
    import fallline.data

    def load(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(fallline.data, "load", load)
    before = shell.files()
    with pytest.raises(ZeroDivisionError):
        main(["train", table, "--target", "spent"])
    assert shell.files() == before


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_no_color_is_honoured(monkeypatch, no_color, coloured):
    from fallline.cli.terminal import colour

    class Terminal:
        def isatty(self):
            return True

    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    assert (colour("word", "31", Terminal()) != "word") is coloured


def test_warnings_are_one_line(shell, table, monkeypatch):
    import warnings

    import fallline.data

    real = fallline.data.load

    def load(*tokens, **named):
        warnings.warn("a thing worth knowing.", fallline.FalllineWarning, stacklevel=1)
        warnings.warn("an inner matter of another library", UserWarning, stacklevel=1)
        return real(*tokens, **named)

    monkeypatch.setattr(fallline.data, "load", load)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, _, err = shell("train", table, "--target", "spent", "--lr", "0.1", "--epochs", "1", "--model", "linear", "--quiet")
    assert (code, err) == (0, "warning: a thing worth knowing.\n")
