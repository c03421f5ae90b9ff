"""The named sets: what they are, that they load the same again, and what is said where they are absent."""

import gzip
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from fallline import data
from fallline._core.errors import FalllineError
from fallline.data.sources import fashion_mnist
from fallline.data.sources.place import find

CASES = {
    "digits": ("multiclass", 10, (1, 8, 8), 1797),
    "breast_cancer": ("binary", 2, (30,), 569),
    "diabetes": ("regression", 0, (10,), 442),
    "iris": ("multiclass", 3, (4,), 150),
    "wine": ("multiclass", 3, (13,), 178),
}


def absent(name, file):
    return pytest.mark.skipif(find(name, (file,), None) is None, reason=f"{name} is not in the data folder (FALLLINE_DATA)")


@pytest.mark.parametrize("name", CASES)
def test_bundled_sets_have_the_right_task_and_all_rows(name):
    task, classes, shape, rows = CASES[name]
    found = data.load(name)
    assert (found.task, len(found.classes), found.input_shape) == (task, classes, shape)
    assert len(found.train) + len(found.validation) + len(found.test) == rows
    assert found.train.x.dtype == torch.float32
    assert found.train.y.dtype == (torch.float32 if task == "regression" else torch.int64)
    assert found.task in found.notes[0]
    assert "task=" not in found.notes[0]  # it is known, not guessed
    assert "because" not in found.notes[0]
    assert data.load(**json.loads(json.dumps(found.source))).fingerprint == found.fingerprint
    assert json.loads(json.dumps(found.summary))["rows"]["train"] == len(found.train)


def test_another_seed_is_another_split_and_fingerprint():
    assert data.load("iris", seed=1).fingerprint != data.load("iris", seed=0).fingerprint


def test_class_names_come_from_the_set():
    assert data.load("breast_cancer").classes == ("malignant", "benign")
    assert data.load("breast_cancer").raw_labels == (0, 1)


def test_digits_are_scaled_to_mean_zero_and_deviation_one_over_training_pictures():
    x = data.load("digits").train.x.double()
    assert abs(float(x.mean())) < 1e-6
    assert abs(float(x.std(correction=0)) - 1) < 1e-6


@absent("titanic", "titanic-train.csv")
def test_titanic_is_binary_and_its_identifier_is_left_out():
    found = data.load("titanic")
    assert (found.task, found.target, found.classes) == ("binary", "Survived", ("0", "1"))
    assert "left out `PassengerId`: an identifier (a different value in each row)" in found.notes
    assert not any("PassengerId" in name for name in found.feature_names)
    assert {"Age is missing", "Sex=female", "Name: mrs"} <= set(found.feature_names)
    assert found.train.x.isfinite().all()


@absent("california-housing", "california-housing.csv")
def test_california_is_regression_in_dollars():
    found = data.load("california_housing")
    assert (found.task, found.target, len(found.train)) == ("regression", "median_house_value", 14448)
    assert float(found.train.y.max()) == 500001
    assert found.summary["missing"] == {"total_bedrooms": found.summary["missing"]["total_bedrooms"]}
    assert 100 < found.summary["missing"]["total_bedrooms"] < 207


@absent("fashion-mnist", "t10k-labels-idx1-ubyte.gz")
def test_fashion_mnist_keeps_the_official_test_pictures():
    found = data.load("fashion_mnist")
    assert (len(found.train), len(found.validation), len(found.test)) == (51000, 9000, 10000)
    assert found.test.y[:5].tolist() == [9, 2, 1, 1, 6]
    assert found.classes[9] == "Ankle boot"
    assert torch.bincount(found.validation.y).tolist() == [900] * 10


@pytest.mark.parametrize("name", ["california_housing", "titanic"])
def test_a_set_that_is_absent_says_where_it_was_looked_for_and_what_to_set(tmp_path, name):
    with pytest.raises(FalllineError, match=r"not found in.*FALLLINE_DATA") as caught:
        data.load(name, folder=tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_the_environment_variable_names_the_folder(tmp_path, monkeypatch):
    (tmp_path / "titanic").mkdir()
    rows = "\n".join(f"{i},{i % 2},{i % 7}" for i in range(40))
    (tmp_path / "titanic" / "titanic-train.csv").write_text(f"PassengerId,Survived,Age\n{rows}\n")
    monkeypatch.setenv("FALLLINE_DATA", str(tmp_path))
    assert data.load("titanic").feature_names == ("Age",)


def idx(array):
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes())


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror on this disk with tiny files of the same names, whose checksums are the expected ones."""
    there = tmp_path / "mirror"
    there.mkdir()
    rng = np.random.default_rng(0)
    for name in fashion_mnist.CHECKSUMS:
        n = 60 if name.startswith("train") else 20
        array = rng.integers(0, 255, (n, 28, 28), np.uint8) if "images" in name else (np.arange(n) % 10).astype(np.uint8)
        (there / name).write_bytes(idx(array))
    sums = {name: hashlib.md5((there / name).read_bytes()).hexdigest() for name in fashion_mnist.CHECKSUMS}
    monkeypatch.setattr(fashion_mnist, "CHECKSUMS", sums)
    return there


def test_download_tries_the_next_mirror_and_checks_every_file(tmp_path, mirror):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for name in fashion_mnist.CHECKSUMS:
        (wrong / name).write_bytes(b"not it")
    nowhere = (tmp_path / "nowhere").as_uri() + "/"
    raw = fashion_mnist.read_fashion_mnist(tmp_path / "data", (nowhere, wrong.as_uri() + "/", mirror.as_uri() + "/"))
    assert raw.x.shape == (80, 1, 28, 28)
    assert {f.name for f in (tmp_path / "data" / "fashion-mnist").iterdir()} == set(fashion_mnist.CHECKSUMS)


def test_a_failed_download_writes_nothing_and_names_each_mirror(tmp_path, mirror):
    (mirror / "t10k-images-idx3-ubyte.gz").write_bytes(b"changed")
    with pytest.raises(FalllineError, match="wrong checksum"):
        fashion_mnist.read_fashion_mnist(tmp_path / "data", (mirror.as_uri() + "/",))
    assert not (tmp_path / "data" / "fashion-mnist" / "t10k-images-idx3-ubyte.gz").exists()


def test_a_damaged_local_file_is_named(tmp_path, mirror):
    (mirror / "train-images-idx3-ubyte.gz").write_bytes(b"cut")
    with pytest.raises(FalllineError, match=r"train-images.*damaged"):
        fashion_mnist.read_fashion_mnist(Path(mirror))


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(FalllineError, match="did you mean 'digits'"):
        data.load("digit")
