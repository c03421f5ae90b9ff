"""What is written comes back, and what is not a record is named."""

import json
import math
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from fallline import record
from fallline._core.errors import FalllineError
from fallline.record import KEYS, Reader, Writer, holds_run, open_run, read_info


def made(folder):
    with Writer(folder) as w:
        w.describe(config={"lr": 0.1})
        for step in range(200):
            w.scalar("loss", 1.0 / (step + 1), step=step, epoch=step / 100)
    return folder


@pytest.mark.parametrize("place", ["memory", "folder"])
def test_numbers_come_back_with_nan_and_infinity(tmp_path, place):
    w = Writer(None if place == "memory" else tmp_path / "run")
    for step, value in enumerate([0.1, math.nan, math.inf, -math.inf, 1e-300]):
        w.scalar("loss", value, step=step, epoch=step / 2, seconds=step * 3.0)
    w.scalar("loss", 9.0, step=7, epoch=1, split="validation")
    w.text("note", "héllo <b>", step=3)
    reader = Reader(w)
    series = reader.series("loss")
    np.testing.assert_array_equal(series.value, [0.1, math.nan, math.inf, -math.inf, 1e-300])
    np.testing.assert_array_equal(series.step, range(5))
    np.testing.assert_array_equal(series.epoch, [0, 0.5, 1, 1.5, 2])
    np.testing.assert_array_equal(series.seconds, [0, 3, 6, 9, 12])
    assert reader.series("loss", "validation").last == 9.0
    assert reader.splits("loss") == ["train", "validation"]
    assert reader.texts("note") == [(3, "héllo <b>")]
    assert len(reader.series("nothing").value) == 0


def test_many_points_at_once_equal_one_by_one():
    one, many = Writer(None), Writer(None)
    values = [0.3, math.nan, 0.1]
    for i, value in enumerate(values):
        one.scalar("lr", value, step=i, epoch=i, seconds=i)
    many.series("lr", values, steps=[0, 1, 2], epochs=[0.0, 1.0, 2.0], seconds=[0, 1, 2])
    for a, b in zip(Reader(one).series("lr"), Reader(many).series("lr"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_runs_of_a_study_stay_apart_and_cut_touches_one():
    w = Writer(None, kind="study")
    for run in ("adam/seed=0", "sgd/seed=0"):
        for step in range(4):
            w.scalar("loss", step, step=step, epoch=step, run=run)
    w.cut(1, run="adam/seed=0")
    reader = Reader(w)
    assert reader.runs() == ["adam/seed=0", "sgd/seed=0"]
    assert reader.series("loss", run="adam/seed=0").step.tolist() == [0, 1]
    assert reader.series("loss", run="sgd/seed=0").step.tolist() == [0, 1, 2, 3]
    w.scalar("loss", 0.1, step=1, epoch=1, split="test", run="adam/seed=0")
    w.cut(1, run="adam/seed=0")  # the test rows are judged again at the end
    assert reader.splits("loss", run="adam/seed=0") == ["train"]
    w.drop("sgd/seed=0")
    assert reader.runs() == ["adam/seed=0"]
    assert reader.info["kind"] == "study"


def test_a_writer_goes_on_where_the_one_before_stopped(tmp_path):
    made(tmp_path / "run")
    with Writer(tmp_path / "run") as w:
        assert w.info["config"] == {"lr": 0.1}
        w.scalar("loss", 0.0, step=200, epoch=2)
    assert len(open_run(tmp_path / "run").series("loss").value) == 201


def test_a_kill_in_the_middle_of_a_transaction_leaves_the_one_before(tmp_path):
    made(tmp_path / "run")
    code = (
        "import sqlite3, os, signal, sys\n"
        "c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA cache_size=1')\n"
        "c.execute('BEGIN IMMEDIATE')\n"
        "c.executemany('INSERT INTO scalars VALUES (?,?,?,?,?,?,?)', [('', 'loss', 'train', 1000 + i, 0, 0, 0) for i in range(20000)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run" / "record.sqlite")], check=False)
    assert (tmp_path / "run" / "record.sqlite-journal").exists()
    assert open_run(tmp_path / "run").series("loss").step.max() == 199


def test_the_record_needs_no_torch():
    code = "import sys, fallline.record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_key_has_a_label_a_unit_and_words():
    for name, key in KEYS.items():
        assert key.name == name
        assert key.label
        assert key.unit
        assert key.doc
        assert key.better in ("lower", "higher", None)
    assert {"loss", "accuracy", "roc_auc", "r2", "rmse", "lr", "grad_norm"} <= KEYS.keys()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (shutil.rmtree, "does not exist"),
        (lambda f: (f / "run.json").unlink(), "holds no run"),
        (lambda f: (f / "run.json").write_text('{"format": "fall'), "run.json"),
        (lambda f: (f / "run.json").write_bytes(b"\xff\xfe\x00"), "run.json"),
        (lambda f: (f / "run.json").write_text('{"format": "other"}'), "not written by fallline"),
        (lambda f: (f / "run.json").write_text("[1]"), "not written by fallline"),
        (lambda f: (f / "record.sqlite").unlink(), "record.sqlite"),
        (lambda f: (f / "record.sqlite").write_bytes(b"not a database at all, but long enough " * 40), "record.sqlite"),
        (lambda f: (f / "record.sqlite").write_bytes((f / "record.sqlite").read_bytes()[:9000]), "record.sqlite"),
        (lambda f: (f / "record.sqlite").write_bytes((f / "record.sqlite").read_bytes()[:50]), "record.sqlite"),
    ],
)
def test_a_damaged_or_foreign_run_is_named_in_one_sentence(tmp_path, spoil, named):
    folder = made(tmp_path / "run")
    spoil(folder)
    with pytest.raises(FalllineError) as error:
        open_run(folder).series("loss")
    assert named in str(error.value)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_newer_version_and_unknown_status_are_refused(tmp_path):
    folder = made(tmp_path / "run")
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**info, "version": 99}))
    with pytest.raises(FalllineError, match="version 99"):
        read_info(folder)
    (folder / "run.json").write_text(json.dumps({**info, "status": "flying"}))
    with pytest.raises(FalllineError, match="flying"):
        read_info(folder)


def test_a_foreign_database_is_neither_read_nor_written(tmp_path):
    folder = made(tmp_path / "run")
    (folder / "record.sqlite").unlink()
    other = sqlite3.connect(folder / "record.sqlite")
    other.execute("CREATE TABLE mine(a)")
    other.commit()
    other.close()
    before = (folder / "record.sqlite").read_bytes()
    with pytest.raises(FalllineError, match="not written by fallline"):
        open_run(folder)
    with pytest.raises(FalllineError, match="did not write"):
        Writer(folder)
    assert (folder / "record.sqlite").read_bytes() == before


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FalllineError, match="not a run folder"):
        open_run(tmp_path / "file")
    with pytest.raises(FalllineError, match="file"):
        Writer(tmp_path / "file" / "run")


def test_holds_run(tmp_path):
    assert not holds_run(tmp_path)
    made(tmp_path)
    assert holds_run(tmp_path)
    assert record.RUN_FILE == "run.json"
