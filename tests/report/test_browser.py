"""The pages in a real browser, where one is installed: every chart is drawn, nothing is complained of."""

import html as html_
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fallline import report
from tests.report import made, made_study

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
        lambda: report.study_page(made_study.wide_record()),
        lambda: report.page("Words only", "<p>x</p>"),
    ],
    ids=["run", "regression", "study", "wide study", "no charts"],
)
def test_a_browser_draws_every_chart_and_complains_of_nothing(html, tmp_path: Path) -> None:
    whole = html()
    dom, complaints = _open(whole, tmp_path)
    assert complaints == ""
    places = len(re.findall(r'class="chart"', whole))
    assert len(re.findall(r'class="chart js-plotly-plot"', dom)) == places
    assert dom.count("main-svg") >= places
    assert "cannot be drawn" not in dom.split("<script>")[0]


_CLICKS = """<script>
const wait = setInterval(() => {
  if (document.documentElement.dataset.ready !== "yes") return;
  clearInterval(wait);
  const one = (s) => document.querySelector(s), every = (s) => [...document.querySelectorAll(s)];
  const switched = "#curves .chart, #search .chart";
  const hidden = () => every(switched).map((c) => c.data.filter((t) => t.visible === false && t.meta === "adam").length);
  const others = () => every(switched).map((c) => c.data.filter((t) => t.visible === false && t.meta !== "adam").length);
  const key = one("#curves .key[data-series=adam]"), told = {};
  key.click(); told.off = hidden();
  told.pressed = every(".key[data-scope=all][data-series=adam]").map((k) => k.getAttribute("aria-pressed"));
  key.click(); told.on = hidden();
  key.dispatchEvent(new MouseEvent("dblclick")); told.alone = [hidden(), others()];
  key.dispatchEvent(new MouseEvent("dblclick")); told.all = others();
  const log = one("[data-log-of]"), chart = one(`.chart[data-chart="${log.dataset.logOf}"]`);
  told.linear = chart.layout.yaxis.type; log.click(); told.log = chart.layout.yaxis.type;
  const heads = every("table.rank th button"), column = () => every("table.rank tbody tr").map((r) => r.cells[6].dataset.value);
  heads[6].click(); told.up = column(); heads[6].click(); told.down = column();
  const before = chart.layout.font.color; one("#theme").click(); told.theme = before !== chart.layout.font.color;
  document.title = "TOLD" + JSON.stringify(told);
}, 50);
</script></body>"""


def test_clicks_hide_series_change_the_scale_and_sort(tmp_path: Path) -> None:
    whole = report.study_page(made.study_record())
    dom, _ = _open(whole.replace("</body>", _CLICKS), tmp_path)
    found = re.search(r"<title>TOLD(.*?)</title>", dom)
    assert found is not None
    told = json.loads(html_.unescape(found.group(1)))
    assert all(n > 0 for n in told["off"])
    assert told["pressed"] == ["false", "false"]
    assert not any(told["on"])
    assert not any(told["alone"][0])
    assert all(n > 0 for n in told["alone"][1])
    assert not any(told["all"])
    assert (told["linear"], told["log"], told["theme"]) == ("linear", "log", True)
    steps = sorted(int(v) for v in told["up"] if v)
    assert [int(v) for v in told["up"][:-1]] == steps
    assert [int(v) for v in told["down"][:-1]] == steps[::-1]
    assert told["up"][-1] == told["down"][-1] == ""
