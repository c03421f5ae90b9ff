"""What a trace says: the text, the page, the picture."""

import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

import fallline as fl
from fallline._core.errors import FalllineError
from fallline.teach.notation import math
from tests.teach.test_backprop import deep_sigmoid, text_network


class Reader(HTMLParser):
    """Collects tags that are open and every address that a page would load."""

    void = frozenset({"meta", "link", "br", "input", "img", "circle", "line", "rect", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open, self.wrong, self.loads = [], [], []

    def handle_starttag(self, tag, attrs):
        self.loads += [v for k, v in attrs if k in {"src", "href"} and v and not v.startswith(("#", "data:"))]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag in self.void:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def worked() -> "fl.teach.Trace":
    return fl.trace_backprop(text_network(), [1.0, 0.0], [1.0], nn.BCELoss())


def test_the_text_reads_like_the_derivation():
    text = worked().text()
    for line in (
        "z3 = w13 a1 + w23 a2 + b3 = 0.7·0.5744 + 0.5·0.6225 + 0.3 = 1.0133",
        "δ3 = dL/dŷ · σ′(z3) = −1.363 · 0.1954 = −0.2663",
        "dL/dw13 = δ3 · a1 = −0.2663 · 0.5744 = −0.153",
        "dL/da1 = w13 δ3",
        "dL/dw21 = δ1 · x2 = −0.04557 · 0 = 0 ← x2 = 0, so this weight is not moved",
        "dL/dŷ · σ′(z) = (ŷ − y)",
        "Every number agrees with autograd",
    ):
        assert line in re.sub(r" +", " ", text), line


def test_the_text_states_the_thresholds_and_the_mark():
    text = fl.trace_backprop(deep_sigmoid(), torch.randn(6, 8), torch.rand(6, 8), nn.MSELoss()).text()
    assert text.count("VANISHING") == 10
    assert "less than 0.001" in text
    assert "marked below 0.5" in text


def test_columns_of_the_text_are_aligned():
    lines = [line for line in worked().text().splitlines() if line.strip().startswith("dL/dw")]
    assert len({line.index("= ") for line in lines[:3]}) == 1


@pytest.mark.parametrize("make", [worked, lambda: fl.trace_backprop(deep_sigmoid(), torch.randn(6, 8), torch.rand(6, 8), nn.MSELoss())])
def test_the_page_is_whole_and_loads_nothing(make, tmp_path):
    trace = make()
    path = trace.to_html(tmp_path / "trace.html")
    html = path.read_text(encoding="utf-8")
    body = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    reader = Reader()
    reader.feed(body)
    assert reader.wrong == []
    assert reader.loads == []
    assert trace.verdict.say in html
    assert html.count('class="layer marked"') == len(trace.marked)


def test_a_small_network_is_drawn_with_its_numbers():
    html = worked().html()
    svg = html[html.index('<svg class="net"') :]
    svg = svg[: svg.index("</svg>")]
    assert svg.count("<circle") == 5
    assert svg.count("<line") == 6 + 1
    words = re.sub(r"<[^>]+>", "", svg)
    for shown in ("w13 = 0.7", "∂ −0.153", "z3 = 1.0133", "δ3 = −0.2663", "∂L/∂ŷ = −1.363", "y = 1", "0.7337"):
        assert shown in words


def test_a_large_network_is_not_drawn():
    trace = fl.trace_backprop(nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 2)), torch.randn(3, 50), torch.randn(3, 2), nn.MSELoss())
    assert 'class="net"' not in trace.html()
    assert not trace.named


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 3), nn.Softmax(1)),
        nn.Sequential(nn.ReLU(), nn.Linear(3, 3), nn.Tanh(), nn.Sigmoid()),
        nn.Sequential(nn.Linear(3, 6), nn.GLU(), nn.PReLU()),
        nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(4, 3)),
        nn.Linear(3, 3),
    ],
)
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_every_kind_of_layer_can_be_shown(model, rows):
    x = torch.randn(rows, 1, 3, 2) if isinstance(model, nn.Sequential) and isinstance(model[0], nn.Conv2d) else torch.randn(rows, 3)
    trace = fl.trace_backprop(model, x, torch.randn(rows, 3), nn.MSELoss())
    text, html = trace.text(), trace.html()
    for step in trace.steps:
        assert f"{step.layer}  {step.kind}" in text
        assert f"{step.layer} · {step.kind}" in html
    symbols = [f.symbol for s in trace.steps for g in s.gradients for f in g.scalars]
    assert len(symbols) == len(set(symbols))


def test_names_of_the_user_are_escaped():
    model = nn.Sequential()
    model.add_module("<b>bold</b>", nn.Linear(2, 1))

    def loss(p, y):
        return (p - y).square().sum()

    loss.__name__ = "<script>alert(1)</script>"
    html = fl.trace_backprop(model, [1.0, 2.0], [1.0], loss).html()
    assert "<b>bold" not in html
    assert "<script>alert" not in html


def test_a_page_that_cannot_be_written_says_where(tmp_path):
    with pytest.raises(FalllineError, match="no-such-folder"):
        worked().to_html(tmp_path / "no-such-folder" / "trace.html")


def test_formulas_become_fractions_and_subscripts():
    found = math("dL/dw13 = δ3 · σ′(z3)")
    assert found.count("<mfrac>") == 1
    assert "<msub><mi>w</mi><mn>13</mn></msub>" in found
    assert "<msub><mi>δ</mi><mn>3</mn></msub>" in found
    assert "<mi>tanh′</mi>" in math("tanh′(z) = 1 − a²")
    assert "<mi>tanh</mi>" in math("tanh(z)")
    assert "<msub><mi>a</mi><mi>i</mi></msub>" in math("dL/dzᵢ = aᵢ (δᵢ − Σⱼ δⱼ aⱼ)")
    assert "&lt;script&gt;" in math("<script>").replace("<mo>", "").replace("</mo>", "").replace("<mtext>&nbsp;", "").replace(
        "&nbsp;</mtext>", ""
    )
