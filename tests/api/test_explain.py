"""`explain`: every name is found, says what it must, and is drawn as what it is."""

import dataclasses
import functools
import importlib
import inspect
import json
import math
import re

import pytest
import torch

import fallline as fl
from fallline import optim
from fallline._core.errors import FalllineError
from fallline.api.explain import Explanation, Index, explain
from fallline.losses._names import ELSEWHERE
from fallline.teach import curves as curves_
from fallline.teach.concepts import ALIASES, concept, names, resolve
from fallline.teach.drawing import svg
from fallline.teach.known import found

curves, told = functools.cache(curves_.curves), functools.cache(explain)
ALL = list(names())
UNDRAWN = {"sparse_adam", "kfac"}  # they step no two numbers by themselves
DRAWN = [n for n in ALL if names()[n] not in {"metric", "wrapper", "mining", "weighting"} and n not in UNDRAWN]


@pytest.mark.parametrize("name", ALL)
def test_every_name_tells_its_formula_its_use_and_its_source(name):
    said = told(name)
    assert isinstance(said, Explanation)
    assert said.name == name
    assert said.family == names()[name]
    assert said.summary
    if said.family != "metric":
        assert said.formula
        assert said.when
        assert said.when_not
        assert said.source
        assert "fl." in said.python.splitlines()[0]
        assert said.takes or said.family != "loss" or name == "multi_task"
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
        assert len(line.x) == len(line.y) > (1 if line.role == "path" else 50)
        assert all(map(math.isfinite, [*line.x, *line.y]))
        if line.role == "path":  # an optimizer comes down its bowl
            first, last = (0.5 * (line.x[i] ** 2 + 10 * line.y[i] ** 2) for i in (0, -1))
            assert last < 0.1 * first
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


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("LeakyReLU", "leaky_relu"), ("leaky-relu", "leaky_relu"), ("BCEWithLogitsLoss", "binary_cross_entropy"), ("MSELoss", "mse"),
        ("NAdam", "nadam"), ("ridge", "l2"), ("swish", "silu"), ("huber:delta=2", "huber"),
        ("CosineAnnealingLR", "cosine"), (" adam ", "adam"), ("torch.optim.RMSprop", "rmsprop"), ("keras.optimizers.Nadam", "nadam"),
        ("TripletMarginLoss", "triplet"), ("NTXentLoss", "info_nce"), ("SupConLoss", "sup_con"), ("ContrastiveLoss", "contrastive"),
        ("torch.nn.CosineEmbeddingLoss", "cosine_embedding"), ("keras.losses.Dice", "dice"), ("BinaryFocalCrossentropy", "focal"),
        ("SigLipLoss", "sig_lip"), ("ArcFaceLoss", "arc_face"), ("MultiTask", "multi_task"), ("CrossBatchMemory", "cross_batch_memory"),
        ("optax.adamw", "adamw"), ("torch.optim.lr_scheduler.OneCycleLR", "one_cycle"), ("fl.optim.wrappers.L1", "l1_wrapper"),
    ],
)  # fmt: skip
def test_names_are_understood_as_others_write_them(written, meant):
    assert resolve(written.partition(":")[0]) == meant


def test_aliases_point_at_what_there_is():
    assert set(ALIASES.values()) <= set(names())
    assert not set(ALIASES) & set(names())


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(FalllineError, match="did you mean 'huber'"):
        explain("hubber")
    with pytest.raises(FalllineError, match="lists every name"):
        explain("qqqqqq")


def test_every_loss_is_found_by_the_names_it_goes_by_elsewhere():
    for name, elsewhere in ELSEWHERE.items():
        assert names()[name] == "loss"
        for path in elsewhere:
            package, _, path = path.partition(" ")[0].partition(".")
            at = importlib.import_module(package) if package in {"torch", "optax"} else None
            for part in path.split(".") if at is not None else ():
                at = getattr(at, part)


def test_mining_and_weightings_have_no_curve():
    for name in ("batch_hard", "gradnorm"):
        with pytest.raises(FalllineError, match="goes with a loss"):
            curves(name)


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
    for name in sorted(UNDRAWN):
        with pytest.raises(FalllineError, match="no path to draw"):
            explain(name, plot=tmp_path / "x.png")
    with pytest.raises(FalllineError, match="goes around an optimizer"):
        explain("ema", plot=tmp_path / "x.png")
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


# -- what fallline.optim exports -----------------------------------------------------------------------------------------------------------


def test_every_optimizer_wrapper_and_schedule_that_is_exported_is_found():
    exported = {c for c in vars(optim).values() if inspect.isclass(c) and issubclass(c, torch.optim.Optimizer)} - {optim.RuleOptimizer}
    exported |= {w for n, w in vars(optim.wrappers).items() if inspect.isclass(w) and w.__module__ == f"fallline.optim.wrappers.{_file(w)}"}
    exported |= set(optim.schedules.SCHEDULES.values())
    assert {c.__name__ for c in exported if not c.__module__.rpartition(".")[2].startswith("_")} <= {
        f.make.__name__ for f in found().values()
    }


def _file(item):
    return item.__module__.rpartition(".")[2]


def test_nothing_that_is_exported_lacks_a_formula_a_source_or_its_use():
    lacking = {}
    for name, what in found().items():
        said = concept(resolve(what.path if names().get(name) != what.family else name))
        missing = [part for part in ("summary", "formula", "source", "when", "when_not") if not getattr(said.entry, part)]
        missing += [] if said.python.startswith("fl.") else ["python: an example in its docstring"]
        if missing or said.entry.family != what.family:
            lacking[f"{name} ({what.make.__module__})"] = missing or said.entry.family
    assert lacking == {}


def test_presets_and_classes_are_one_name_each():
    every = [(f.make, tuple(sorted(f.fixed.items()))) for f in found().values()]
    assert len(every) == len(set(every))


# -- variants ------------------------------------------------------------------------------------------------------------------------------


def rows_of(said, setting):
    (block,) = (b for b in said.variants.blocks if b.setting == setting)
    return {row.likes: [f.text for f in row.formulas] for row in block.rows}


def test_variants_of_rmsprop_tell_where_epsilon_stands_and_where_the_rate_does():
    said = told("rmsprop")
    first = rows_of(said, "")
    by_like = {like: lines for likes, lines in first.items() for like in likes}
    assert by_like["torch"] == ["θ ← θ − η g / (√v + ε)"]
    assert by_like["keras"] == ["θ ← θ − η g / √(v + ε)"]
    assert first[()] == ["v ← α v + (1 − α) g²"]
    momentum = {like: lines for likes, lines in rows_of(said, "momentum > 0").items() for like in likes}
    assert momentum["torch"] == ["b ← μ b + g / (√v + ε)", "θ ← θ − η b"]
    assert momentum["keras"] == ["b ← μ b + η g / √(v + ε)", "θ ← θ − b"]
    at = said.variants.options.index("alpha")
    assert said.variants.defaults["torch"][at] == "0.99"
    assert said.variants.defaults["keras"][at] == "0.9"
    for line in [f.text for b in said.variants.blocks for r in b.rows for f in r.formulas]:
        assert line in said.text()


def test_defaults_that_are_told_are_those_of_the_class():
    for name in ("adam", "adagrad", "nadam", "lion", "adabelief"):
        said = told(name)
        for like, values in said.variants.defaults.items():
            group = found()[name].make([torch.nn.Parameter(torch.zeros(1))], like=like).param_groups[0]
            for option, value in zip(said.variants.options, values, strict=True):
                assert float(value) == pytest.approx(float(group[option])), (name, like, option)


def test_a_setting_is_told_only_where_it_changes_something():
    for name in ("sgd", "adam", "rmsprop", "nadam"):
        said = told(name)
        base = {f.text for row in said.variants.blocks[0].rows for f in row.formulas}
        for block in said.variants.blocks[1:]:
            assert {f.text for row in block.rows for f in row.formulas} - base, block.setting


def test_formulas_are_set_as_mathml_that_parses():
    from xml.etree import ElementTree

    for name in ("rmsprop", "adam", "nadam", "radam", "prodigy", "rprop", "lamb"):
        for block in told(name).variants.blocks:
            for formula in (f for row in block.rows for f in row.formulas):
                tree = ElementTree.fromstring(formula.mathml)
                assert tree.tag == "math"
                assert formula.text.partition(" ")[0][0] in "".join(tree.itertext())
    assert "<msqrt>" in told("adam").html()


def test_other_names_are_told():
    assert told("rmsprop").elsewhere == ("torch.optim.RMSprop", "keras.optimizers.RMSprop", "optax.rmsprop")
    assert "torch.optim.RMSprop · keras.optimizers.RMSprop · optax.rmsprop" in told("rmsprop").text()
    assert told("adan").elsewhere == ("optax.adan",)
    for name, what in found().items():
        for other in what.elsewhere:
            if other.startswith("torch."):
                part = functools.reduce(getattr, other.split(".")[1:], torch)
                assert callable(part), name


def test_a_list_of_names_computes_no_formula(monkeypatch):
    monkeypatch.setattr("fallline.teach.concepts.variants", None)
    assert "rmsprop" in str(explain("optimizers"))


def test_a_loss_is_drawn_with_the_options_given(tmp_path):
    said = explain("quantile:q=0.95", plot=tmp_path / "q.png")
    assert said.chosen == {"q": 0.95}
    assert (tmp_path / "q.png").stat().st_size
    drawn = {line.role: line for line in curves_.curves("quantile", **said.chosen).lines}
    at = drawn["value"].x.index(3.0)
    assert drawn["value"].y[at] == pytest.approx(0.95 * 3)  # e = y − x: a target above the output costs q
    assert drawn["second"].y[at] == pytest.approx(0.5 * 3)
    assert "q=0.95" in curves_.curves("quantile", **said.chosen).title
    assert "q=0.95" in said.html()
    huber = {line.role: line for line in curves_.curves("huber", delta=2.0).lines}
    assert huber["value"].y[-1] == pytest.approx(2 * (3 - 1))
    for wrong, said in (("focal:gama=0", "gamma"), ("huber:delta=-1", "delta > 0"), ("quantile:0.9", "name=value")):
        with pytest.raises(FalllineError, match=said):
            explain(wrong)
    with pytest.raises(FalllineError, match="leave z_loss out"):
        curves_.curves("linear_cross_entropy", z_loss=1.0)
    with pytest.raises(FalllineError, match="leave lr out"):
        curves_.curves("adam", lr=0.1)


def test_what_a_loss_is_compared_with_is_drawn_beside_it():
    shown = {name: [line.name for line in curves(name).lines] for name in ("quantile", "focal", "info_nce", "sup_con")}
    assert shown["quantile"][::2] == ["value, q = 0.5", "value, q = 0.9"]
    assert shown["focal"][::2] == ["value, γ = 2", "value, γ = 0 (cross_entropy)"]
    assert shown["info_nce"][::2] == ["value, τ = 0.07", "value, τ = 0.5"]
    assert shown["sup_con"][::2] == ["value, τ = 0.1", "value, τ = 0.5"]
    focal = {line.role: line for line in curves("focal").lines}
    cross_entropy = {line.role: line for line in curves("cross_entropy").lines}
    assert focal["second"].y == pytest.approx(cross_entropy["value"].y)


def test_no_two_curves_of_a_picture_look_alike():
    from fallline.teach.drawing import STYLES

    looks = [STYLES[role][0] for role in ("value", "slope", "second", "second slope")]
    assert len(set(looks)) == 4


def test_losses_say_what_they_take_and_miners_how_they_enter_a_loss():
    assert "Input (N, V, D), V views of each example" in told("sup_con").takes.replace("Or input", "Input")
    assert "Takes        Huber" in str(told("huber")) or "Input and target: equal shapes" in told("huber").takes
    g = torch.Generator().manual_seed(0)
    e, y = torch.randn(12, 4, generator=g).requires_grad_(), torch.arange(12) % 3
    for name in ("batch_hard", "semi_hard", "distance_weighted"):
        found = {"fl": fl, "embeddings": e, "labels": y}
        exec(told(name).python, found)
        assert found["loss"] > 0
        assert {o.name for o in told(name).options if not o.meaning} == set()
    torch.testing.assert_close(
        run(told("batch_hard").python, e, y)["loss"], fl.losses.Triplet(margin=0.2, mining="batch_hard")(e, y), rtol=1e-5, atol=1e-6
    )
    e = torch.randn(8, 64, generator=g).requires_grad_()
    assert len(run(told("cross_batch_memory").python, e, torch.arange(8) % 2)["memory"]) == 8


def run(code, e, y):
    found = {"fl": fl, "embeddings": e, "labels": y}
    exec(code, found)
    return found


def test_other_definitions_by_the_same_name_are_told():
    assert "no square" in str(told("contrastive"))
    assert "1 is similar" in str(told("contrastive"))
    assert "unit=True, average=active" in " ".join(str(told("triplet")).split())
