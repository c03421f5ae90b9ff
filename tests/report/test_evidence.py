"""What a run stores for its report agrees with the metrics that the run measured."""

from pathlib import Path

import numpy as np
import pytest
import torch

import fallline as fl
from fallline import report
from fallline.report import run as run_module


@pytest.mark.parametrize("classes", [2, 3])
def test_the_confusion_table_of_a_run_agrees_with_its_accuracy(classes: int) -> None:
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)).numpy()
    y = np.clip((x[:, 0] * 1.5 + 0.5 * classes).astype(int), 0, classes - 1)
    run = fl.fit("linear", (x, y), lr=0.1, epochs=3, quiet=True)
    told = run.reader.info["result"]["confusion"]
    counts = np.asarray(told["counts"])
    assert told["split"] == "test"
    assert counts.shape == (classes, classes)
    assert counts.sum() == len(run.data.test)
    assert counts.sum(axis=1).tolist() == torch.bincount(run.data.test.y, minlength=classes).tolist()
    assert np.trace(counts) / counts.sum() == pytest.approx(run.metrics["test"]["accuracy"])


def test_the_predictions_of_a_run_agree_with_its_mean_absolute_error(tmp_path: Path) -> None:
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).numpy()
    run = fl.fit("linear", (x, 100 + 20 * x[:, 0]), lr=0.1, epochs=5, quiet=True, out=tmp_path / "run")
    told = run.reader.info["result"]["predictions"]
    true, predicted = np.asarray(told["true"]), np.asarray(told["predicted"])
    assert np.abs(true - predicted).mean() == pytest.approx(run.metrics["test"]["mae"], rel=1e-4)
    assert {f.name for f in run_module.figures(run.reader)["result"]} == {"predicted", "residuals"}
    page = run.report()
    assert page == tmp_path / "run" / "report.html"
    assert "Predicted against true" in page.read_text()


def test_a_comparison_has_a_page_and_a_picture(tmp_path: Path) -> None:
    x = torch.randn(120, 3, generator=torch.Generator().manual_seed(0)).numpy()
    study = fl.compare(
        "linear", (x, (x[:, 0] > 0).astype(int)), ["sgd", "adam"], lrs=[0.01, 0.1], seeds=2, epochs=2, quiet=True, out=tmp_path / "s"
    )
    html = study.report().read_text()
    for row in study.table:
        assert f"{100 * row['mean']:.2f}" in html
    assert "Validation loss against learning rate" in html
    assert report.still(study.reader, tmp_path / "s.png", dpi=50).stat().st_size > 5000
