"""Splits are exact, disjoint, stratified, seeded; and nothing of a test row reaches the preprocessing."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallline import data
from fallline._core.errors import FalllineError
from fallline.data.split import split_rows


@given(st.integers(3, 300), st.integers(1, 6), st.integers(0, 50))
def test_parts_are_disjoint_complete_and_of_exact_size(n, classes, seed):
    labels = np.random.default_rng(seed).integers(0, classes, n)
    parts = split_rows(n, labels, seed=seed, validation=0.2, test=0.1)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(n))
    assert len(parts["test"]) == min(max(1, round(0.1 * n)), n - 2)
    assert len(parts["validation"]) == max(1, round(0.2 * n))
    assert all((np.diff(rows) > 0).all() for rows in parts.values())


def test_each_class_gives_its_share():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    parts = split_rows(1000, labels, seed=0, validation=0.15, test=0.15)
    for name in ("validation", "test"):
        assert np.bincount(labels[parts[name]]).tolist() == [90, 45, 15]


def test_no_class_is_left_out_of_training():
    labels = np.array([0] * 96 + [1, 1, 2, 2])
    parts = split_rows(100, labels, seed=3, validation=0.3, test=0.3)
    assert set(labels[parts["train"]]) == {0, 1, 2}


def test_the_seed_decides_the_split():
    one, same, other = (split_rows(500, None, seed=s, validation=0.1, test=0.1) for s in (0, 0, 1))
    assert all((one[k] == same[k]).all() for k in one)
    assert (one["test"] != other["test"]).any()


@pytest.mark.parametrize("shares", [(1.0, 0.1), (-0.1, 0.1), (0.6, 0.5)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(FalllineError, match="must hold"):
        split_rows(100, None, seed=0, validation=shares[0], test=shares[1])


def test_shares_of_zero_leave_all_rows_to_train():
    found = data.load("iris", validation=0, test=0)
    assert (len(found.train), len(found.validation), len(found.test)) == (150, 0, 0)


def test_own_splits_are_kept():
    x, y = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2
    found = data.load({"train": (x[:20], y[:20]), "val": (x[20:30], y[20:30]), "test": (x[30:], y[30:])}, scale="none")
    assert np.allclose(found.validation.x.numpy(), x[20:30].astype(np.float32))
    assert np.allclose(found.test.x.numpy(), x[30:].astype(np.float32))
    partly = data.load({"train": (x[:20], y[:20]), "test": (x[30:], y[30:])})
    assert (len(partly.train), len(partly.validation), len(partly.test)) == (17, 3, 10)


def messy(n=200):
    rng = np.random.default_rng(1)
    return pl.DataFrame(
        {
            "age": [None if i % 11 == 0 else float(v) for i, v in enumerate(rng.lognormal(size=n))],
            "city": rng.choice(["Oslo", "Rome", "Bonn"], n).tolist(),
            "text": [" ".join(rng.choice(["red", "green", "blue", "fast", "slow"], 4)) + f" {i}" for i in range(n)],
            "day": [f"2024-{1 + i % 12:02d}-{1 + i % 28:02d}" for i in range(n)],
            "member": rng.choice([True, False], n).tolist(),
            "y": rng.normal(size=n).tolist(),
        }
    )


def test_changing_test_and_validation_rows_leaves_the_pipeline_and_training_rows_as_they_were():
    frame = messy()
    before = data.load(frame, "y")
    parts = split_rows(frame.height, None, seed=0, validation=0.15, test=0.15)
    held = np.concatenate([parts["test"], parts["validation"]])
    mask = pl.Series(np.isin(np.arange(frame.height), held))
    changed = frame.with_columns(
        age=pl.when(mask).then(1e6).otherwise(pl.col("age")),
        city=pl.when(mask).then(pl.lit("Lima")).otherwise(pl.col("city")),
        text=pl.when(mask).then(pl.lit("purple purple purple")).otherwise(pl.col("text")),
        day=pl.when(mask).then(pl.lit("1999-01-01")).otherwise(pl.col("day")),
        member=pl.when(mask).then(None).otherwise(pl.col("member")),
    )
    after = data.load(changed, "y")
    assert after.pipeline.to_json() == before.pipeline.to_json()
    assert after.train.x.equal(before.train.x)
    assert not after.test.x.equal(before.test.x)


def test_a_word_in_a_test_row_makes_the_column_a_category_and_no_failure():
    frame = messy().with_columns(code=pl.Series([str(i % 5) for i in range(200)]))
    row = int(split_rows(200, None, seed=0, validation=0.15, test=0.15)["test"][0])
    mixed = frame.with_columns(code=pl.when(pl.int_range(pl.len()) == row).then(pl.lit("none")).otherwise(pl.col("code")))
    assert "code" in data.load(frame, "y").feature_names
    assert "code=3" in data.load(mixed, "y").feature_names


def test_infinity_is_named_by_its_row_in_the_source():
    frame = messy().with_columns(size=pl.Series([float("inf") if i == 150 else float(i) for i in range(200)]))
    for seed in range(5):
        with pytest.raises(FalllineError, match=r"'size' .* in row 150"):
            data.load(frame, "y", seed=seed)


def test_changing_a_training_row_does_change_the_pipeline():
    frame = messy()
    row = int(split_rows(frame.height, None, seed=0, validation=0.15, test=0.15)["train"][0])
    changed = frame.with_columns(age=pl.when(pl.int_range(pl.len()) == row).then(1e6).otherwise(pl.col("age")))
    assert data.load(changed, "y").pipeline.to_json() != data.load(frame, "y").pipeline.to_json()
