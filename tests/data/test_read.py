"""New rows for a saved pipeline: the same numbers as in training, and a clear word where they do not fit."""

import json

import numpy as np
import polars as pl
import pytest
import torch

from fallline import data
from fallline._core.errors import FalllineError

RNG = np.random.default_rng(0)
N = 80
FRAME = pl.DataFrame(
    {
        "id": range(1, N + 1),
        "size": [None if i % 9 == 0 else float(v) for i, v in enumerate(RNG.normal(size=N))],
        "town": ["Rome", "Oslo"] * (N // 2),
        "sold": ["no", "yes", "no", "no"] * (N // 4),
    }
)
LOADED = data.load(FRAME, "sold")


def saved():
    return data.Pipeline.from_json(json.loads(json.dumps(LOADED.pipeline.to_json())))


def test_rows_get_the_numbers_they_had_in_training():
    x, y, table = data.read(FRAME, saved())
    both = torch.cat([x, y[:, None]], 1)
    for split in (LOADED.train, LOADED.test):
        for row in torch.cat([split.x, split.y[:, None]], 1):
            assert (both == row).all(1).any()
    assert table.columns == FRAME.columns
    assert table["id"].to_list() == list(range(1, N + 1))


def test_no_target_more_columns_another_order(tmp_path):
    wanted, _, _ = data.read(FRAME, saved())
    FRAME.drop("sold").with_columns(extra=pl.lit("x")).select("extra", "town", "size", "id").write_csv(tmp_path / "new.csv")
    x, y, table = data.read(tmp_path / "new.csv", saved())
    assert torch.allclose(x, wanted)
    assert y is None
    assert table.columns == ["extra", "town", "size", "id"]


def test_an_identifier_is_not_needed():
    x, _, _ = data.read(FRAME.drop("id"), saved())
    assert x.equal(data.read(FRAME, saved())[0])


def test_one_row_is_enough():
    assert data.read(FRAME[:1], saved())[0].shape == (1, len(LOADED.feature_names))


def test_missing_columns_are_named():
    with pytest.raises(FalllineError, match=r"lacks 'town'.*did you mean its column 'Town'"):
        data.read(FRAME.rename({"town": "Town"}), saved())


def test_unseen_categories_are_zeros_and_wholly_missing_columns_are_filled():
    new = pl.DataFrame({"size": [None, None], "town": ["Lima", None]})
    x, _, _ = data.read(new, saved())
    names = LOADED.feature_names
    assert x[0, [names.index("town=Oslo"), names.index("town=Rome")]].tolist() == [0, 0]
    assert x[:, names.index("size is missing")].tolist() == [1, 1]


def test_a_file_is_read_by_what_its_columns_were_in_training(tmp_path):
    """Alone, these rows could be whole numbers, truth values and days before months: a guess anew gave other dates and unseen levels."""
    codes, flags = ("01", "02", "2A"), ("True", "False", "Maybe")
    rows = [f"{i % 12 + 1:02d}/{i % 28 + 1:02d}/2024,{codes[i % 3]},{flags[i % 3]},{i}" for i in range(90)]
    (tmp_path / "all.csv").write_text("\n".join(["when, code ,flag,y", *rows]) + "\n")
    pipeline = data.load(tmp_path / "all.csv", "y", task="regression").pipeline
    whole = data.read(tmp_path / "all.csv", pipeline)[0]
    some = [0, 1, 12, 13, 84]
    (tmp_path / "some.csv").write_text("\n".join(["when, code ,flag,y", *(rows[i] for i in some)]) + "\n")
    assert data.read(tmp_path / "some.csv", pipeline)[0].equal(whole[some])


def test_numbers_and_truth_values_find_the_levels_that_were_written_so():
    frame = pl.DataFrame({"code": ["01", "2", "A"] * 20, "flag": ["True", "False", "Maybe"] * 20, "y": RNG.normal(size=60)})
    pipeline = data.load(frame, "y").pipeline
    new = pl.DataFrame({"code": [1.0, 2.0, 7.0, None], "flag": [True, False, None, True]})
    assert data.read(new, pipeline)[0].tolist() == [[1, 0, 0, 0, 0, 1], [0, 1, 0, 1, 0, 0], [0] * 6, [0, 0, 0, 0, 0, 1]]
    words = data.load(frame.with_columns(code=pl.Series(["x", "y", "z"] * 20)), "y").pipeline
    assert data.read(new, words)[0][:, :3].tolist() == [[0, 0, 0]] * 4


def test_a_target_that_is_still_empty_is_no_hindrance(tmp_path):
    (tmp_path / "new.csv").write_text("size,town,sold\n1.5,Rome,\n2.5,Oslo,yes\n")
    x, y, table = data.read(tmp_path / "new.csv", LOADED.pipeline)
    assert x.shape[0] == 2
    assert y is None
    assert table.columns == ["size", "town", "sold"]


def test_a_label_that_the_model_does_not_know_is_refused():
    with pytest.raises(FalllineError, match="holds perhaps in row 0, which is none of the model's classes"):
        data.read(FRAME.with_columns(sold=pl.lit("perhaps")), saved())


def test_labels_written_another_way_are_the_same():
    loaded = data.load(FRAME.with_columns(sold=(pl.col("sold") == "yes").cast(pl.Int64)), "sold")
    _, y, _ = data.read(
        FRAME.with_columns(sold=(pl.col("sold") == "yes").cast(pl.String).replace({"true": "1", "false": "0"})), loaded.pipeline
    )
    assert y.tolist() == (FRAME["sold"] == "yes").cast(pl.Int64).to_list()


def test_arrays_go_by_position():
    x, y = RNG.normal(size=(40, 3)), np.arange(40) % 2
    pipeline = data.load((x, y)).pipeline
    wanted = data.read((x, y), pipeline)[0]
    assert data.read(x, pipeline)[0].equal(wanted)
    assert data.read(torch.tensor(x), pipeline)[0].equal(wanted)
    assert data.read(pl.DataFrame(x, schema=["a", "b", "c"]), pipeline)[0].equal(wanted)
    for wrong in (x[:, :2], np.ones((4, 5))):
        with pytest.raises(FalllineError, match="trained on 3 features"):
            data.read(wrong, pipeline)
    with pytest.raises(FalllineError, match="named columns"):
        data.read(x, saved())


def test_pictures(tmp_path):
    from PIL import Image

    pipeline = data.load("digits").pipeline
    pictures = RNG.integers(0, 16, (5, 8, 8), np.uint8)
    wanted = data.read(pictures, pipeline)[0]
    assert wanted.shape == (5, 1, 8, 8)
    assert torch.allclose(data.read(pictures.reshape(5, 64).astype(float), pipeline)[0], wanted)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    x, y, table = data.read(tmp_path, pipeline)
    assert x.equal(wanted)
    assert y is None
    assert table["file"].to_list() == [f"{i}.png" for i in range(5)]
    assert data.read(tmp_path / "3.png", pipeline)[0].equal(wanted[3:4])
    with pytest.raises(FalllineError, match="pictures of 1 x 8 x 8"):
        data.read(np.zeros((5, 9, 9)), pipeline)
    with pytest.raises(FalllineError, match="pictures"):
        data.read(FRAME, pipeline)
