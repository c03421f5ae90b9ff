"""What holds for every weighting: parts that add up, tasks that are absent, arguments of every form, and errors that name the task."""

import warnings
from typing import NamedTuple

import pytest
import torch
from torch import nn

from fallline import FalllineError, FalllineWarning, losses
from fallline.losses import MSE, CrossEntropy, MultiTask, functional
from tests.losses.combined.toys import TASKS, WEIGHTINGS, D, batch, loss_of, network, num

every = pytest.mark.parametrize("weighting", WEIGHTINGS)


def outputs(n=8, seed=1, dtype=D):
    g = torch.Generator().manual_seed(seed)
    return {
        "class": torch.randn(n, 3, generator=g, dtype=D).to(dtype).requires_grad_(),
        "brightness": torch.randn(n, generator=g, dtype=D).to(dtype).requires_grad_(),
    }


def test_fixed_is_the_weighted_sum_of_the_losses():
    out, (_, y) = outputs(), batch()
    parts = loss_of(weights={"brightness": 2.5}).parts(out, y)
    alone = CrossEntropy()(out["class"], y["class"]), MSE()(out["brightness"], y["brightness"])
    assert num(parts.total) == pytest.approx(num(alone[0] + 2.5 * alone[1]), abs=1e-14)
    assert [num(v) for v in parts.raw.values()] == pytest.approx([num(v) for v in alone], abs=1e-14)
    assert num(parts.weighted["brightness"]) == pytest.approx(2.5 * num(alone[1]), abs=1e-14)


@every
def test_the_parts_add_up_to_the_total_and_the_total_is_the_loss(weighting):
    out, (_, y) = outputs(), batch()
    loss = loss_of(weighting, weights=(0.3, 1.7))
    parts = loss.parts(out, y)
    assert num(sum(parts.weighted.values()) + sum(parts.added.values())) == pytest.approx(num(parts.total), abs=1e-14)
    assert loss(out, y).equal(parts.total)
    for task in TASKS:
        assert num(parts.weighted[task]) == pytest.approx(num(parts.weights[task] * parts.raw[task]), abs=1e-14)
        assert not parts.weights[task].requires_grad
    assert loss.weights == pytest.approx({"class": 0.3, "brightness": 1.7}, abs=1e-6)
    numbers = parts.numbers()
    assert numbers["total"] == num(parts.total)
    assert numbers["weighted/class"] == num(parts.weighted["class"])
    assert numbers["weight/brightness"] == pytest.approx(1.7)


def test_the_table_names_each_task_and_one_that_is_absent():
    out, (_, y) = outputs(), batch()
    lines = str(loss_of("uncertainty").parts(out, y | {"brightness": None})).splitlines()
    assert lines[0].split() == ["task", "raw", "weight", "weighted", "added"]
    assert lines[1].split()[0] == "class"
    assert len(lines[1].split()) == 5
    assert "no example" in lines[2]
    assert lines[3].startswith("total")


class Heads(NamedTuple):
    brightness: torch.Tensor
    label: torch.Tensor


def test_mapping_sequence_and_named_tuple_say_the_same():
    out, (_, y) = outputs(), batch()
    loss = loss_of()
    whole = loss(out, y)
    assert loss((out["class"], out["brightness"]), [y["class"], y["brightness"]]).equal(whole)
    assert loss(dict(reversed(out.items())), y).equal(whole)
    named = MultiTask({"label": "cross_entropy", "brightness": "mse"})
    assert named(Heads(out["brightness"], out["class"]), Heads(y["brightness"], y["class"])).equal(whole)
    assert functional.multi_task(out, y, losses=TASKS).equal(whole)
    assert functional.multi_task(out, y, losses=TASKS, weights=[1, 2]).equal(loss_of(weights=torch.tensor([1.0, 2.0]))(out, y))


@every
@pytest.mark.parametrize("absent", ["mask", "weight", "ignored"])
def test_a_task_masked_away_costs_nothing_and_moves_nothing(weighting, absent):
    x, y = batch()
    model, loss = network(), loss_of(weighting)
    nothing, extra = torch.zeros(8, dtype=torch.bool), {}
    task = "brightness"
    if absent == "mask":
        y[task] = torch.full_like(y[task], torch.nan)
        extra = {"mask": {task: nothing}}
    elif absent == "weight":
        extra = {"sample_weight": {task: nothing.double()}}
    else:
        task, y["class"] = "class", torch.full((8,), -100)
    parts = loss.parts(model(x), y, **extra)
    before = loss.weights[task]
    loss.backward(parts, shared=model.shared)
    assert num(parts.raw[task]) == num(parts.weighted[task]) == num(parts.added[task]) == 0
    assert not parts.present[task]
    assert all(not p.grad.any() for p in model.head(task).parameters())
    assert loss.weights[task] == before
    assert all(not p.grad.any() for name, p in loss.named_parameters() if name.endswith(task))
    other = next(t for t in TASKS if t != task)
    assert num(parts.total) == pytest.approx(num(parts.weighted[other] + parts.added[other]), abs=1e-14)
    assert parts.total.isfinite()
    assert any(p.grad.any() for p in model.trunk.parameters())


@every
def test_a_task_without_a_target_leaves_no_gradient_at_all(weighting):
    x, y = batch()
    model, loss = network(), loss_of(weighting)
    before = loss.weights["brightness"]
    parts = loss.parts(model(x), {"class": y["class"], "brightness": None})
    loss.backward(parts, shared=model.shared)
    assert all(p.grad is None for p in model.head("brightness").parameters())
    assert all(p.grad is None for name, p in loss.named_parameters() if name.endswith("brightness"))
    assert loss.weights["brightness"] == before
    assert list(parts.raw) == list(TASKS)
    assert parts.without == ("brightness",)
    alone = loss.parts({"class": model(x)["class"]}, {"class": y["class"], "brightness": None})
    assert num(alone.raw["class"]) == num(parts.raw["class"])


def test_weights_and_masks_reach_their_task_or_all():
    out, (_, y) = outputs(), batch()
    keep = torch.arange(8) < 5
    cut = {k: v[:5] for k, v in out.items()}, {k: v[:5] for k, v in y.items()}
    loss = loss_of()
    assert num(loss(out, y, mask=keep)) == pytest.approx(num(loss(*cut)), abs=1e-14)
    assert num(loss(out, y, sample_weight=keep.double())) == pytest.approx(num(loss(*cut)), abs=1e-14)
    half = loss.parts(out, y, mask={"class": keep})
    assert num(half.raw["class"]) == pytest.approx(num(loss.parts(*cut).raw["class"]), abs=1e-14)
    assert num(half.raw["brightness"]) == num(loss.parts(out, y).raw["brightness"])


def test_a_sum_stays_a_sum():
    out, (_, y) = outputs(), batch()
    parts = MultiTask({"class": CrossEntropy(reduction="sum"), "brightness": "mse:reduction=sum"}).parts(out, y)
    mean = loss_of().parts(out, y)
    assert all(num(parts.raw[t]) == pytest.approx(8 * num(mean.raw[t]), abs=1e-12) for t in TASKS)


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_total_is_of_the_widest_part_and_never_of_16_bits(weighting, dtype):
    loss = MultiTask(TASKS, weighting=weighting)
    out, (_, y) = outputs(dtype=dtype), batch(dtype=dtype)
    total = loss(out, y)
    assert total.dtype == (D if dtype == D else torch.float32)
    total.backward()
    assert all(o.grad.isfinite().all() and o.grad.any() for o in out.values())
    exact = loss_of(weighting)(outputs(), batch()[1])
    assert num(total.detach()) == pytest.approx(num(exact.detach()), rel=2e-2 if dtype == torch.bfloat16 else 2e-3)


@every
def test_derivatives_transforms_and_compile(weighting):
    loss = loss_of(weighting, weights=(0.7, 1.4), initial=(1.0, 2.0)) if weighting == "gradnorm" else loss_of(weighting, weights=(0.7, 1.4))
    out, (_, y) = outputs(), batch()

    def value(a, b):
        return loss((a, b), y)

    assert torch.autograd.gradcheck(value, tuple(out.values()))
    assert torch.autograd.gradgradcheck(value, tuple(out.values()))
    slopes = torch.func.grad(value, argnums=(0, 1))(*(o.detach() for o in out.values()))
    usual = torch.autograd.grad(value(*out.values()), tuple(out.values()))
    assert all(torch.allclose(a, b, atol=1e-14) for a, b in zip(slopes, usual, strict=True))
    many = torch.func.vmap(lambda a, b: loss((a, b), y))(*(torch.stack([o.detach()] * 3) for o in out.values()))
    assert torch.allclose(many, value(*out.values()).detach().expand(3), atol=1e-14)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert num(compiled(out, y)) == pytest.approx(num(loss(out, y)), abs=1e-12)


@every
def test_what_is_saved_belongs_to_the_task_and_not_to_its_place(weighting):
    from tests.losses.combined.toys import walk

    loss = loss_of(weighting, weights=(0.4, 1.6))
    walk(network(), loss, 3)
    other = loss_of(weighting, tasks=dict(reversed(TASKS.items())))
    other.load_state_dict(loss.state_dict())
    assert other.weights == loss.weights
    assert list(other.weights) != list(loss.weights)
    with pytest.raises(RuntimeError, match=r"_size|Unexpected"):
        loss_of(weighting, tasks={"class": "cross_entropy", "size": "mse"}).load_state_dict(loss.state_dict())


def test_losses_of_other_makers():
    out, (_, y) = outputs(), batch()
    tasks = {"class": nn.CrossEntropyLoss(), "brightness": lambda x, t: (x - t).square().mean()}
    assert num(MultiTask(tasks)(out, y)) == pytest.approx(num(loss_of()(out, y)), abs=1e-14)
    assert "brightness=<function" in repr(MultiTask(tasks))
    known = MultiTask(tasks, weighting="uncertainty", forms={"class": "classification", "brightness": "regression"}).double()
    assert num(known(out, y)) == pytest.approx(num(loss_of("uncertainty")(out, y)), abs=1e-14)


def test_the_parameters_of_a_loss_are_the_multi_task_losss():
    loss = MultiTask({"class": CrossEntropy(class_weight=torch.ones(3)), "brightness": "mse"})
    assert "loss_class.class_weight" in loss.state_dict()
    assert loss.double().get_buffer("loss_class.class_weight").dtype == D


@every
def test_weights_that_nobody_moves_are_told_once(weighting):
    out, (_, y) = outputs(), batch()
    loss = loss_of(weighting)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(220):
            loss(out, y)
    told = [str(w.message) for w in seen if issubclass(w.category, FalllineWarning)]
    expected = {"fixed": [], "uncertainty": ["loss.parameters()"], "gradnorm": ["loss.backward(parts"]}[weighting]
    assert len(told) == len(expected)
    assert all(words in line for words, line in zip(expected, told, strict=True))


@pytest.mark.parametrize("weighting", ["uncertainty", "gradnorm"])
def test_weights_that_move_or_are_only_evaluated_are_not_told(weighting):
    from tests.losses.combined.toys import walk

    out, (_, y) = outputs(), batch()
    moved, still = loss_of(weighting), loss_of(weighting).eval()
    walk(network(), moved, 1)
    for _ in range(220):
        moved(out, y)
        still(out, y)


# -- errors -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MultiTask({"class": "cros_entropy"}), ["task 'class'", "'cross_entropy'"]),
        (lambda: MultiTask({"class": "huber:delta=-1"}), ["task 'class'", "delta > 0"]),
        (lambda: MultiTask({"class": CrossEntropy}), ["CrossEntropy()"]),
        (lambda: MultiTask({"class": 3}), ["task 'class'", "int"]),
        (lambda: MultiTask({"class": CrossEntropy(reduction="none")}), ["task 'class'", "reduction='none'"]),
        (lambda: MultiTask({}), ["one task at least"]),
        (lambda: MultiTask(["mse"]), ["mapping", "list"]),
        (lambda: MultiTask({"a.b": "mse"}), ["without a dot"]),
        (lambda: MultiTask({1: "mse"}), ["text"]),
        (lambda: MultiTask(TASKS, weighting="gradnrom"), ["weighting", "'gradnorm'"]),
        (lambda: MultiTask(TASKS, weights={"class": 0}), ["weight > 0", "task 'class'", "got 0"]),
        (lambda: MultiTask(TASKS, weights={"class": -1.0}), ["weight > 0", "-1"]),
        (lambda: MultiTask(TASKS, weights={"class": float("nan")}), ["weight > 0"]),
        (lambda: MultiTask(TASKS, weights={"clas": 1}), ["'clas'", "'class'"]),
        (lambda: MultiTask(TASKS, weights=[1.0]), ["one number a task", "class, brightness"]),
        (lambda: MultiTask(TASKS, weights="equal"), ["mapping", "str"]),
        (lambda: MultiTask(TASKS, alpha=1.0), ["alpha", "'gradnorm'", "'fixed'"]),
        (lambda: MultiTask(TASKS, weighting="gradnorm", forms={"class": "regression"}), ["forms", "'uncertainty'"]),
        (lambda: MultiTask(TASKS, weighting="gradnorm", alpha=-1), ["alpha >= 0"]),
        (lambda: MultiTask(TASKS, weighting="gradnorm", weight_lr=0), ["weight_lr > 0"]),
        (lambda: MultiTask(TASKS, weighting="gradnorm", initial={"class": 0}), ["initial > 0"]),
        (lambda: MultiTask(TASKS, weighting="gradnorm", initial={"klass": 1}), ["'klass'", "'class'"]),
        (lambda: MultiTask(TASKS, weighting="uncertainty", bounds=(1.0, 0.5)), ["0 < low < high"]),
        (lambda: MultiTask(TASKS, weighting="uncertainty", weights={"class": 1e-15}), ["'class'", "bounds"]),
        (lambda: MultiTask(TASKS, weighting="uncertainty", forms={"class": "regresion"}), ["'regression'"]),
        (lambda: MultiTask(TASKS, weighting="uncertainty", forms={"klass": "regression"}), ["'klass'"]),
    ],
)
def test_what_cannot_be_made_is_said(make, words):
    with pytest.raises(FalllineError) as error:
        make()
    assert all(word in str(error.value) for word in words), str(error.value)


def drop(table, key):
    return {k: v for k, v in table.items() if k != key}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda o, y: (drop(o, "class"), y, {}), ["outputs", "'class' is missing", "head"]),
        (lambda o, y: (drop(o, "class") | {"clas": o["class"]}, y, {}), ["is 'clas' meant to be 'class'?"]),
        (lambda o, y: (o | {"depth": o["class"]}, y, {}), ["'depth' has no loss"]),
        (lambda o, y: (o | {"class": None}, y, {}), ["head 'class'"]),
        (lambda o, y: (o, drop(y, "class"), {}), ["targets['class'] = None"]),
        (lambda o, y: (o, {"class": None, "brightness": None}, {}), ["at least one task"]),
        (lambda o, y: (o["class"], y, {}), ["outputs", "Tensor"]),
        (lambda o, y: ((o["class"],), y, {}), ["one entry a task"]),
        (lambda o, y: (o | {"brightness": o["brightness"][:, None]}, y, {}), ["task 'brightness'", "(8, 1)", "squeeze"]),
        (lambda o, y: (o, y | {"class": y["class"] + 9}, {}), ["task 'class'", "0..2"]),
        (lambda o, y: (o, y | {"class": y["class"].double()}, {}), ["task 'class'", "long()"]),
        (lambda o, y: (o, y | {"class": y["class"].tolist()}, {}), ["task 'class'", "list"]),
        (lambda o, y: (o, y, {"mask": {"klass": torch.ones(8).bool()}}), ["'klass'", "'class'"]),
        (lambda o, y: (o, y, {"mask": torch.ones(7).bool()}), ["task 'class'", "mask"]),
        (lambda o, y: (o, y, {"sample_weight": [1.0] * 8}), ["sample_weight", "list"]),
    ],
)
def test_what_does_not_fit_is_said_with_its_task(change, words):
    out, targets, extra = change(outputs(), batch()[1])
    with pytest.raises(FalllineError) as error:
        loss_of()(out, targets, **extra)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_the_error_of_a_task_keeps_its_kind():
    class Odd(FalllineError, TypeError):
        pass

    class Strict(losses.MSE):
        def check_values(self, input, target):
            raise Odd("no")

    with pytest.raises(Odd, match="task 'brightness': no"):
        MultiTask({"class": "cross_entropy", "brightness": Strict()})(outputs(), batch()[1])


def test_a_function_takes_no_weights_and_gives_one_number():
    out, (_, y) = outputs(), batch()
    tasks = {"class": "cross_entropy", "brightness": lambda x, t: (x - t).square()}
    with pytest.raises(FalllineError, match="task 'brightness' gives one number"):
        MultiTask(tasks)(out, y)
    with pytest.raises(FalllineError, match="knows weights and masks"):
        MultiTask(tasks)(out, y, mask=torch.ones(8, dtype=torch.bool))
