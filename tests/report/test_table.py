"""The page of a table: heat map, curves with published rings, every difference; drawn twice from the same numbers."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from fallline import record, report
from fallline.report import table as table_module
from fallline.report.draw import heat as drawn
from fallline.report.draw import matplotlib_
from fallline.report.figures.heat import heat_map
from fallline.report.figures.lengths import length_curves
from tests.report import made

MEANS = {"batch 32": (0.88, 0.883), "full batch": (0.6, 0.7)}
PUBLISHED = {"batch 32": (0.877, 0.9), "full batch": (0.596, None)}


def table_record(metric: str = "accuracy", seeds: int = 3, beside: bool = True, lost: bool = False) -> record.Reader:
    w = record.Writer(None, kind="table")
    cells: list[dict[str, Any]] = []
    for name, means in MEANS.items():
        for place, epochs in enumerate((2, 4)):
            mean, known = means[place], PUBLISHED[name][place] if beside else None
            gone = lost and name == "full batch"
            cells.append(
                {
                    "cell": name,
                    "batch_size": "full" if name == "full batch" else 32,
                    "epochs": epochs,
                    "metric": metric,
                    "mean": None if gone else mean,
                    "low": None if gone else mean - 0.01,
                    "high": None if gone else mean + 0.01,
                    "n": 0 if gone else seeds,
                    "seeds": seeds,
                    "diverged": seeds if gone else 0,
                    "values": [None if gone else mean + 0.01 * (s - 1) for s in range(seeds)],
                    "published": known,
                    "published_within": None if known is None else abs(known - mean) < 0.011,
                }
            )
        for seed in range(seeds):
            run = f"batch={'full' if name == 'full batch' else 32}/seed={seed}"
            for epoch in (1, 2, 3, 4):
                at: dict[str, Any] = {"step": 10 * epoch, "epoch": epoch, "seconds": float(epoch), "run": run}
                for split in ("train", "test"):
                    w.scalar("accuracy", means[0] - 0.1 + 0.03 * epoch + 0.01 * seed, split=split, **at)
                    w.scalar("loss", 1 / epoch + 0.1 * seed, split=split, **at)
    pair = {"a": "batch 32", "b": "full batch", "n": seeds, "by": "value", "diverged": [0, 0]}
    pairs = [
        {**pair, "epochs": 2, "difference": 0.28, "low": 0.2, "high": 0.36, "p": 0.004},
        {**pair, "epochs": 4, "difference": 0.183, "low": -0.1, "high": 0.4, "p": 0.2},
    ]
    words = "After 2 epochs: batch 32 beats full batch by 20 to 36 points. After 4 epochs: nothing is shown (test accuracy, paired by seed)"
    told = made.info(cells=cells, differences=pairs, headline=words, members=6, seconds=12.0, notes=["one training of 4 epochs"])
    w.info.update(told)
    return record.Reader(w)


def test_the_heat_map_holds_the_cells() -> None:
    heat = heat_map(table_record())
    assert heat is not None
    assert (heat.rows, heat.columns) == (["batch 32", "full batch"], ["2", "4"])
    assert [[spot.value for spot in row] for row in heat.spots] == [[0.88, 0.883], [0.6, 0.7]]
    assert (heat.low, heat.high) == (0.6, 0.883)
    first = heat.spots[0][0]
    assert first.text.replace("\N{NO-BREAK SPACE}", " ") == "88.00 %"
    assert first.small == ["[87.0, 89.0]", "published 87.7"]
    assert heat.spots[0][1].small[-1] == "published 90.0 (outside)"
    assert heat.spots[1][1].small == ["[69.0, 71.0]"]
    assert len(heat.table.rows) == 4
    assert heat.table.columns[-1] == "published"


def test_without_published_cells_nothing_is_said_of_them() -> None:
    heat = heat_map(table_record(beside=False))
    assert heat is not None
    assert "published" not in str(heat)
    assert "ublished" not in " ".join(c.label for c in table_module.cards(table_record(beside=False)))


def test_both_drawings_show_the_same_depths() -> None:
    heat = heat_map(table_record())
    assert heat is not None
    depths = [[drawn.share(heat, spot.value) for spot in row] for row in heat.spots]
    assert depths[0][1] == 1.0
    assert depths[1][0] == 0.0
    spec = drawn.spec(heat)
    assert spec["data"][0]["z"] == depths
    assert len(spec["layout"]["annotations"]) == 4
    go.Figure({"data": json.loads(re.sub(r"@[a-z/0-9.]+", "#123456", json.dumps(spec["data"]))), "layout": {}})
    from matplotlib.figure import Figure

    with matplotlib_.style():
        ax = drawn.draw(heat, Figure().subplots())
    assert np.asarray(ax.images[0].get_array()) / 0.92 == pytest.approx(np.array(depths))
    assert [t.get_text().split("\n")[0] for t in ax.texts] == [spot.text for row in heat.spots for spot in row]


def test_a_lower_metric_is_deepest_where_it_is_lowest() -> None:
    heat = heat_map(table_record(metric="rmse"))
    assert heat is not None
    assert (drawn.share(heat, 0.6), drawn.share(heat, 0.883)) == (1.0, 0.0)
    assert "Lowest mean" in heat.says


def test_runs_that_diverged_are_named() -> None:
    reader = table_record(lost=True)
    heat = heat_map(reader)
    assert heat is not None
    assert heat.spots[1][0].text == "diverged"
    assert math.isnan(heat.spots[1][0].value)
    assert drawn.spec(heat)["data"][0]["z"][1] == [None, None]
    assert "3 of 3 diverged" in report.table_page(reader)


def test_the_curves_are_means_over_seeds_with_published_rings() -> None:
    curves = length_curves(table_record(), "accuracy", "test")
    assert curves is not None
    assert [line.name for line in curves.lines] == ["batch 32", "full batch"]
    assert curves.lines[0].x == [1, 2, 3, 4]
    assert curves.lines[0].y == pytest.approx([0.82, 0.85, 0.88, 0.91])
    assert curves.lines[0].low == pytest.approx([0.81, 0.84, 0.87, 0.9])
    assert [(m.x, m.y, m.series) for m in curves.marks] == [(2, 0.877, "batch 32"), (4, 0.9, "batch 32"), (2, 0.596, "full batch")]
    training = length_curves(table_record(), "accuracy", "train")
    assert training is not None
    assert training.marks == []


def test_where_each_length_was_trained_by_itself_the_longest_is_drawn() -> None:
    w = record.Writer(None, kind="table")
    for epochs in (2, 4):
        for epoch in range(1, epochs + 1):
            w.scalar("loss", epochs, step=epoch, epoch=epoch, split="test", run=f"batch=8/epochs={epochs}/seed=0")
    curves = length_curves(record.Reader(w), "loss", "test")
    assert curves is not None
    assert curves.lines[0].y == [4.0] * 4


def test_the_page_tells_what_is_known_and_every_difference() -> None:
    page = report.table_page(table_record())
    assert "<h1>Batch size against epochs on digits</h1>" in page
    assert "After 2 epochs: batch 32 beats full batch by 20 to 36 points." in page
    assert "After 4 epochs: nothing is shown." in page
    assert "Test accuracy, paired by seed." in page
    cards = {c.label: c.value for c in table_module.cards(table_record())}
    assert cards["Published cells met"] == "2 of 3"
    assert cards["Differences shown"] == "1 of 2"
    table = table_module.pair_table(table_record())
    assert table is not None
    assert table.rows[0] == ["2", "batch 32 − full batch", "+28.00 (+20.00 to +36.00) points", "0.004", "shown"]
    assert table.rows[1][-1] == "not shown"
    assert page.count('class="chart"') == 5


def test_a_record_without_a_result_still_has_a_page() -> None:
    reader = record.Reader(record.Writer(None, kind="table"))
    page = report.table_page(reader)
    assert "No table yet." in page
    assert "has not ended" in page


def test_names_of_the_data_are_escaped() -> None:
    reader = table_record()
    reader.info["data"]["name"] = made.EVIL
    assert made.EVIL not in report.table_page(reader)


def test_a_still_picture(tmp_path: Path) -> None:
    assert report.still(table_record(), tmp_path / "t.png", dpi=60).stat().st_size > 5000
