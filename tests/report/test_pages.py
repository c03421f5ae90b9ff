import base64
import gzip
import importlib.resources
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from fallline import record, report
from fallline._core.errors import FalllineError
from fallline.report import run as run_module
from fallline.report import study as study_module
from fallline.report.page import json_in_script, plotly_packed
from fallline.report.standing import difference_text
from tests.report import made, made_study


class Page(HTMLParser):
    """What a browser finds in a page: elements with their attributes, the text of each script, all visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else self._inside
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._inside != "style":
            self.words.append(data)

    def find(self, tag: str, **attrs: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and all(a.get(k.strip("_")) == v for k, v in attrs.items())]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    @property
    def charts(self) -> dict[str, Any]:
        return next((json.loads(unpacked(text)) for attrs, text in self.scripts if attrs.get("id") == "charts"), {})


def unpacked(text: str) -> str:
    """JSON as a page holds it: plain, or packed where it is large."""
    text = text.strip()
    return text if text.startswith("{") else gzip.decompress(base64.b85decode(text.translate(str.maketrans(",.:", "<>&")))).decode()


WIDE = made_study.wide_record()
PAGES = {
    "run": lambda: report.run_page(made.run_record()),
    "diverged": lambda: report.run_page(made.run_record(diverged=True, status="diverged")),
    "regression": lambda: report.run_page(made.regression_record()),
    "one epoch": lambda: report.run_page(made.run_record(epochs=1)),
    "study": lambda: report.study_page(made.study_record()),
    "one seed": lambda: report.study_page(made.study_record(seeds=1, epochs=1, lost=None)),
    "wide study": lambda: report.study_page(WIDE),
    "empty run": lambda: report.run_page(record.Reader(record.Writer(None))),
    "empty study": lambda: report.study_page(record.Reader(record.Writer(None, kind="study"))),
}


@pytest.fixture(params=PAGES)
def html(request: pytest.FixtureRequest) -> str:
    return PAGES[request.param]()


def test_a_page_asks_nothing_of_any_network(html: str) -> None:
    page = Page(html)
    for tag, attrs in page.tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            assert (attrs.get(name) or "#").startswith(("#", "data:")), (tag, attrs)
    (policy,) = page.find("meta", http_equiv="Content-Security-Policy") or [a for t, a in page.tags if a.get("http-equiv")]
    assert "default-src 'none'" in (policy["content"] or "")
    styles = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert styles
    assert not re.search(r"@import|url\(", styles[0])


def test_a_page_is_small(html: str) -> None:
    assert len(html.encode()) < 2 * 1024**2


def test_every_chart_has_words_and_numbers_beside_it(html: str) -> None:
    page = Page(html)
    places = [a for t, a in page.tags if t == "div" and "data-chart" in a]
    assert {a["data-chart"] for a in places} == set(page.charts)
    for place in places:
        assert place["role"] == "img"
        assert len(place["aria-label"] or "") > 20
    assert len(page.find("details")) >= len(places)


def test_every_chart_is_one_that_plotly_takes(html: str) -> None:
    def painted(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: painted(v) for k, v in value.items()}
        if isinstance(value, list):
            return [painted(v) for v in value]
        return "rgba(1,2,3,0.5)" if isinstance(value, str) and re.fullmatch(r"@[a-z]+\d*(/[\d.]+)?", value) else value

    for spec in Page(html).charts.values():
        figure = go.Figure(data=painted(spec["data"]), layout=painted(spec["layout"]))
        assert len(figure.data) == len(spec["data"])
        assert spec["height"] >= 100


def test_every_colour_token_is_declared(html: str) -> None:
    tokens = {m.group(1) for m in re.finditer(r'"@([a-z]+\d*)(?:/[\d.]+)?"', json.dumps(Page(html).charts))} - {"onheat"}
    declared = set(re.findall(r"--([a-z]+\d*):#", html))
    assert tokens <= declared


def test_plotly_is_inlined_once_and_unpacks_to_itself() -> None:
    packed = str(plotly_packed())
    html = PAGES["study"]()
    assert html.count(packed) == 1
    assert not set(packed) & set("<>&")
    back = gzip.decompress(base64.b85decode(packed.translate(str.maketrans(",.:", "<>&"))))
    assert back == importlib.resources.files("plotly").joinpath("package_data/plotly.min.js").read_bytes()


def test_the_same_record_gives_the_same_page() -> None:
    one, two = made.run_record(created="x"), made.run_record(created="x")
    assert report.run_page(one) == report.run_page(two)


EVIL = [made.EVIL, "<b>no</b>", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}", "%{x}", "a & b", "' onload='alert(1)", "\u2028"]


def _evil_run() -> record.Reader:
    reader = made.run_record(classes=EVIL)
    info = reader.info
    info["data"] |= {"name": made.EVIL, "target": made.EVIL, "notes": [made.EVIL]}
    info["data"]["summary"]["columns"] = [{"name": made.EVIL, "kind": made.EVIL}]
    info["model"] |= {"spec": made.EVIL, "layers": [made.EVIL]}
    info |= {"command": f"fallline {made.EVIL}", "choices": [made.EVIL], "findings": [{"name": made.EVIL, "why": made.EVIL}]}
    info["config"][made.EVIL] = made.EVIL
    info["environment"][made.EVIL] = made.EVIL
    return reader


def test_hostile_names_stay_text_in_a_run() -> None:
    fair, evil = Page(report.run_page(made.run_record())), Page(report.run_page(_evil_run()))
    assert len(evil.scripts) == len(fair.scripts)
    assert not evil.find("img")
    assert not [a for _, a in evil.tags if any(name.startswith("on") for name in a)]
    assert made.EVIL in evil.text
    assert "{{ 7*7 }}" in evil.text
    assert "49" not in evil.text.split()
    assert evil.scripts[-1] == fair.scripts[-1]
    ticks = next(spec["layout"]["xaxis"]["ticktext"] for spec in evil.charts.values() if "ticktext" in spec["layout"]["xaxis"])
    assert ticks[1] == "&lt;b&gt;no&lt;/b&gt;"


def test_hostile_names_stay_text_in_a_study() -> None:
    names = (made.EVIL.replace("/", "|"), "<img src=x onerror=alert(1)>", "sgd")
    fair, evil = (
        Page(report.study_page(made.study_record(names[2:], lost=None))),
        Page(report.study_page(made.study_record(names, lost=None))),
    )
    assert len(evil.scripts) == len(fair.scripts)
    assert not evil.find("img")
    for spec in evil.charts.values():
        for trace in spec["data"]:
            assert "<" not in trace.get("name", "")
            assert not any(name in trace.get("hovertemplate", "") for name in names)


def test_json_in_a_script_cannot_end_it() -> None:
    text = str(json_in_script({"</script>": ["<!--", "&", "\u2028", float("inf"), True, None, 3]}))
    assert not set(text) & set("<>&\u2028")
    assert json.loads(text) == {"</script>": ["<!--", "&", "\u2028", None, True, None, 3]}


def _paths(tree: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(tree, dict) or len(at) == 3:
        return []
    return [p for key, value in tree.items() for p in ((*at, key), *_paths(value, (*at, key)))]


@pytest.mark.parametrize("bad", [None, "x", 3, [], {}])
@pytest.mark.parametrize(
    ("make", "write"), [(made.run_record, report.run_page), (made.study_record, report.study_page)], ids=["run", "study"]
)
def test_a_page_is_written_whatever_part_of_run_json_is_missing_or_odd(make: Any, write: Any, bad: Any) -> None:
    whole = make() if make is made.run_record else make(("adam", "sgd"), epochs=2, lost=None)
    kept = json.dumps(whole.info)
    for path in _paths(json.loads(kept)):
        whole.info.clear()
        whole.info.update(json.loads(kept))
        place = whole.info
        for word in path[:-1]:
            place = place[word]
        place[path[-1]] = bad
        assert "<h1>" in write(whole), path


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"test": {"accuracy": 0.9704}}, "is right on 97.0 % of the test rows"),
        ({"test": {"r2": 0.781}}, "explains 78.1 % of the variance on test rows"),
        ({"test": {"r2": -0.2}}, "predicts worse than the mean on test rows"),
        ({"validation": {"loss": 0.25}}, "loss 0.25 on validation rows"),
        ({"test": {"accuracy": float("nan")}}, "accuracy on test rows is not finite"),
        ({}, "mlp:128 on digits"),
    ],
)
def test_the_headline_of_a_run_is_its_main_test_metric(metrics: dict[str, Any], says: str) -> None:
    told = made.info(metrics=metrics)
    assert says in run_module.headline(told).replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("verdicts", "seeds", "says"),
    [
        (["best", "yes", "yes"], 3, "adam is ahead on digits, and 3 seeds show it"),
        (["best", "not shown", "yes"], 3, "adam came first on digits; 3 seeds cannot tell it from nadam"),
        (
            ["best", "not shown", "not shown"],
            5,
            "adam came first on digits, but 5 seeds cannot tell it from any of the other 2",
        ),
        (["best", "not shown", "not shown"], 1, "adam came first on digits; one seed cannot show a difference"),
        (["best"], 3, "adam on digits: nothing to compare it with"),
        ([], 3, "without a result so far"),
    ],
)
def test_the_headline_of_a_study_claims_what_the_seeds_show(verdicts: list[str], seeds: int, says: str) -> None:
    names = ("adam", "nadam", "sgd")
    rows = [{"optimizer": n, "mean": 0.9, "seeds": seeds, "differs_from_best": v} for n, v in zip(names, verdicts, strict=False)]
    w = record.Writer(None, kind="study")
    w.info.update(made.info(table=rows))
    assert says in study_module.headline(record.Reader(w))


def test_where_all_diverged_the_headline_says_so() -> None:
    w = record.Writer(None, kind="study")
    w.info.update(made.info(table=[{"optimizer": "sgd", "mean": None, "seeds": 3}, {"optimizer": "adam", "mean": None, "seeds": 3}]))
    assert study_module.headline(record.Reader(w)) == "Every optimizer diverged on digits"


def test_findings_are_none_recorded_and_never_passed() -> None:
    silent = report.run_page(made.run_record())
    assert 'id="findings"' not in silent
    assert "passed" not in Page(silent).text
    words = Page(report.run_page(made.run_record(findings=[]))).text
    assert "None recorded." in words
    assert "passed" not in words
    found = Page(
        report.run_page(made.run_record(findings=[{"id": "FL204", "name": "dead-relu", "severity": "warning", "fix": "lr / 3"}]))
    ).text
    assert "FL204 dead-relu" in found
    assert "None recorded." not in found


def test_the_ranking_sorts_by_numbers_not_by_their_text() -> None:
    html = PAGES["study"]()
    table = re.search(r'<table class="rank">.*?</table>', html, re.DOTALL)
    assert table is not None
    cells = [re.findall(r'data-value="([^"]*)"', row) for row in re.findall(r"<tr>.*?</tr>", table.group(), re.DOTALL)[1:]]
    told = made.study_record().info["result"]["table"]
    assert [float(row[1]) for row in cells] == pytest.approx([row["mean"] for row in told])
    assert [float(row[4]) for row in cells] == pytest.approx([row["lr"] for row in told])
    assert [row[5] for row in cells] == ["" if row["steps_to_target"] is None else str(row["steps_to_target"]) for row in told]


def test_a_row_tells_edge_missed_and_diverged() -> None:
    html = PAGES["study"]()
    row = next(r for r in re.findall(r"<tr>.*?</tr>", html, re.DOTALL) if 'scope="row"' in r and "adadelta" in r and "data-value" in r)
    words = re.sub(r"<[^>]+>|\s+", " ", row)
    assert "at the edge" in words
    assert "3 of 3 missed it" in words
    assert "of 3" in words


def test_a_paired_difference_has_its_sign_and_its_interval() -> None:
    assert difference_text("loss", 0.02, -0.01, 0.05) == "+0.02 (−0.01 to +0.05)"
    assert difference_text("accuracy", -0.01, float("nan"), float("nan")) == "−1.00 points"


def test_one_seed_is_warned_of_and_draws_no_band() -> None:
    page = Page(PAGES["one seed"]())
    assert "luck and merit cannot be told apart" in page.text
    assert not any("fill" in trace for spec in page.charts.values() for trace in spec["data"])


def test_a_legend_switches_every_series_of_the_study() -> None:
    page = Page(PAGES["study"]())
    names = {a["data-series"] for a in page.find("button") if "data-series" in a}
    assert names == set(made.OPTIMIZERS)
    series = {trace["meta"] for spec in page.charts.values() for trace in spec["data"] if "meta" in trace}
    assert series <= names


def test_the_command_and_the_call_to_repeat_a_run_are_whole() -> None:
    words = Page(PAGES["run"]()).text
    assert "fallline train digits --model mlp:128 --epochs 20 --out runs/digits" in words
    call = "fl.fit('mlp:128', data, optimizer='adam', lr=0.003, batch_size=32, epochs=20, seed=0, keep='best')"
    assert call in words
    assert "fl.data.load('digits', seed=0)" in words


def test_data_in_memory_offers_no_call_that_would_not_work() -> None:
    reader = made.run_record()
    reader.info["data"]["source"] = {}
    assert "fl.data.load" not in Page(report.run_page(reader)).text


def test_a_page_without_charts_has_no_plotly() -> None:
    html = report.page("A & B", "<p>x</p>", lead="<i>", contents=[("a", "<b>")])
    assert len(html) < 60_000
    assert "A &amp; B" in html
    assert "<i>" not in html
    assert "<b>" not in html


def test_a_page_is_written_whole_into_a_new_folder(tmp_path: Path) -> None:
    target = report.write("<p>", tmp_path / "a" / "b.html")
    assert target.read_text() == "<p>"
    with pytest.raises(FalllineError, match=r"not a folder|in the way"):
        report.write("<p>", tmp_path / "a" / "b.html" / "c.html")


def test_importing_the_report_brings_no_heavy_library() -> None:
    code = "import sys, fallline.report; print([m for m in ('torch', 'plotly', 'matplotlib', 'polars', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
