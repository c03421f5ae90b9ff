"""Each kind of column: the numbers it gives, from closed forms; and that only what it saw in training counts."""

import datetime as dt
import json
import math

import numpy as np
import polars as pl
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from fallline._core.errors import FalllineError
from fallline.data.columns.boolean import Boolean
from fallline.data.columns.category import MOST, Category
from fallline.data.columns.choose import choose
from fallline.data.columns.date import Date
from fallline.data.columns.numeric import Numeric
from fallline.data.columns.text import Text
from fallline.data.pipeline import Pipeline


def test_zscore_minmax_and_none():
    series = pl.Series("a", [1.0, 2.0, 3.0, 6.0])
    std = np.std([1, 2, 3, 6])
    assert np.allclose(Numeric.fit(series, scale="zscore").encode(pl.Series("a", [3.0, 0.0]))[:, 0], [0, -3 / std])
    assert np.allclose(Numeric.fit(series, scale="minmax").encode(series)[:, 0], [0, 0.2, 0.4, 1])
    assert np.allclose(Numeric.fit(series, scale="none").encode(series)[:, 0], [1, 2, 3, 6])


@pytest.mark.parametrize("unit", [1e-24, 1e-12, 1.0, 1e12])
def test_the_unit_does_not_matter(unit):
    """Capacities in farads lie near 1e-12: they were left unscaled, as if they did not vary."""
    values = np.random.default_rng(0).normal(3, 0.1, 50)
    encoded = [Numeric.fit(series, scale="zscore").encode(series) for series in (pl.Series(values), pl.Series(values * unit))]
    assert np.abs(encoded[0] - encoded[1]).max() < 1e-5
    assert encoded[1].std() == pytest.approx(1, abs=1e-5)


def test_missing_becomes_the_median_beside_a_flag():
    column = Numeric.fit(pl.Series("a", [1.0, None, 3.0, 100.0, float("nan")]), scale="none")
    assert column.features == ["a", "a is missing"]
    assert column.encode(pl.Series("a", [None, 7.0])).tolist() == [[3, 1], [7, 0]]


def test_missing_without_missing_in_training_becomes_the_median():
    column = Numeric.fit(pl.Series("a", [1.0, 2.0, 9.0]), scale="none")
    assert column.encode(pl.Series("a", [None], dtype=pl.Float64)).tolist() == [[2]]


def test_a_heavy_tail_is_drawn_in_by_the_signed_logarithm_and_a_light_one_is_not():
    heavy = np.exp(np.random.default_rng(0).normal(size=500) * 2)
    column = Numeric.fit(pl.Series("a", heavy), scale="none")
    assert column.unit == 0  # unscaled means untouched
    column = Numeric.fit(pl.Series("a", heavy), scale="zscore")
    assert column.unit == pytest.approx(np.median(heavy))
    drawn = np.log1p(heavy / column.unit)
    assert np.allclose(column.encode(pl.Series("a", heavy))[:, 0], (drawn - drawn.mean()) / drawn.std(), atol=1e-6)
    assert Numeric.fit(pl.Series("a", np.random.default_rng(0).normal(size=500)), scale="zscore").unit == 0


def test_the_staircase_climbs_from_0_to_1_between_quantiles():
    values = np.random.default_rng(0).uniform(size=4000)
    column = Numeric.fit(pl.Series("a", values), scale="zscore", steps=True)
    assert len(column.features) == 17
    edges = np.quantile(values, np.linspace(0, 1, 17))
    middle = (edges[4] + edges[5]) / 2
    got = column.encode(pl.Series("a", [edges[0], middle, edges[-1], 99.0]))[:, 1:]
    assert np.allclose(got[0], 0)
    assert np.allclose(got[1], [1] * 4 + [0.5] + [0] * 11, atol=1e-5)
    assert np.allclose(got[2:], 1)
    assert Numeric.fit(pl.Series("a", values[:100]), scale="zscore", steps=True).edges == []


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_is_refused_with_column_and_row(value):
    with pytest.raises(FalllineError, match=r"'height'.*row 2"):
        Numeric.fit(pl.Series("height", [1.0, 2.0, value]), scale="zscore")


def test_a_word_among_numbers_is_refused_with_its_row():
    column = Numeric.fit(pl.Series("a", [1.0, 2.0]), scale="none")
    with pytest.raises(FalllineError, match="row 1 holds 'tall'"):
        column.encode(pl.Series("a", ["3", "tall"]))
    assert column.encode(pl.Series("a", [" 3 ", "4.5"])).tolist() == [[3], [4.5]]


def test_booleans_and_their_words():
    column = Boolean.fit(pl.Series("a", [True, None, False]), scale="zscore")
    assert column.encode(pl.Series("a", ["yes", "FALSE", None])).tolist() == [[1, 0], [0, 0], [0, 1]]
    with pytest.raises(FalllineError, match="row 0 holds 'maybe'"):
        column.encode(pl.Series("a", ["maybe"]))


def test_categories_unseen_and_missing():
    column = Category.fit(pl.Series("a", ["x", "y", None, "x"]), scale="zscore")
    assert column.features == ["a=x", "a=y", "a is missing"]
    assert column.encode(pl.Series("a", ["y", "new", None, " x "])).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]


def test_rare_levels_have_no_feature_and_the_order_of_rows_does_not_matter():
    levels = [f"l{i:02d}" for i in range(MOST + 5) for _ in range(1 + (i < MOST))]
    column = Category.fit(pl.Series("a", levels), scale="zscore")
    assert column.levels == [f"l{i:02d}" for i in range(MOST)]
    assert column.rare == 5
    assert Category.fit(pl.Series("a", levels[::-1]), scale="zscore") == column


def test_text_is_scikit_learns_tfidf():
    rows = ["the red car", "the blue car car", "a green bicycle", "the red red bicycle", "blue"] * 4
    column = Text.fit(pl.Series("a", rows), scale="zscore")
    theirs = TfidfVectorizer(vocabulary=column.words, token_pattern=r"[^\W\d_]+").fit(rows)
    new = ["red car and unknown words", "", "green"]
    assert np.allclose(column.encode(pl.Series("a", new)), theirs.transform(new).toarray(), atol=1e-6)


def test_dates_on_circles_and_elapsed():
    days = [dt.date(2023, 1, 1), dt.date(2023, 7, 1), dt.date(2024, 12, 31), None]
    column = Date.fit(pl.Series("d", days), scale="none")
    got = dict(zip(column.features, column.encode(pl.Series("d", [dt.date(2024, 4, 1)]))[0].tolist(), strict=True))
    assert got["d year"] == 2024
    assert got["d elapsed"] == pytest.approx((dt.date(2024, 4, 1) - days[0]).days / 365.2425, rel=1e-6)
    assert got["d month (sin)"] == pytest.approx(1)
    assert got["d month (cos)"] == pytest.approx(0, abs=1e-6)
    assert got["d is missing"] == 0
    assert "d hour (sin)" not in got  # never varies


@pytest.mark.parametrize("layout", ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d %b %Y", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M"])
def test_dates_written_as_text_are_the_same_dates(layout):
    days = [dt.datetime(2023, 1 + i % 12, 1 + i % 28) for i in range(60)]
    column = choose(pl.Series("d", [day.strftime(layout) for day in days]), scale="none")
    assert isinstance(column, Date)
    plain = Date.fit(pl.Series("d", days), scale="none")
    assert np.allclose(column.encode(pl.Series("d", [d.strftime(layout) for d in days])), plain.encode(pl.Series("d", days)))


def test_a_broken_date_is_refused_with_its_row():
    column = Date.fit(pl.Series("d", ["2024-01-01", "2024-02-02"]), scale="none")
    with pytest.raises(FalllineError, match="row 1 holds 'soon'"):
        column.encode(pl.Series("d", ["2024-03-03", "soon"]))


@pytest.mark.parametrize(
    ("series", "kind"),
    [
        (pl.Series("a", [1.5, 2.5, None] * 10), Numeric),
        (pl.Series("a", ["1.5", "2", None] * 10), Numeric),
        (pl.Series("year", range(1950, 2010)), Numeric),
        (pl.Series("a", [True, False] * 5), Boolean),
        (pl.Series("a", ["x", "y", "z"] * 5), Category),
        (pl.Series("a", ["x", "y", "z"] * 5, dtype=pl.Categorical), Category),
        (pl.Series("a", [dt.date(2024, 1, i + 1) for i in range(20)]), Date),
        (pl.Series("a", [dt.timedelta(hours=i % 7) for i in range(20)]), Numeric),
        (pl.Series("a", [f"good words {['red', 'blue', 'green'][i % 3]} {i}" for i in range(40)]), Text),
        (pl.Series("a", [f"{'CAB'[i % 3]}{i}" for i in range(40)] * 2), Category),
        (pl.Series("id", range(1, 101)), "an identifier"),
        (pl.Series("customer_id", [17 * i % 10007 for i in range(1, 101)]), "an identifier"),
        (pl.Series("a", [f"key-{i}" for i in range(40)]), "an identifier"),
        (pl.Series("a", [5.0] * 10), "constant"),
        (pl.Series("a", ["x"] * 10), "constant"),
        (pl.Series("a", [None] * 10), "every training row lacks it"),
        (pl.Series("a", [float("nan")] * 10), "every training row lacks it"),
        (pl.Series("a", [[1, 2]] * 10), "it holds List"),
    ],
)
def test_the_kind_is_found(series, kind):
    found = choose(series, scale="zscore")
    assert found.startswith(kind) if isinstance(kind, str) else isinstance(found, kind)


def test_every_kind_survives_json():
    rng = np.random.default_rng(0)
    n = 2500
    frame = pl.DataFrame(
        {
            "number": [None if i % 9 == 0 else float(v) for i, v in enumerate(rng.lognormal(size=n))],
            "flag": rng.choice([True, False], n).tolist(),
            "city": rng.choice(["Oslo", "Rome", "Ålesund \"<&'"], n).tolist(),
            "words": [" ".join(rng.choice(["red", "green", "blue", "fast"], 3)) + f" {i}" for i in range(n)],
            "day": [dt.date(2024, 1, 1) + dt.timedelta(days=int(d)) for d in rng.integers(0, 700, n)],
            "id": range(n),
        }
    )
    pipeline = Pipeline.fit(frame)
    again = Pipeline.from_json(json.loads(json.dumps(pipeline.to_json(), allow_nan=False)))
    assert again.transform(frame).equal(pipeline.transform(frame))
    assert again.to_json() == pipeline.to_json()
    assert {c.kind for c in again.prepare.columns} == {"number", "yes or no", "category", "text", "date"}


@pytest.mark.parametrize("broken", [{}, {"format": "other", "version": 1}, {"format": "fallline-pipeline", "version": 1}])
def test_a_foreign_pipeline_is_refused(broken):
    with pytest.raises(FalllineError, match="preprocessing"):
        Pipeline.from_json(broken)


def test_a_table_of_which_nothing_is_left_is_refused():
    with pytest.raises(FalllineError, match=r"no column is left.*constant"):
        Pipeline.fit(pl.DataFrame({"a": [1, 1, 1]}))
