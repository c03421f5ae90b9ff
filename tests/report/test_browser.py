"""The pages in a real browser, where one is installed: every chart is drawn, nothing is complained of."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fallline import report
from tests.report import made

BROWSER = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium here")]


def _open(html: str, folder: Path) -> tuple[str, str]:
    path = report.write(html, folder / "page.html")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0", "--window-size=1280,2000"]
    command = [str(BROWSER), *flags, f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=60000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "HOME": str(folder)})
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize(
    "html",
    [
        lambda: report.run_page(made.run_record(classes=[made.EVIL, "<img src=x onerror=alert(1)>"])),
        lambda: report.run_page(made.regression_record()),
        lambda: report.study_page(made.study_record()),
        lambda: report.page("Words only", "<p>x</p>"),
    ],
    ids=["run", "regression", "study", "no charts"],
)
def test_a_browser_draws_every_chart_and_complains_of_nothing(html, tmp_path: Path) -> None:
    whole = html()
    dom, complaints = _open(whole, tmp_path)
    assert complaints == ""
    places = len(re.findall(r'class="chart"', whole))
    assert len(re.findall(r'class="chart js-plotly-plot"', dom)) == places
    assert dom.count("main-svg") >= places
    assert "cannot be drawn" not in dom.split("<script>")[0]
