"""The figures of a study of many cells hold the numbers of its record."""

import math
from typing import Any

import numpy as np
import pytest

from fallline import record
from fallline.report.figures.bands import band, study_curves
from fallline.report.figures.cost import against_time
from fallline.report.figures.intervals import MOST, ranking
from fallline.report.figures.matrix import factor_matrices, matrix
from fallline.report.figures.members import cells, facets, members
from fallline.report.figures.profile import profile, profiles
from fallline.report.figures.sensitivity import bands, edge, searched, sensitivity, useful
from fallline.report.figures.target import steps_ratios, steps_to_target
from tests.report import made, made_study

NAN = math.nan


@pytest.fixture(scope="module")
def wide() -> record.Reader:
    return made_study.wide_record()


def rows(reader: record.Reader) -> list[dict[str, Any]]:
    return reader.info["result"]["table"]


# ---- cells


def test_every_run_is_a_member_of_the_cell_that_its_name_says(wide: record.Reader) -> None:
    found = members(wide)
    assert list(found) == [row["cell"] for row in rows(wide)]
    for row in rows(wide):
        group = found[row["cell"]]
        assert [m.seed for m in group] == [str(s) for s in row["at_seeds"]]
        assert {(m.optimizer, m.settings["batch"], m.settings["loss"]) for m in group} == {
            (row["optimizer"], str(row["batch_size"]), row["loss"])
        }


def test_cells_share_a_series_with_their_optimizer_and_stand_in_a_picture_of_what_else_varies(wide: record.Reader) -> None:
    found = cells(wide)
    assert {c.series for c in found} == set(made_study.OPTIMIZERS)
    assert facets(found) == [
        "batch size 32, cross_entropy", "batch size 128, cross_entropy", "full batch, cross_entropy",
        "batch size 32, focal", "batch size 128, focal", "full batch, focal",
    ]  # fmt: skip
    assert {c.short for c in found if c.row["optimizer"] == "adam"} == {
        f"adam · {b} · {k}" for b in (32, 128, "full") for k in ("cross_entropy", "focal")
    }
    one = made_study.wide_record(("adam",), losses=("cross_entropy",), epochs=3, at_edge=())
    assert {c.facet for c in cells(one)} == {""}
    assert [c.series for c in cells(one)] == [c.name for c in cells(one)]


def test_of_very_many_facets_those_of_the_best_cells_are_drawn() -> None:
    reader = made_study.wide_record(("adam", "sgd"), tuple(2**i for i in range(12)), ("cross_entropy",), seeds=2, epochs=2, at_edge=())
    kept = facets(cells(reader))
    best = list(dict.fromkeys(c.facet for c in cells(reader)))
    assert len(kept) == 8
    assert set(kept) == set(best[:8])
    assert len(study_curves(reader, "loss", "validation")) == 8


# ---- curves


def test_small_pictures_hold_the_mean_and_the_range_of_the_seeds_on_one_axis(wide: record.Reader) -> None:
    found = study_curves(wide, "accuracy", "validation")
    assert len({f.span for f in found}) == 1
    held = members(wide)
    by_place = {(c.facet, c.series): c.name for c in cells(wide)}
    for figure in found:
        assert {line.series for line in figure.lines} == set(made_study.OPTIMIZERS)
        for line in figure.lines:
            curves = [wide.series("accuracy", "validation", m.run).value[1:] for m in held[by_place[figure.title, line.series]]]
            np.testing.assert_allclose(line.y, np.nanmean(curves, axis=0), rtol=6e-4)  # four digits are kept
            np.testing.assert_allclose(line.low or [], np.nanmin(curves, axis=0), rtol=6e-4)
            np.testing.assert_allclose(line.high or [], np.nanmax(curves, axis=0), rtol=6e-4)


def test_losses_of_two_kinds_never_share_an_axis(wide: record.Reader) -> None:
    spans = {f.title.rsplit(", ", 1)[1]: f.span for f in study_curves(wide, "loss", "validation")}
    assert spans["cross_entropy"] != spans["focal"]
    assert spans["cross_entropy"] is not None
    assert spans["focal"] is not None
    assert spans["focal"][1] < 0.6 < 1.5 < spans["cross_entropy"][1]


def test_of_ten_seeds_the_outermost_stand_outside_the_band() -> None:
    values = np.random.default_rng(0).normal(size=(10, 4))
    line = band("a", [([0, 1, 2, 3], list(v)) for v in values])
    np.testing.assert_allclose(line.low or [], np.quantile(values, 0.1, axis=0))
    np.testing.assert_allclose(line.high or [], np.quantile(values, 0.9, axis=0))
    assert (np.asarray(line.low) > values.min(axis=0)).all()


def test_long_curves_of_many_lines_are_thinned_to_true_points(wide: record.Reader) -> None:
    reader = made_study.wide_record(made.OPTIMIZERS, (32, 128), seeds=1, epochs=200, losses=("cross_entropy",), at_edge=())
    (first, _) = study_curves(reader, "loss", "validation")
    line = next(line for line in first.lines if line.series == "adam")
    assert line.x[0] == 1
    assert line.x[-1] == 200
    assert len(line.x) <= 90
    run = next(m.run for name, group in members(reader).items() if name.startswith("adam at batch size 32") for m in group)
    true = reader.series("loss", "validation", run)
    at = dict(zip(true.epoch.tolist(), true.value.tolist(), strict=True))
    np.testing.assert_allclose(line.y, [at[x] for x in line.x], rtol=6e-4)


def test_time_is_drawn_for_each_facet(wide: record.Reader) -> None:
    found = against_time(wide)
    assert [f.title for f in found] == facets(cells(wide))
    assert all("share" in f.note for f in found)


# ---- sensitivity


def test_the_trials_of_every_cell_are_drawn_with_loss_and_metric(wide: record.Reader) -> None:
    found = {t.cell.name: t for t in searched(wide)}
    search = wide.info["result"]["search"]
    assert set(found) == set(search)
    for name, trials in found.items():
        assert [[lr, None if math.isnan(loss) else loss] for lr, loss in zip(trials.lr, trials.loss, strict=True)] == search[name]
        assert trials.start == (0.5 if "focal" in name else 2.2)
        for loss, judged in zip(trials.loss, trials.metric, strict=True):
            assert math.isnan(judged) == math.isnan(loss)
    adam = found["adam at batch size 32 with focal"]
    at = dict(zip(adam.lr, adam.metric, strict=True))
    assert at[0.001] == pytest.approx(0.97 - 0.8 * 0.3 * math.log10(3) ** 1.5)


def test_diverged_trials_and_the_edge_stand_beyond_all_that_was_measured(wide: record.Reader) -> None:
    figures = sensitivity(wide)
    for name, sign in (("loss", 1), ("metric", -1)):
        for figure in figures[name]:
            finite = [sign * y for line in figure.lines for y in line.y if math.isfinite(y)]
            for line in figure.lines:
                lost = {m.x for m in figure.marks if m.series == line.series and m.kind in ("lost", "edge") and sign * m.y > max(finite)}
                assert lost == {x for x, y in zip(line.x, line.y, strict=True) if math.isnan(y)}
    edges = {m.series: m.x for m in figures["loss"][0].marks if m.kind == "edge"}
    assert edges == {"rmsprop": 0.1, "adam": 0.1, "momentum": 1.0}


def test_a_search_whose_best_stands_at_the_end_says_so(wide: record.Reader) -> None:
    by_title = {f.title: f.says for f in sensitivity(wide)["loss"]}
    assert by_title["full batch, focal"] == "The best rate of sgd stands at the end of what was tried, so it is not ranked."
    assert by_title["batch size 32, focal"] == "No best rate stands at the end of what was tried."


@pytest.mark.parametrize(
    ("loss", "start", "found"),
    [
        ([2.0, 0.5, 3.0, NAN], 2.5, 1.0),
        ([2.0, 0.5, 2.4, NAN], 2.5, 10.0),
        ([2.0, 0.5, 3.0, 2.4], 2.5, NAN),  # a larger rate that works: no edge was seen
        ([2.0, 0.5, NAN, NAN], NAN, 1.0),
        ([NAN, NAN, NAN, NAN], 2.5, 0.01),
        ([2.0, 1.5, 1.0, 0.5], 2.5, NAN),
    ],
)
def test_the_edge_is_the_first_rate_from_which_nothing_works(loss: list[float], start: float, found: float) -> None:
    assert edge([0.01, 0.1, 1.0, 10.0], loss, start) == pytest.approx(found, nan_ok=True)


def test_the_useful_band_of_a_parabola_in_the_logarithm_has_its_width() -> None:
    lrs = list(np.geomspace(1e-4, 1, 401))
    loss = [0.2 + 0.5 * math.log10(lr / 0.01) ** 2 for lr in lrs]
    found = useful(lrs, loss, 2.2)  # within 0.2 of the best: |log10(lr / 0.01)| <= sqrt(0.4)
    assert found is not None
    assert found.decades == pytest.approx(2 * math.sqrt(0.4), rel=1e-3)
    assert (found.open_low, found.open_high) == (False, False)


def test_a_band_is_open_where_the_trials_end_and_closed_where_one_diverged() -> None:
    found = useful([0.1, 1.0, 10.0], [0.1, 0.1, NAN], 2.0)
    assert found is not None
    assert (found.low, found.high, found.open_low, found.open_high) == (0.1, 1.0, True, False)
    assert useful([0.1, 1.0], [3.0, 2.5], 2.0) is None
    assert useful([0.1, 1.0], [NAN, NAN], 2.0) is None


def test_the_table_of_bands_has_a_row_for_each_optimizer(wide: record.Reader) -> None:
    found = bands(wide)
    assert found is not None
    assert {row[0]: row[1] for row in found.rows} == dict.fromkeys(made_study.OPTIMIZERS, "6")
    one = bands(made_study.wide_record(("adam", "sgd"), (32,), ("cross_entropy",), epochs=3, at_edge=()))
    assert one is not None
    assert {row[0]: row[1] for row in one.rows} == {"adam": "0.003", "sgd": "0.3"}
    assert next(row for row in one.rows if row[0] == "sgd")[2].startswith("at least")


# ---- steps


def test_steps_are_drawn_for_every_seed_that_got_there_and_the_others_counted(wide: record.Reader) -> None:
    found = steps_to_target(wide)
    assert found is not None
    by_short = {c.short: c.row for c in cells(wide)}
    middles = [row.mean if math.isfinite(row.mean) else math.inf for row in found.rows]
    assert middles == sorted(middles)
    for row in found.rows:
        told = by_short[row.name]
        reached = [s for s in told["steps"] if s is not None]
        assert row.dots == reached
        assert row.aside == (f"{told['missed']} of 5 never" if told["missed"] else "")
        assert row.quiet == (told["rank"] is None)
        if told["missed"] < 3:
            assert row.mean == np.median([math.inf if s is None else s for s in told["steps"]])
        else:
            assert math.isnan(row.mean)
        if reached and told["missed"]:
            assert row.high == math.inf


def test_ratios_are_those_of_the_pairs_whichever_way_they_were_written(wide: record.Reader) -> None:
    found = steps_ratios(wide)
    assert found is not None
    names = {c.short: c.name for c in cells(wide)}
    best = names[found.rows[0].name]
    assert found.rows[0].mean == 1.0
    pairs = {(p["a"], p["b"]): p for p in wide.info["result"]["differences"]}
    turned = 0
    for row in found.rows[1:]:
        name = names[row.name]
        pair, sign = (pairs[name, best], 1) if (name, best) in pairs else (pairs[best, name], -1)
        turned += sign < 0
        if pair["ratio"]:
            assert row.mean == pytest.approx(pair["ratio"] ** sign)
        if pair["ratio_low"] and pair["ratio_high"]:
            assert sorted((pair["ratio_low"] ** sign, pair["ratio_high"] ** sign)) == pytest.approx([row.low, row.high])
        assert row.quiet == (pair["ratio_p"] > 0.05)
    assert turned
    assert turned < len(found.rows) - 1


def test_an_end_without_bound_goes_to_the_side_that_is_open() -> None:
    pair = {"a": "adam", "b": "sgd", "ratio": 0.5, "ratio_low": None, "ratio_high": 0.8, "ratio_p": 0.01}
    table = [{"optimizer": n, "rank": i + 1, "steps": [10 * (i + 1)] * 5, "seeds": 5} for i, n in enumerate(("adam", "sgd"))]
    w = record.Writer(None, kind="study")
    w.info.update(result={"table": table, "differences": [pair]})
    found = steps_ratios(record.Reader(w))
    assert found is not None
    assert (found.rows[1].mean, found.rows[1].low, found.rows[1].high) == (2.0, 1.25, math.inf)


def test_from_before_steps_of_seeds_were_kept_the_middle_one_is_drawn() -> None:
    reader = made.study_record()
    found = steps_to_target(reader)
    assert found is not None
    told = {row["optimizer"]: row for row in rows(reader)}
    for row in found.rows:
        middle = told[row.name]["steps_to_target"]
        assert math.isnan(row.mean) if middle is None else row.mean == middle
    assert steps_ratios(reader) is None


# ---- profiles


def test_profiles_are_the_staircases_of_the_result(wide: record.Reader) -> None:
    found = profile(wide)
    assert found is not None
    for told, line, numbers in zip(wide.info["result"]["profiles"], found.lines, found.table.rows, strict=True):
        assert line.name == told["name"] == numbers[0]
        steps = dict(zip(line.x, line.y, strict=True))  # of two corners at one τ, the upper one
        assert [steps[t] for t in told["tau"]] == told["rho"]
        assert all(b >= a for a, b in zip(line.y, line.y[1:], strict=False))
        assert float(numbers[1]) == pytest.approx(told["score"], abs=6e-4)


def test_profiles_of_an_old_study_are_counted_from_its_curves() -> None:
    reader = made.study_record(lost=None)
    reader.info["result"]["target"] = 0.93
    steps = {}
    for name, group in members(reader).items():
        curves = [reader.series("accuracy", "validation", m.run) for m in group]
        steps[name] = [next((s for s, v in zip(c.step, c.value, strict=True) if v >= 0.93), math.inf) for c in curves]
    best = [min(found) for found in zip(*steps.values(), strict=True)]
    found = {item["name"]: item for item in profiles(reader)}
    assert set(found) == set(steps)
    assert len({tuple(taken) for taken in steps.values()}) > 3
    for name, taken in steps.items():
        for tau, rho in zip(found[name]["tau"], found[name]["rho"], strict=True):
            assert rho == pytest.approx(np.mean([t <= tau * b for t, b in zip(taken, best, strict=True)]))


def test_there_is_no_profile_of_one_optimizer_or_of_two_problems() -> None:
    assert profile(made_study.wide_record(("adam",), (32,), ("focal",), epochs=4, at_edge=())) is None
    assert profile(made_study.wide_record(("adam", "rmsprop"), (32,), ("focal",), seeds=2, epochs=9, at_edge=())) is None
    assert profile(made_study.wide_record(("adam", "rmsprop"), (32,), ("focal",), seeds=3, epochs=9, at_edge=())) is not None


# ---- pairs


def test_the_matrix_holds_the_differences_of_the_best_twelve_with_their_sign_turned_below_the_diagonal(wide: record.Reader) -> None:
    found = matrix(wide)
    assert found is not None
    names = [row["cell"] for row in rows(wide)][:12]
    pairs = {(p["a"], p["b"]): p for p in wide.info["result"]["differences"]}
    shown = 0
    for i, a in enumerate(names):
        assert found.entries[i][i] is None
        for j in range(i + 1, 12):
            above, below, pair = found.entries[i][j], found.entries[j][i], pairs[a, names[j]]
            assert above is not None
            assert below is not None
            assert above.text == f"{100 * pair['difference']:+.2f}".replace("-", "−")
            assert below.lean == -above.lean
            assert (above.lean != 0) == (pair["p"] <= 0.05)
            if above.lean:
                assert (above.lean > 0) == (pair["difference"] > 0)
            shown += above.lean != 0
    assert shown > 0
    assert found.says.startswith(f"{shown} pair")
    assert len(found.labels) == 12


def test_of_a_loss_the_lower_row_is_the_better_one_and_divergence_counts_as_worse() -> None:
    table = [{"cell": n, "optimizer": n, "rank": i + 1, "metric": "loss", "mean": 0.1, "seeds": 5} for i, n in enumerate("abc")]
    ab = {"a": "a", "b": "b", "n": 5, "difference": -0.2, "low": -0.3, "high": -0.1, "p": 0.01, "by": "value", "diverged": [0, 0]}
    ac = {"a": "a", "b": "c", "n": 5, "difference": None, "low": None, "high": None, "p": 0.01, "by": "diverged", "diverged": [0, 5]}
    bc = {"a": "b", "b": "c", "n": 5, "difference": -0.1, "low": -0.4, "high": 0.2, "p": 0.4, "by": "value", "diverged": [0, 0]}
    w = record.Writer(None, kind="study")
    w.info.update(result={"table": table, "differences": [ab, ac, bc]})
    found = matrix(record.Reader(w))
    assert found is not None
    leans = [[e.lean if e else None for e in row] for row in found.entries]
    assert leans == [[None, 1.0, 1.0], [-1.0, None, 0.0], [-1.0, 0.0, None]]
    assert [e.text if e else "" for e in found.entries[2]] == ["diverges more", "+0.1", ""]


def test_each_factor_has_a_matrix_of_its_levels(wide: record.Reader) -> None:
    found = factor_matrices(wide)
    told = wide.info["result"]["factors"]
    assert [m.labels for m in found] == [[level["level"] for level in factor["levels"]] for factor in told]
    assert found[0].title == "Accuracy by optimizer, over every batch size and loss"
    for one, factor in zip(found, told, strict=True):
        for pair in factor["pairs"]:
            entry = one.entries[one.labels.index(pair["a"])][one.labels.index(pair["b"])]
            assert entry is not None
            assert (entry.lean != 0) == (pair["p"] <= 0.05)
            if pair["difference"] is not None:
                assert entry.text == f"{100 * pair['difference']:+.2f}".replace("-", "−")


def test_rows_that_are_not_ranked_are_in_no_matrix_and_grey_elsewhere(wide: record.Reader) -> None:
    found, drawn = matrix(wide), ranking(wide)
    assert found is not None
    assert drawn is not None
    aside = {c.short for c in cells(wide) if c.row["rank"] is None}
    assert len(aside) == 2
    assert not aside & set(found.labels)
    assert {row.name for row in drawn.rows if row.quiet} == aside


def test_of_very_many_rows_the_best_are_drawn() -> None:
    reader = made_study.wide_record(made.OPTIMIZERS, (8, 16, 32, 64, 128), ("cross_entropy",), seeds=2, epochs=3, at_edge=())
    found = ranking(reader)
    assert found is not None
    assert [row.mean for row in found.rows] == [row["mean"] for row in rows(reader)][:MOST]
    assert f"The best {MOST} of 45 are drawn" in found.note
