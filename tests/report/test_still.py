import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fallline import record, report
from fallline._core.errors import FalllineError
from fallline.report import run as run_module
from fallline.report import study as study_module
from fallline.report.draw import matplotlib_
from fallline.report.figures.shapes import Curves
from tests.report import made, made_study


def _axes():
    from matplotlib.figure import Figure

    return Figure().subplots()


def test_a_still_picture_draws_the_same_numbers() -> None:
    for figure in (f for found in study_module.figures(made.study_record())["curves"].values() for f in found):
        assert isinstance(figure, Curves)
        with matplotlib_.style():
            ax = matplotlib_.draw(figure, _axes())
        drawn = {line.get_label(): line for line in ax.get_lines()}
        for line in figure.lines:
            np.testing.assert_allclose(np.asarray(drawn[line.name].get_xdata(), float), line.x)
            np.testing.assert_allclose(np.asarray(drawn[line.name].get_ydata(), float), line.y)


def test_every_figure_can_be_drawn_still() -> None:
    of_runs = [run_module.figures(made.run_record()), run_module.figures(made.regression_record())]
    figures = [f for group in of_runs for found in group.values() for f in found]
    for found in map(study_module.figures, (made.study_record(), made_study.wide_record())):
        figures += [*found["first"], *found["matrix"], *found["steps"]]
        figures += [f for part in (found["curves"], found["rates"]) for measure in part.values() for f in measure]
    kinds = set()
    for figure in figures:
        with matplotlib_.style():
            ax = matplotlib_.draw(figure, _axes())
            ax.figure.savefig(io.BytesIO())
            ticks = [*ax.get_xticklabels(which="both"), *ax.get_yticklabels(which="both")]
        assert not any("$" in tick.get_text() for tick in ticks)  # mathematics is not read, so none may be written
        for axis in (ax.xaxis, ax.yaxis):  # a logarithmic axis has numbers to read
            assert axis.get_scale() != "log" or sum(bool(tick.get_text()) for tick in axis.get_ticklabels()) >= 2
        assert ax.get_title(loc="left") == figure.title
        kinds.add(type(figure).__name__)
    assert kinds == {"Curves", "Intervals", "Scatter", "Grid", "Bars", "Matrix"}


@pytest.mark.parametrize("make", [made.run_record, made.study_record, made.regression_record])
def test_a_picture_is_written(make, tmp_path: Path) -> None:
    path = report.still(make(), tmp_path / "new" / "x.png", dpi=60)
    image = np.asarray(Image.open(path).convert("L"))
    assert image.shape[1] > 400
    assert image.min() < 100 < image.max()


def test_names_are_never_read_as_mathematics(tmp_path: Path) -> None:
    reader = made.run_record(classes=["$\\frac", "a$b$", "<b>"])
    reader.info["data"]["name"] = "$\\broken{"
    assert report.still(reader, tmp_path / "x.svg").stat().st_size > 1000


def test_a_picture_of_nothing_or_with_a_foreign_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FalllineError, match="empty record"):
        report.still(record.Reader(record.Writer(None)), tmp_path / "x.png")
    with pytest.raises(FalllineError, match=r"ends in \.png"):
        report.still(made.run_record(), tmp_path / "x.txt")
    assert list(tmp_path.iterdir()) == []
