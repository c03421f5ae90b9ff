"""Files, frames, arrays and loaders: read as they come, and refused with the file and the line when they are broken."""

import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from fallline import data
from fallline._core.errors import FalllineError

RNG = np.random.default_rng(0)
N = 60
FRAME = pl.DataFrame({"size": RNG.normal(size=N), "town": ["Årby", "Köln", "Rome"] * 20, "price": RNG.normal(size=N)})


def csv(path, separator=",", encoding="utf-8", decimal="."):
    rows = [separator.join(FRAME.columns)]
    rows += [separator.join(f"{v:.12f}".replace(".", decimal) if isinstance(v, float) else v for v in row) for row in FRAME.iter_rows()]
    path.write_bytes("\n".join(rows).encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize(("separator", "decimal"), [(",", "."), (";", ","), ("\t", "."), ("|", ".")])
def test_every_dialect_of_csv_gives_the_same_data(tmp_path, encoding, separator, decimal):
    found = data.load(csv(tmp_path / "a.csv", separator, encoding, decimal), "price")
    assert found.feature_names == ("size", "town=Köln", "town=Rome", "town=Årby")
    wanted = data.load(FRAME, "price")
    assert torch.allclose(found.train.x, wanted.train.x, atol=1e-5)
    assert data.load(**found.source).fingerprint == found.fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"  \n ", "is empty"),
        (b"a,b\n1,2\n3,4,5\n6,7\n", "line 3: it has 3 field"),
        (b"a,b\n1,2\n3\n6,7\n", "line 3: it has 1 field"),
        (b"1.5,2\n3,4\n5,6\n", "no header"),
        (b"\x89PNG\r\n\x00\x00\x00", "not a text file"),
        (b"a,b\n", "0 row"),
        (b"a,b\n1,2\n", "1 row"),
        (b"b\n1\n2\n3\n4\n5\n", "no column is left"),
    ],
)
def test_broken_csv_is_refused(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(FalllineError, match=message) as caught:
        data.load(path, "b")
    assert "\n" not in str(caught.value)


def test_a_group_of_three_digits_after_a_zero_is_a_fraction(tmp_path):
    """ "0,125" was read as 125."""
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f'"{i % 3},{i * 7:03d}",{i}\n' for i in range(60)))
    table = data.sources.csv_.read_csv(tmp_path / "t.csv")[0]
    assert table["x"][:4].to_list() == [0.0, 1.007, 2.014, 0.021]


def test_numbers_with_commas_between_thousands(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,y\n" + "".join(f'"{1 + i},{i % 10}00",{i * 0.37}\n' for i in range(30)))
    found = data.load(path, "y", scale="none", validation=0, test=0)
    assert found.train.x[:2, 0].tolist() == [1000, 2100]


def test_missing_words_are_missing(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,y\n" + "".join(f"{'NA' if i % 5 == 0 else i * 1.5},{i * 0.37}\n" for i in range(40)))
    assert "a is missing" in data.load(path, "y").feature_names


@pytest.mark.parametrize("target", [None, "prise", "PRICE", "nothing like it"])
def test_a_target_that_is_not_there_lists_the_columns(target):
    with pytest.raises(FalllineError, match="size, town, price") as caught:
        data.load(FRAME, target)
    assert (target is None or "nothing" in target) or "did you mean 'price'" in str(caught.value)


@pytest.mark.parametrize("name", ["no.csv", "no.npz", "no/where"])
def test_no_such_file(tmp_path, name):
    with pytest.raises(FalllineError, match="there is no file"):
        data.load(tmp_path / name, "y")


def test_a_misspelt_file_is_offered(tmp_path):
    csv(tmp_path / "houses.csv")
    with pytest.raises(FalllineError, match=r"did you mean.*houses\.csv"):
        data.load(tmp_path / "house.csv", "price")


def test_parquet_and_its_breakage(tmp_path):
    FRAME.write_parquet(tmp_path / "a.parquet")
    assert data.load(tmp_path / "a.parquet", "price").fingerprint == data.load(FRAME, "price").fingerprint
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-100])
    with pytest.raises(FalllineError, match="not a Parquet"):
        data.load(tmp_path / "b.parquet", "price")


def test_npz_pairs_and_splits(tmp_path):
    x, y = RNG.normal(size=(40, 3)), np.arange(40) % 2
    np.savez(tmp_path / "a.npz", X=x, y=y)
    assert data.load(tmp_path / "a.npz").fingerprint == data.load((x, y)).fingerprint
    np.savez(tmp_path / "b.npz", x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])
    found = data.load(tmp_path / "b.npz", scale="none")
    assert np.allclose(found.test.x, x[30:].astype(np.float32))
    assert data.load(**found.source).fingerprint == found.fingerprint


def test_npz_that_could_run_code_or_says_nothing_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.array([{"a": 1}], dtype=object), y=np.ones(1))
    with pytest.raises(FalllineError, match="could run code"):
        data.load(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", one=np.ones(3), two=np.ones(3))
    with pytest.raises(FalllineError, match="one, two"):
        data.load(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:50])
    with pytest.raises(FalllineError, match="not an npz file"):
        data.load(tmp_path / "c.npz")


def pictures(folder, sizes=((12, 10),), per_class=8, mode="RGB"):
    for label, shade in (("dark", 20), ("light", 230)):
        (folder / label).mkdir(parents=True)
        for i in range(per_class):
            width, height = sizes[i % len(sizes)]
            Image.new(mode, (width, height), shade if mode == "L" else (shade,) * len(mode)).save(folder / label / f"{i}.png")
    return folder


def test_a_folder_of_pictures(tmp_path):
    found = data.load(pictures(tmp_path / "shades"), scale="none")
    assert (found.input_shape, found.classes, found.task) == ((3, 10, 12), ("dark", "light"), "binary")
    for split in (found.train, found.validation, found.test):
        assert (split.x.mean(dim=(1, 2, 3)).gt(100).long() == split.y).all()
    assert data.load(**found.source).fingerprint == found.fingerprint


def test_pictures_of_differing_sizes_get_the_most_common_one(tmp_path):
    found = data.load(pictures(tmp_path / "a", sizes=((16, 16), (16, 16), (9, 20)), mode="L"))
    assert found.input_shape == (1, 16, 16)
    assert any("resized" in note for note in found.notes)


def test_transparent_pictures_stand_on_white(tmp_path):
    folder = pictures(tmp_path / "a")
    Image.new("RGBA", (12, 10), (0, 0, 0, 0)).save(folder / "light" / "0.png")
    found = data.load(folder, scale="none", validation=0, test=0)
    assert float(found.train.x[8].min()) == 255


def test_a_folder_with_train_and_test_keeps_them(tmp_path):
    pictures(tmp_path / "a" / "train")
    pictures(tmp_path / "a" / "test", per_class=3)
    found = data.load(tmp_path / "a")
    assert (len(found.train) + len(found.validation), len(found.test)) == (16, 6)


def test_an_unreadable_picture_is_named(tmp_path):
    folder = pictures(tmp_path / "a")
    (folder / "dark" / "3.png").write_bytes((folder / "dark" / "3.png").read_bytes()[:40])
    with pytest.raises(FalllineError, match=r"3\.png.*cannot be read"):
        data.load(folder)


def test_folders_without_pictures_or_labels_are_refused(tmp_path):
    with pytest.raises(FalllineError, match="has no picture"):
        data.load(tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    Image.new("L", (8, 8)).save(tmp_path / "b.png")
    with pytest.raises(FalllineError, match="no labels"):
        data.load(tmp_path)


@pytest.mark.parametrize("hidden", [(), ("pyarrow",)])
def test_pandas_is_polars_with_and_without_pyarrow(monkeypatch, hidden):
    frame = pd.DataFrame(
        {
            "number": [1.5, None, 3.0] * 10,
            "whole": pd.array([1, None, 3] * 10, dtype="Int64"),
            "flag": pd.array([True, False, None] * 10, dtype="boolean"),
            "when": pd.date_range("2024-01-01", periods=30),
            "zoned": pd.date_range("2024-01-01", periods=30, tz="Europe/Rome"),
            "city": pd.Categorical(["Oslo", "Rome", None] * 10),
            "word": ["a", None, "b"] * 10,
            "mixed": [1, "x", 2.5] * 10,
            7: np.arange(30) % 4,
        },
    )
    for name in hidden:
        monkeypatch.setitem(sys.modules, name, None)
    from fallline.data.sources.frames import to_polars

    found = to_polars(frame)
    assert found.columns == ["number", "whole", "flag", "when", "zoned", "city", "word", "mixed", "7"]
    kinds = [d.base_type() for d in found.dtypes]
    assert kinds == [pl.Float64, pl.Int64, pl.Boolean, pl.Datetime, pl.Datetime, pl.String, pl.String, pl.String, pl.Int64]
    assert found["whole"].null_count() == found["flag"].null_count() == found["city"].null_count() == found["word"].null_count() == 10
    assert str(found["zoned"][0]) == "2023-12-31 23:00:00"
    assert data.load(frame.assign(y=np.arange(30) % 2), "y").train.x.isfinite().all()


def test_two_columns_of_one_name_are_refused():
    frame = pd.DataFrame(RNG.normal(size=(20, 3)), columns=["a", "a", "y"])
    with pytest.raises(FalllineError, match="more than one column called 'a'"):
        data.load(frame, "y")


def test_lists_tensors_and_arrays_are_the_same():
    x, y = RNG.normal(size=(50, 3)).astype(np.float32), np.arange(50) % 3
    wanted = data.load((x, y)).fingerprint
    assert data.load((x.tolist(), y.tolist())).fingerprint == wanted
    assert data.load((torch.tensor(x), torch.tensor(y))).fingerprint == wanted
    assert data.load((pd.DataFrame(x), pd.Series(y))).train.x.shape == (34, 3)


def test_missing_values_in_arrays_are_imputed_and_constant_columns_kept():
    x = RNG.normal(size=(50, 3))
    x[::7, 1] = np.nan
    x[:, 2] = 4
    found = data.load((x, np.arange(50) % 2))
    assert found.feature_names == ("x0", "x1", "x1 is missing", "x2")
    assert found.train.x.isfinite().all()
    assert (found.train.x[:, 3] == 0).all()
    x[3, 0] = np.inf
    with pytest.raises(FalllineError, match="'x0' holds 1 infinite"):
        data.load((x, np.arange(50) % 2), validation=0, test=0)


@pytest.mark.parametrize(("shape", "wanted"), [((30, 9, 8), (1, 9, 8)), ((30, 3, 9, 8), (3, 9, 8)), ((30, 9, 8, 3), (3, 9, 8))])
def test_arrays_of_pictures(shape, wanted):
    found = data.load((RNG.integers(0, 255, shape, np.uint8), np.arange(30) % 2))
    assert found.input_shape == wanted
    assert abs(float(found.train.x.double().mean())) < 1e-5


def test_nan_in_pictures_is_refused_by_row():
    x = RNG.normal(size=(30, 8, 8))
    x[17, 2, 2] = np.nan
    with pytest.raises(FalllineError, match="first in row 17"):
        data.load((x, np.arange(30) % 2))


@pytest.mark.parametrize("x", [np.ones(30), np.ones((30, 0)), np.ones((2, 2, 2, 2, 2)), [[1, 2], [3]], np.ones((30, 2), complex)])
def test_other_shapes_are_refused(x):
    with pytest.raises(FalllineError):
        data.load((x, np.arange(30) % 2))


def test_a_data_loader_is_gathered_and_left_as_it_is():
    x, y = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 2
    found = data.load(DataLoader(TensorDataset(x, y), batch_size=8))
    assert found.pipeline is None
    assert torch.cat([found.train.x, found.validation.x, found.test.x]).sort(0).values.equal(x.sort(0).values)
    splits = data.load({"train": DataLoader(TensorDataset(x, y), 8), "test": DataLoader(TensorDataset(x[:9], y[:9]), 8)})
    assert splits.test.x.equal(x[:9])
    with pytest.raises(FalllineError, match="pairs of tensors"):
        data.load(DataLoader(TensorDataset(x), batch_size=8))


def test_data_is_given_back_as_it_is():
    found = data.load("iris")
    assert data.load(found) is found


@pytest.mark.parametrize("source", [3, None, {"tain": (1, 2)}, {"test": (1, 2)}])
def test_anything_else_is_refused(source):
    with pytest.raises(FalllineError, match=r"data must be|dictionary of splits"):
        data.load(source)


def test_an_unknown_scale_is_refused():
    with pytest.raises(FalllineError, match="did you mean 'zscore'"):
        data.load("iris", scale="z-score")
