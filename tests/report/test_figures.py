import math

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from fallline import record
from fallline.report import colours
from fallline.report.draw.plotly_ import log_ticks
from fallline.report.figures.bands import band, study_curves
from fallline.report.figures.confusion import class_table, confusion, per_class
from fallline.report.figures.cost import against_time
from fallline.report.figures.intervals import ranking
from fallline.report.figures.loss import loss_curves
from fallline.report.figures.members import members
from fallline.report.figures.metrics import metric_curves
from fallline.report.figures.residuals import pairs, predicted_against_true, quantile, residual_bars
from fallline.report.figures.sensitivity import sensitivity
from fallline.report.figures.shapes import ending, thin
from fallline.report.figures.steps import step_curve
from tests.report import made


def test_loss_curves_are_the_record_and_the_kept_epoch_is_marked() -> None:
    reader = made.run_record()
    found = loss_curves(reader, best_epoch=13)
    assert found is not None
    by_split = {line.series: line for line in found.lines}
    assert by_split["validation"].x == list(range(1, 21))
    assert by_split["validation"].y == pytest.approx(reader.series("loss", "validation").value.tolist())
    (best,) = [m for m in found.marks if m.kind == "best"]
    assert (best.x, best.y) == (13, by_split["validation"].y[12])
    assert "epoch 13" in found.says


def test_without_a_told_epoch_the_lowest_validation_loss_is_marked() -> None:
    reader = made.run_record()
    found = loss_curves(reader)
    values = reader.series("loss", "validation").value
    assert found is not None
    assert found.marks[0].x == 1 + int(np.argmin(values))


def test_a_metric_has_no_best_mark_of_its_own() -> None:
    (accuracy,) = metric_curves(made.run_record())
    assert accuracy.name == "accuracy"
    assert accuracy.percent
    assert not accuracy.marks


def test_a_curve_that_diverged_ends_with_a_cross() -> None:
    found = loss_curves(made.run_record(diverged=True))
    assert found is not None
    ends = {m.series: m.x for m in found.marks if m.kind == "end"}
    assert ends == {"train": 10, "validation": 10}
    assert "after epoch 10" in found.says


def test_one_epoch_is_said_to_be_one_value() -> None:
    w = record.Writer(None)
    w.scalar("accuracy", 0.5, step=1, epoch=1, split="validation")
    (found,) = metric_curves(record.Reader(w))
    assert found.says.startswith("One value only")


def test_nothing_recorded_gives_no_figure() -> None:
    empty = record.Reader(record.Writer(None, kind="study"))
    assert loss_curves(empty) is None
    assert metric_curves(empty) == []
    assert step_curve(empty, "lr") is None
    assert study_curves(empty, "loss", "train") == []
    assert ranking(empty) is None
    assert sensitivity(empty) == {}
    assert against_time(empty) == []


def test_thinning_keeps_the_mean_and_the_last_place() -> None:
    x, y = list(range(1, 1001)), [float(v % 7) for v in range(1000)]
    xs, ys, every = thin(x, y, most=100)
    assert every == 10
    assert len(xs) == 100
    assert xs[-1] == 1000
    assert np.mean(ys) == pytest.approx(np.mean(y))


def test_the_table_of_a_long_curve_keeps_first_and_last_row() -> None:
    w = record.Writer(None)
    for e in range(1, 301):
        w.scalar("loss", 1 / e, step=e, epoch=e, split="validation")
    found = loss_curves(record.Reader(w))
    assert found is not None
    assert len(found.table.rows) == 60
    assert found.table.rows[0][0] == "1"
    assert found.table.rows[-1][0] == "300"


def test_an_ending_needs_a_finite_beginning() -> None:
    nan = math.nan
    assert ending([1, 2], [nan, nan]) is None
    assert ending([1, 2, 3], [nan, 5.0, nan]) == (2, 5.0)
    assert ending([1, 2], [nan, 5.0]) is None


def test_a_band_is_mean_lowest_and_highest_of_the_seeds() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 6))
    line = band("a", [(list(range(6)), list(v)) for v in values])
    assert line.y == pytest.approx(values.mean(axis=0))
    assert line.low == pytest.approx(values.min(axis=0))
    assert line.high == pytest.approx(values.max(axis=0))


def test_one_seed_has_no_band_and_the_note_says_so() -> None:
    (found,) = study_curves(made.study_record(seeds=1, lost=None), "loss", "validation")
    assert all(line.low is None for line in found.lines)
    assert "One seed only" in found.note


def test_a_lost_seed_is_marked_and_the_mean_goes_on_with_the_rest() -> None:
    reader = made.study_record(("adam", "adadelta"), seeds=3, epochs=10)
    (found,) = study_curves(reader, "loss", "validation")
    (mark,) = found.marks
    assert (mark.series, mark.kind, mark.x) == ("adadelta", "end", 5)
    line = next(li for li in found.lines if li.series == "adadelta")
    left = [reader.series("loss", "validation", m.run).value[-1] for m in members(reader)["adadelta"]]
    assert math.isnan(left[0])
    assert line.y[-1] == pytest.approx((left[1] + left[2]) / 2)
    assert "Adadelta lost at least one seed" in found.says


def test_members_follow_the_order_of_the_table_and_leave_the_search_out() -> None:
    reader = made.study_record()
    order = [row["optimizer"] for row in reader.info["result"]["table"]]
    found = members(reader)
    assert list(found) == order
    assert all(len(group) == 3 and not any(m.search for m in group) for group in found.values())


def test_batch_sizes_tell_series_apart() -> None:
    w = record.Writer(None, kind="study")
    for batch in (32, 128):
        for seed in range(2):
            w.scalar("loss", batch + seed, step=1, epoch=1, split="train", run=f"adam/batch={batch}/lr=0.01/seed={seed}")
    search = {"adam, batch 32": [[0.01, 1.0], [0.1, None]], "adam, batch 128": [[0.01, 3.0]]}
    rows = [{"optimizer": "adam", "batch_size": b, "lr": 0.01, "mean": 1.0, "metric": "loss"} for b in (128, 32)]
    w.info.update(result={"table": rows, "search": search})
    reader = record.Reader(w)
    (found,) = study_curves(reader, "loss", "train")
    assert [(line.name, line.y) for line in found.lines] == [("adam, batch 128", [128.5]), ("adam, batch 32", [32.5])]
    (curves,) = sensitivity(reader)["loss"]
    chosen = {(m.series, m.x, m.y) for m in curves.marks if m.kind == "chosen"}
    assert chosen == {("adam, batch 32", 0.01, 1.0), ("adam, batch 128", 0.01, 3.0)}


def test_the_ranking_shows_the_values_of_the_table() -> None:
    reader = made.study_record()
    found = ranking(reader)
    assert found is not None
    for row, told in zip(found.rows, reader.info["result"]["table"], strict=True):
        assert (row.name, row.mean, row.low, row.high, row.dots) == (
            told["optimizer"],
            told["mean"],
            told["low"],
            told["high"],
            told["values"],
        )


def test_without_values_the_ranking_takes_the_best_of_each_curve() -> None:
    reader = made.study_record(("adam",), lost=None)
    del reader.info["result"]["table"][0]["values"]
    found = ranking(reader)
    assert found is not None
    want = [reader.series("accuracy", "validation", m.run).value.max() for m in members(reader)["adam"]]
    assert found.rows[0].dots == pytest.approx(want)


def test_the_search_marks_what_was_chosen_and_names_the_edge() -> None:
    (found,) = sensitivity(made.study_record())["loss"]
    chosen = [m for m in found.marks if m.kind == "chosen"]
    assert len(chosen) == len(made.OPTIMIZERS)
    assert all(m.y == 0.1 for m in chosen)
    assert "adadelta" in found.says
    sgd = next(line for line in found.lines if line.name == "sgd")
    assert sgd.x == sorted(sgd.x)


def test_a_search_whose_trial_diverged_has_a_gap() -> None:
    w = record.Writer(None, kind="study")
    w.info.update(result={"search": {"adam": [[1.0, None], [0.1, 0.4]]}})
    (found,) = sensitivity(record.Reader(w))["loss"]
    assert math.isnan(found.lines[0].y[-1])
    assert "diverged" in found.table.rows[0][1]


def test_time_is_the_mean_over_seeds_and_never_goes_back() -> None:
    reader = made.study_record()
    (found,) = against_time(reader)
    adam = next(line for line in found.lines if line.name == "adam")
    runs = [reader.series("accuracy", "validation", m.run) for m in members(reader)["adam"]]
    assert adam.x == pytest.approx(np.mean([r.seconds for r in runs], axis=0))
    assert adam.y == pytest.approx(np.mean([r.value for r in runs], axis=0))
    assert found.says.startswith("sgd was done first")


def test_classes_are_judged_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(1)
    true, seen = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    counts = np.zeros((4, 4), int)
    np.add.at(counts, (true, seen), 1)
    want = precision_recall_fscore_support(true, seen)
    found = per_class(counts.tolist(), list("abcd"))
    assert [c.precision for c in found] == pytest.approx(want[0])
    assert [c.recall for c in found] == pytest.approx(want[1])
    assert [c.f1 for c in found] == pytest.approx(want[2])
    assert [c.rows for c in found] == want[3].tolist()


def test_the_most_frequent_mistake_is_named_true_class_first() -> None:
    grid = confusion([[5, 1, 0], [0, 6, 4], [0, 0, 3]], ["a", "b", "c"])
    assert grid is not None
    assert grid.says.startswith("14 of 19 test rows")
    assert "b taken for c (4 times)" in grid.says
    assert class_table(grid).rows[1][:4] == ["b", "10", "85.7\N{NO-BREAK SPACE}%", "60.0\N{NO-BREAK SPACE}%"]


def test_a_large_confusion_table_lists_mistakes_in_place_of_all_counts() -> None:
    counts = (np.eye(50, dtype=int) * 5).tolist()
    counts[3][7], counts[9][1] = 2, 4
    grid = confusion(counts, [f"c{i}" for i in range(50)])
    assert grid is not None
    assert grid.table.rows == [["c9", "c1", "4"], ["c3", "c7", "2"]]


@pytest.mark.parametrize("raw", [None, 3, "x", [], [[1]], [[1, 2]], [[1, 2], [3]], [["a", "b"], ["c", "d"]], {"counts": None}])
def test_what_is_no_confusion_table_gives_none(raw: object) -> None:
    assert confusion(raw, ["a", "b"]) is None


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.73, 1.0])
def test_quantiles_are_numpys(share: float) -> None:
    values = sorted(np.random.default_rng(2).normal(size=37).tolist())
    assert quantile(values, share) == pytest.approx(np.quantile(values, share))


def test_residuals_count_the_central_rows() -> None:
    rng = np.random.default_rng(3)
    true = rng.normal(size=1000)
    predicted = true + rng.normal(size=1000)
    raw = {"true": true.tolist(), "predicted": predicted.tolist(), "split": "test"}
    bars = residual_bars(raw)
    assert bars is not None
    assert sum(bars.heights) == 990
    assert bars.table.rows[2][1] == f"{np.median(predicted - true):.4g}"
    scatter = predicted_against_true(raw, "price")
    assert scatter is not None
    assert scatter.groups[0].x == pytest.approx(true)
    assert f"{np.median(np.abs(predicted - true)):.3g}" in scatter.says


def test_a_perfect_regression_still_has_a_histogram() -> None:
    bars = residual_bars({"true": [1, 2, 3], "predicted": [1, 2, 3]})
    assert bars is not None
    assert sum(bars.heights) == 3
    assert bars.edges[0] < 0 < bars.edges[-1]


@pytest.mark.parametrize("raw", [None, [], {"true": [1]}, {"true": [1], "predicted": [1, 2]}, {"true": [None], "predicted": [1]}])
def test_what_are_no_predictions_gives_none(raw: object) -> None:
    assert pairs(raw) is None


def test_an_optimizer_keeps_its_colour_whoever_is_beside_it() -> None:
    alone = {name: colours.assign([name])[name] for name in made.OPTIMIZERS}
    assert colours.assign(made.OPTIMIZERS) == alone
    assert colours.assign(reversed(made.OPTIMIZERS)) == alone
    assert colours.assign(["mine", *made.OPTIMIZERS])["adam"] == alone["adam"]


def test_twelve_series_have_twelve_colours() -> None:
    names = [*made.OPTIMIZERS, "adamw", "lion", "adam:betas=0.8|0.99"]
    assert len(set(colours.assign(names).values())) == 12


def _linear(hex_: str) -> np.ndarray:
    srgb = np.array([int(hex_[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _lab(linear: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(linear, 0, 1)
    f = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# Machado, Oliveira & Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009, severity 1
_EYES = {
    "usual": np.eye(3),
    "protan": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deutan": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "tritan": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}


@pytest.mark.parametrize("eye", _EYES)
@pytest.mark.parametrize("ground", ["light", "dark"])
def test_colours_that_look_alike_differ_in_dash(eye: str, ground: str) -> None:
    seen = [_lab(_EYES[eye] @ _linear(getattr(slot, ground))) for slot in colours.SLOTS]
    for i, a in enumerate(colours.SLOTS):
        for j, b in enumerate(colours.SLOTS[:i]):
            if a.dash == b.dash:
                assert np.linalg.norm(seen[i] - seen[j]) > 12, (i, j, a, b)


@pytest.mark.parametrize("index", range(len(colours.SLOTS)))
def test_every_colour_stands_out_from_its_ground(index: int) -> None:
    slot = colours.SLOTS[index]
    for colour, ground in ((slot.light, colours.LIGHT["surface"]), (slot.dark, colours.DARK["surface"])):
        a, b = sorted(float(_linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (colour, ground))
        assert (b + 0.05) / (a + 0.05) >= 3


@pytest.mark.parametrize("theme", [colours.LIGHT, colours.DARK])
@pytest.mark.parametrize("role", ["ink", "soft", "accent", "good", "warn", "bad"])
def test_text_is_readable(theme: dict[str, str], role: str) -> None:
    for ground in ("ground", "surface", "sunken"):
        a, b = sorted(float(_linear(theme[name]) @ [0.2126, 0.7152, 0.0722]) for name in (role, ground))
        assert (b + 0.05) / (a + 0.05) >= 4.5, (role, ground)


@pytest.mark.parametrize(("low", "high"), [(0.01, 0.02), (1e-6, 1e3), (0.5, 0.9), (3e-4, 0.2), (0.2129, 0.266)])
def test_log_ticks_lie_within_and_are_not_too_many(low: float, high: float) -> None:
    ticks = log_ticks([low, high])["tickvals"]
    assert 1 <= len(ticks) <= 12
    assert all(low * 0.8 <= t <= high * 1.25 for t in ticks)
    assert sum(low <= t <= high for t in ticks) >= 2
