"""`fl.table`: from data to cells, page and record; stopped, killed and resumed it gives the same table."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fallline as fl
from fallline._core.errors import FalllineError
from fallline.data import load
from fallline.record import Reader, read_info

SMALL = {"batch_sizes": [16, "full"], "epochs": [1, 3], "seeds": 3, "lr": 0.01, "quiet": True}


def values(table) -> dict:
    return {(c["batch_size"], c["epochs"]): c["values"] for c in table.cells}


def test_a_small_table(tmp_path):
    table = fl.table("iris", "mlp:8", out=tmp_path / "t", **SMALL)
    assert table.status == "finished"
    assert [(c["batch_size"], c["epochs"]) for c in table.cells] == [(16, 1), (16, 3), ("full", 1), ("full", 3)]
    assert len(table.members) == 6
    assert len(table.data.validation) == 0
    assert len(table.data.train) + len(table.data.test) == 150
    assert float(table.data.train.x.min()) == 0.0  # scaled to 0..1
    assert float(table.data.train.x.max()) == 1.0
    assert table.cell("full", 3) is table.cells[3]
    assert table.headline in table.text()
    assert all(c["published"] is None for c in table.cells)
    assert "published" not in table.text()
    info = read_info(tmp_path / "t")
    assert (info["kind"], info["status"]) == ("table", "finished")
    assert info["result"]["cells"] == json.loads(json.dumps(table.cells))
    assert info["result"]["headline"] == table.headline
    assert "fl.table" in info["python"]
    assert set(Reader(tmp_path / "t").runs()) == {m.run for m in table.members}
    page = table.report()
    assert page == tmp_path / "t" / "report.html"
    assert "Batch size against epochs on iris" in page.read_text()
    with pytest.raises(FalllineError, match="there is no cell '16 at 2'"):
        table.cell(16, 2)


def test_validation_rows_of_the_data_stand_aside_and_that_is_said():
    table = fl.table(load("iris"), "linear", **{**SMALL, "seeds": 1})
    assert any("22 validation rows of the data stand aside" in note for note in table.notes)


def test_a_function_or_a_number_to_predict_will_do(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 3)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5], dtype=np.float32)
    made = {"out": tmp_path / "t", "metric": "rmse", "loss": "huber", "optimizer": "adam"}
    table = fl.table((x, y), lambda input_shape, outputs: nn.Linear(input_shape[0], outputs), **made, **SMALL)
    assert table.cells[0]["metric"] == "rmse"
    assert table.cell(16, 3)["mean"] < table.cell(16, 1)["mean"]
    with pytest.raises(FalllineError, match="pass the same again: model="):
        fl.table(resume=tmp_path / "t")


def test_a_model_that_cannot_be_stacked_is_trained_one_by_one_with_the_reason():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.one(x) if float(x.sum()) > 0 else self.two(x)

    table = fl.table("iris", Odd, **{**SMALL, "seeds": 2})
    assert table.status == "finished"
    assert any("were run one by one" in note for note in table.notes)
    assert all(c["n"] == 2 for c in table.cells)


def test_a_table_that_is_stopped_goes_on(tmp_path):
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 12

    stopped = fl.table("iris", "mlp:8", out=tmp_path / "t", stop=stop, **SMALL)
    assert stopped.status == read_info(tmp_path / "t")["status"] == "interrupted"
    assert 0 <= len(stopped.members) < 6
    again = fl.table(resume=tmp_path / "t", quiet=True)
    assert again.status == "finished"
    assert values(again) == values(fl.table("iris", "mlp:8", **SMALL))
    kept = {m.run: m.seconds for m in again.members}
    assert all(kept[m.run] == m.seconds for m in stopped.members)  # what was whole was read, not trained again


SCRIPT = """
import sys
import torch
import fallline as fl
torch.set_num_threads(1)
options = {"batch_sizes": [32, 48, 64, 96, 128, "full"], "epochs": [2, 12], "seeds": 2, "lr": 0.01}
fl.table(*(["digits", "mlp:16"] if sys.argv[2] == "new" else []), quiet=True, **(options if sys.argv[2] == "new" else {}),
         **{"out" if sys.argv[2] == "new" else "resume": sys.argv[1]})
"""


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_table_that_is_killed_twice_is_the_table_of_one_left_alone(tmp_path):
    place = tmp_path / "t"
    for how, wanted in (("new", 2), ("resume", 4)):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(place), how], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and process.poll() is None and whole(place) < wanted:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        assert wanted <= whole(place) < 12, "killed on the way"
        assert read_info(place)["status"] == "running"
    again = fl.table(resume=place, quiet=True)
    assert again.status == "finished"
    options = {"batch_sizes": [32, 48, 64, 96, 128, "full"], "epochs": [2, 12], "seeds": 2, "lr": 0.01}
    straight = fl.table("digits", "mlp:16", quiet=True, **options)
    assert values(again) == values(straight)
    assert again.differences == straight.differences
    assert again.headline == straight.headline


def whole(place: Path) -> int:
    """Members that the record holds whole."""
    try:
        with Reader(place) as reader:
            return sum(bool(reader.texts("outcome", run)) for run in reader.runs())
    except FalllineError:
        return 0


# ---- wrong use


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data": None}, "has data"),
        ({"data": "iriss"}, "did you mean"),
        ({"batch_sizes": []}, "at least one batch size"),
        ({"batch_sizes": [500]}, "batch_size <="),
        ({"epochs": [0]}, "epochs >= 1"),
        ({"metric": "r2"}, "metric of this task"),
        ({"optimizer": "rmsprob"}, "did you mean 'rmsprop'"),
        ({"loss": "mse"}, "multiclass"),
        ({"lr": 0}, "lr > 0"),
        ({"lr": "auto"}, "lr is a number"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"model": "mpl:8"}, "did you mean mlp|did you mean 'mlp'"),
        ({"data": "test-free"}, "there are test rows"),
    ],
)
def test_wrong_use_is_told_and_nothing_is_written(tmp_path, changed, words):
    given = {"data": "iris", "model": "mlp:8", "out": tmp_path / "t", **SMALL, **changed}
    if given["data"] == "test-free":
        given["data"] = load("iris", test=0.0)
    with pytest.raises(FalllineError, match=words):
        fl.table(**given)
    assert not (tmp_path / "t").exists()


def test_a_folder_with_a_run_is_not_overwritten_nor_taken_for_a_table(tmp_path):
    fl.table("iris", "linear", out=tmp_path / "t", **SMALL)
    with pytest.raises(FalllineError, match="already holds a run"):
        fl.table("iris", "linear", out=tmp_path / "t", **SMALL)
    fl.fit("linear", "iris", epochs=1, lr=0.1, out=tmp_path / "r", quiet=True)
    with pytest.raises(FalllineError, match="a table can be resumed"):
        fl.table(resume=tmp_path / "r")
    with pytest.raises(FalllineError, match="other rows"):
        fl.table(load("iris", seed=1), resume=tmp_path / "t")


def test_what_a_table_would_not_read_is_refused(tmp_path):
    for changed, words in [({"batch_size": 3}, r"batch_sizes=\[64\]"), ({"seed": 3}, "seeds="), ({"foo": 3}, "setting of table")]:
        with pytest.raises(FalllineError, match=words):
            fl.table("iris", "linear", **SMALL, **changed)
    fl.table("iris", "linear", out=tmp_path / "t", **SMALL)
    for changed, words in [
        ({"data": "wine"}, "cannot take its place"),
        ({"epochs": [2]}, "leave out epochs"),
        ({"model": "mlp:3"}, "the model is that"),
    ]:
        with pytest.raises(FalllineError, match=words):
            fl.table(resume=tmp_path / "t", quiet=True, **{"model": "linear", **changed})
    assert fl.table("iris", resume=tmp_path / "t", quiet=True).status == "finished"
