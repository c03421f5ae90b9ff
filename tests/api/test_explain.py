"""`explain`: every name is found, says what it must, and is drawn as what it is."""

import dataclasses
import json
import math
import re

import pytest

import fallline as fl
from fallline._core.errors import FalllineError
from fallline.api.explain import Explanation, Index, explain
from fallline.teach.concepts import ALIASES, names
from fallline.teach.curves import curves
from fallline.teach.drawing import svg

ALL = list(names())
DRAWN = [n for n in ALL if names()[n] != "metric"]


@pytest.mark.parametrize("name", ALL)
def test_every_name_tells_its_formula_its_use_and_its_source(name):
    said = explain(name)
    assert isinstance(said, Explanation)
    assert said.name == name
    assert said.family == names()[name]
    assert said.summary
    if said.family != "metric":
        assert said.formula
        assert said.when
        assert said.when_not
        assert said.source
        assert said.python.startswith("fl.")
    text = str(said)
    assert text == said.text()
    assert said.summary.split()[-1] in text
    assert all(len(line) <= 160 for line in text.splitlines())
    json.dumps(dataclasses.asdict(said))


@pytest.mark.parametrize("name", DRAWN)
def test_every_picture_is_made_of_finite_numbers(name):
    picture = curves(name)
    assert any(line.role in {"value", "path"} for line in picture.lines)
    for line in picture.lines:
        assert len(line.x) == len(line.y) > 50
        assert all(map(math.isfinite, [*line.x, *line.y]))
        assert len(set(line.y)) > 1 or name == "constant" or line.role.endswith("slope")


@pytest.mark.parametrize("name", [n for n in DRAWN if names()[n] in {"activation", "loss", "penalty"}])
def test_the_slope_is_that_of_the_value(name):
    lines = {line.role: line for line in curves(name).lines}
    value, slope = lines["value"], lines["slope"]
    step = value.x[1] - value.x[0]
    wrong = 0
    for i in range(1, len(value.x) - 1):
        difference = (value.y[i + 1] - value.y[i - 1]) / (2 * step)
        around = slope.y[i - 1 : i + 2]
        room = 1e-3 + 2 * (max(around) - min(around))  # where the slope jumps, the difference lies between
        wrong += abs(difference - slope.y[i]) > room * max(1.0, abs(difference))
    assert wrong == 0


def test_curves_are_those_of_the_formula():
    huber = {line.role: line for line in curves("huber").lines}
    at = huber["value"].x.index(max(huber["value"].x))
    assert huber["value"].y[at] == pytest.approx(3 - 0.5)
    assert huber["slope"].y[at] == pytest.approx(1.0)
    assert curves("cosine").lines[0].y[0] == pytest.approx(1.0)
    assert curves("cosine").lines[0].y[-1] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", [n for n in ALL if names()[n] == "optimizer"])
def test_every_optimizer_comes_down_its_bowl(name):
    path = curves(name).lines[-1]
    first, last = (0.5 * (path.x[i] ** 2 + 10 * path.y[i] ** 2) for i in (0, -1))
    assert last < 0.1 * first


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("LeakyReLU", "leaky_relu"), ("leaky-relu", "leaky_relu"), ("BCEWithLogitsLoss", "binary_cross_entropy"), ("MSELoss", "mse"),
        ("NAdam", "nadam"), ("ridge", "l2"), ("swish", "silu"), ("huber:delta=2", "huber"),
        ("CosineAnnealingLR", "cosine"), (" adam ", "adam"),
    ],
)  # fmt: skip
def test_names_are_understood_as_others_write_them(written, meant):
    assert explain(written).name == meant


def test_aliases_point_at_what_there_is():
    assert set(ALIASES.values()) <= set(names())
    assert not set(ALIASES) & set(names())


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(FalllineError, match="did you mean 'huber'"):
        explain("hubber")
    with pytest.raises(FalllineError, match="lists every name"):
        explain("qqqqqq")


def test_without_a_name_everything_is_listed():
    every = explain()
    assert isinstance(every, Index)
    assert {n for table in every.families.values() for n in table} == set(ALL)
    assert list(explain("optimizers").families) == ["optimizers"]
    assert next(iter(explain("loss").families["losses"])) == "mse"
    assert "adam" in str(explain("optimizers"))
    with pytest.raises(FalllineError, match="no curve"):
        explain(plot="x.png")


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_a_picture_is_drawn_into_a_file(tmp_path, ending, magic):
    path = tmp_path / f"gelu.{ending}"
    said = explain("gelu", plot=path)
    assert path.read_bytes().startswith(magic)
    assert said.picture == str(path)
    assert str(path) in said.text()


def test_true_draws_into_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fl.explain("adam", plot=True).picture == "adam.png"
    assert (tmp_path / "adam.png").exists()


def test_what_cannot_be_drawn_says_so(tmp_path):
    with pytest.raises(FalllineError, match="no curve"):
        explain("roc_auc", plot=tmp_path / "x.png")
    with pytest.raises(FalllineError, match="png"):
        explain("gelu", plot=tmp_path / "x.docx")
    with pytest.raises(FalllineError, match="nowhere"):
        explain("gelu", plot=tmp_path / "nowhere" / "x.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["huber", "adam", "softmax", "plateau", "elastic", "accuracy"])
def test_the_page_holds_the_words_and_the_picture(name, tmp_path):
    said = explain(name)
    html = said.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert ('<svg class="curves"' in html) == (name != "accuracy")
    assert not re.findall(r'(?:src|href)="(?!#|https://(?:doi|arxiv)|data:)[^"]+"', html)
    for option in said.options:
        assert f"<code>{option.name}</code>" in html


def test_the_drawing_stays_inside_its_frame():
    for name in ("huber", "nesterov"):
        numbers = [float(v) for points in re.findall(r'points="([^"]+)"', svg(curves(name))) for v in re.split(r"[ ,]", points)]
        assert min(numbers) >= 0
        assert max(numbers) <= 720
