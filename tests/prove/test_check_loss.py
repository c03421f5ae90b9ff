"""The call itself: hints, what a report says, wrong use, odd shapes, and a world left as it was."""

import random
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fallline as fl
from fallline import FalllineError
from fallline.prove.guard import generators, seed_all
from tests.prove import data


def names(report):
    return {finding.name for finding in report.findings}


def mse(x, y):
    return F.mse_loss(x, y)


# -- the report ------------------------------------------------------------------------------------------------------------------------


def test_a_report_says_what_why_and_what_to_write():
    report = fl.check_loss(lambda x, y: -F.mse_loss(x, y), *data.numbers())
    assert isinstance(report, fl.LossReport)
    assert not report.ok
    worst = report.findings[0]
    assert (worst.name, worst.severity, worst.check) == ("wrong-sign", "error", "sign")
    for part in (
        "error wrong-sign: with equal predictions",
        "why: a step down",
        "write: turn the sign",
        "not checked: compile: pass compile",
    ):
        assert part in report.text
    assert str(report) == report.text
    assert "wrong-sign" in report
    assert "step" not in report
    assert "wrong-sign" in report.html()
    assert "1 error" in repr(report)
    with pytest.raises(FalllineError, match="1 error in <lambda>: wrong-sign"):
        report.raise_if_bad()


def test_a_right_loss_raises_nothing_and_its_skipped_checks_are_not_passed():
    report = fl.check_loss(fl.losses.MSE(), *data.numbers())
    report.raise_if_bad()
    assert report.findings == ()
    assert "nothing found" in report.text
    assert not set(report.passed) & set(report.skipped)
    assert {"compile", "value", "perfect"} <= set(report.skipped)
    assert report.learned["target"] == "real"


def test_names_of_a_loss_are_escaped_in_html():
    assert "<lambda>" not in fl.check_loss(lambda x, y: -F.mse_loss(x, y), *data.numbers()).html()


def test_the_same_seed_gives_the_same_report():
    def odd(x, y):
        return (x - y).abs().detach().mean() + x.mean()

    first, second = (fl.check_loss(odd, *data.numbers(), seed=4) for _ in range(2))
    assert first == second


def test_when_the_call_fails_nothing_else_is_called_passed():
    report = fl.check_loss(lambda x, y: x @ y @ x, *data.rows())
    assert names(report) == {"raises"}
    assert not report.passed
    assert set(report.skipped.values()) == {"the loss raises"}


# -- hints -----------------------------------------------------------------------------------------------------------------------------


def test_reference_and_perfect():
    x, y = data.numbers()
    right = fl.check_loss(F.huber_loss, x, y, reference=fl.losses.functional.huber, perfect=y)
    assert right.ok
    assert {"value", "perfect"} <= set(right.passed)
    swapped = fl.check_loss(fl.losses.Quantile(q=0.9), x, y, reference=lambda x, y: fl.losses.functional.quantile(y, x, q=0.9))
    assert "value-wrong" in swapped
    assert "not-least" in fl.check_loss(mse, x, y, perfect=y + 1)


def test_a_reference_for_each_example_names_the_example():
    x, y = data.numbers()

    def odd(x, y):
        return (x - y).square() * torch.where(torch.arange(len(x)) == 3, 2.0, 1.0).to(x.dtype)

    report = fl.check_loss(odd, x, y, reference=lambda x, y: (x - y).square())
    assert "at example 3" in next(f.measured for f in report.findings if f.name == "value-wrong")


def test_reduction_told_or_read_off_the_loss():
    x, y = data.numbers()
    assert "batch-size" in fl.check_loss(lambda x, y: F.mse_loss(x, y, reduction="sum"), x, y)
    assert "batch-size" not in fl.check_loss(lambda x, y: F.mse_loss(x, y, reduction="sum"), x, y, reduction="sum")
    assert "batch-size" not in fl.check_loss(nn.MSELoss(reduction="sum"), x, y)
    assert "batch-size" in fl.check_loss(mse, x, y, reduction="sum")


def test_random_on_purpose():
    x, y = data.numbers()

    def noisy(x, y):
        return F.mse_loss(x + 0.1 * torch.randn(()), y)

    assert "random" in fl.check_loss(noisy, x, y)
    report = fl.check_loss(noisy, x, y, random=True)
    assert report.ok
    assert {"gradient", "second", "batch"} <= set(report.passed)


def test_a_loss_between_examples_is_noted_unless_said():
    x, y = data.rows()

    def info_nce(x, y):
        return F.cross_entropy(x @ y.T, torch.arange(len(x)))

    assert "between-examples" in fl.check_loss(info_nce, x, y)
    assert "between-examples" not in fl.check_loss(info_nce, x, y, separate=False)


def test_skip_leaves_a_check_out_and_says_so():
    x, y = data.numbers()

    def straight_through(x, y):
        return F.mse_loss(x + (x.round() - x).detach(), y)

    assert "gradient-wrong" in fl.check_loss(straight_through, x, y)
    report = fl.check_loss(straight_through, x, y, skip=("gradient", "second"))
    assert "gradient-wrong" not in report
    assert report.skipped["gradient"] == "left out by skip="


def test_a_jump_is_named_with_its_step_and_may_be_meant():
    x, y = data.numbers()

    def seam(x, y):
        error = (x - y).abs()
        return torch.where(error < 0.7, 0.5 * error * error, 0.7 * error).mean()

    finding = next(f for f in fl.check_loss(seam, x, y).findings if f.name == "jump")
    assert re.search(r"a step of .*e-\d+ takes the value from [\d.]+ to [\d.]+, of which its gradient explains", finding.measured)
    assert "jump" not in fl.check_loss(seam, x, y, skip=("jumps",))

    def straight_through(x, y):
        return F.l1_loss(x + (x.round() - x).detach(), y)

    assert fl.check_loss(straight_through, x, y, skip=("gradient",)).ok
    embeddings = torch.randn(12, 4, generator=torch.Generator().manual_seed(3))
    assert fl.check_loss(fl.losses.ArcFace(classes=5, dim=4), embeddings, data.scores()[1]).ok


def test_an_error_that_a_hook_raises_is_no_crash():
    def hooked(x, y):
        if x.requires_grad:
            x.register_hook(lambda g: g * (len(g) // len(g)))  # ZeroDivisionError in an empty batch
        return F.l1_loss(x, y) * 1.0

    report = fl.check_loss(hooked, *data.numbers())
    assert report.ok
    assert [f.severity for f in report.findings if f.name == "empty-batch"] == ["warning"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compile_is_tried_when_asked():
    def asks(x, y):
        return F.mse_loss(x, y) if float(x.detach().max()) < 100 else x.sum()

    assert "no-compile" in fl.check_loss(asks, *data.numbers(), compile=True)
    assert "compile" in fl.check_loss(fl.losses.MSE(), *data.numbers(), compile=True).passed


# -- wrong use -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda x, y: fl.check_loss("mse", x, y), "the loss is callable"),
        (lambda x, y: fl.check_loss(nn.MSELoss, x, y), r"write MSELoss\(\)"),
        (lambda x, y: fl.check_loss(mse, y.long(), x), "the input is floating point"),
        (lambda x, y: fl.check_loss(mse, x[:0], y[:0]), "the input holds an example"),
        (lambda x, y: fl.check_loss(mse, x / 0, y), "the input is finite"),
        (lambda x, y: fl.check_loss(mse, x, "y"), "must be a tensor or an array"),
        (lambda x, y: fl.check_loss(mse, x.to(torch.complex64), y), "the input is real"),
        (lambda x, y: fl.check_loss(mse, x, y, skip=("gradients",)), "did you mean 'gradient'"),
    ],
)
def test_wrong_use_is_refused_in_a_sentence(call, told):
    with pytest.raises(FalllineError, match=told) as caught:
        call(*data.numbers())
    assert "\n" not in str(caught.value)


# -- forms -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "kind", "domain"),
    [
        (data.numbers, "real", "real"),
        (data.scores, "index", "real"),
        (data.pictures, "index", "real"),
        (data.class_probabilities, "index", "simplex"),
        (data.class_log_probabilities, "index", "log-probability"),
        (data.labels, "binary", "probability"),
        (data.signed, "signed", "real"),
        (data.soft, "distribution", "real"),
        (data.distances, "signed", "nonnegative"),
    ],
)
def test_what_was_given_is_read_off_it(batch, kind, domain):
    fn = {"index": F.cross_entropy, "distribution": F.cross_entropy, "binary": F.binary_cross_entropy}.get(kind, mse)
    learned = fl.check_loss(fn, *batch()).learned
    assert (learned["target"], learned["input"]) == (kind, domain)


def test_scores_embeddings_and_grades_are_told_apart_by_the_loss():
    x, y = data.embeddings()
    weight = torch.tensor([1.0, 5.0, 2.0, 1.0])
    assert fl.check_loss(F.cross_entropy, x, y).learned["target"] == "index"
    assert fl.check_loss(nn.CrossEntropyLoss(weight=weight), x, y).learned["target"] == "index"
    assert fl.check_loss(fl.losses.Triplet(), x, y).learned["target"] == "groups"
    assert fl.check_loss(fl.losses.Coral(), x, y).learned["target"] == "grades"


@pytest.mark.parametrize("batch", [(torch.tensor(0.3), torch.tensor(1.0)), (torch.tensor([0.3]), torch.tensor([1.0]))])
def test_one_number_and_one_example_are_enough_to_call(batch):
    report = fl.check_loss(mse, *batch)
    assert report.ok
    assert "gradient" in report.passed
    assert "order" in report.skipped


def test_one_number_in_a_vector_is_warned_of_and_still_checked():
    report = fl.check_loss(lambda x, y: F.mse_loss(x, y).reshape(1), *data.numbers())
    assert "shape" in report
    assert report.ok
    assert "gradient" in report.passed


def test_one_unbatched_example():
    assert fl.check_loss(F.cross_entropy, torch.tensor([0.2, -1.0, 0.5]), torch.tensor(1)).ok


def test_large_batches_are_looked_at_in_part():
    x, y = torch.randn(4096, 8, generator=torch.Generator().manual_seed(1)), torch.arange(4096) % 8
    calls = []

    def counted(x, y):
        calls.append(len(x))
        return F.cross_entropy(x, y)

    assert fl.check_loss(counted, x, y).ok
    assert sum(n > 100 for n in calls) < 15


def test_labels_sorted_by_class_are_not_cut_to_one_class():
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(2))
    assert "sign" in fl.check_loss(F.cross_entropy, x, torch.arange(300) // 75).passed


def two_heads(outputs, targets):
    return F.cross_entropy(outputs["class"], targets["class"]) + F.l1_loss(outputs["size"], targets["size"])


def test_several_heads_in_a_dict():
    (scores, labels), (sizes, wanted) = data.scores(), data.numbers()
    outputs, targets = {"class": scores, "size": sizes}, {"class": labels, "size": wanted}
    report = fl.check_loss(two_heads, outputs, targets)
    assert report.ok, report.text
    assert {"gradient", "second", "batch", "target", "parts"} <= set(report.passed)
    assert "sign" in report.skipped
    ours = fl.losses.MultiTask({"class": "cross_entropy", "size": "mae"})
    assert fl.check_loss(ours, outputs, targets).findings == ()
    assert "detached" in fl.check_loss(lambda x, y: two_heads({k: v.detach() for k, v in x.items()}, y), outputs, targets)
    assert "ignores-part" in fl.check_loss(lambda x, y: F.l1_loss(x["size"][:3], y["size"][:3]), outputs, targets)

    def spoils(x, y):
        x["size"].mul_(2)
        return two_heads(x, y)

    assert "in-place-input" in fl.check_loss(spoils, outputs, targets)
    with pytest.raises(FalllineError, match=r"one row an example` must hold for check_loss, but got the shapes \(12, 5\), \(11,\)"):
        fl.check_loss(two_heads, {"class": scores, "size": sizes[1:]}, targets)


def test_three_tensors_in_a_tuple():
    x, _ = data.triplets()
    report = fl.check_loss(lambda abc, _: F.triplet_margin_loss(*abc), x.unbind(1), None)
    assert report.ok, report.text
    assert "gradient" in report.passed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_input(dtype):
    x, y = data.numbers()
    report = fl.check_loss(fl.losses.MSE(), x.to(dtype), y.to(dtype))
    assert report.ok, report.text


def test_arrays_and_lists():
    x, y = data.numbers()
    assert fl.check_loss(mse, x.numpy(), y.tolist()).ok


def test_a_kink_at_the_users_own_point_is_no_fault():
    x = torch.tensor([0.0, 1.0, 2.0, 3.0, -1.0, 0.5])
    report = fl.check_loss(F.l1_loss, x, torch.tensor([0.0, 1.0, 2.0, 3.0, -1.0, 0.5]))
    assert report.ok, report.text
    assert "gradient" in report.passed


def test_data_drawn_from_the_same_seed_as_the_points_is_no_trap():
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    report = fl.check_loss(fl.losses.SupCon(), x, torch.arange(12) % 3, seed=0)
    assert "second" in report.passed


# -- the world -------------------------------------------------------------------------------------------------------------------------


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, y):
        self.calls += 1
        return ((x - y).square() * self.weight).mean()


def meddles(x, y):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    x += 1
    y.zero_()
    return (x - y).mean()


@pytest.mark.parametrize("fn", [mse, Learned(), meddles, fl.losses.MSE()], ids=["function", "module", "meddler", "ours"])
def test_everything_is_left_as_it_was(fn):
    x, y = data.rows()
    x = (x.requires_grad_() * 1.0).clone()
    kept = x.detach().clone(), y.clone()
    state = {name: t.clone() for name, t in fn.state_dict().items()} if isinstance(fn, nn.Module) else {}
    seed_all(5)
    before = generators()
    fl.check_loss(fn, x, y)
    assert torch.equal(x, kept[0])
    assert x.requires_grad
    assert torch.equal(y, kept[1])
    after = generators()
    assert torch.equal(after[0], before[0])
    assert (after[2][1] == before[2][1]).all()
    assert after[3] == before[3]
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    if isinstance(fn, nn.Module):
        assert all(torch.equal(now, state[name]) and now.dtype == state[name].dtype for name, now in fn.state_dict().items())
        assert all(p.grad is None for p in fn.parameters())


def test_a_module_that_a_function_closes_over_is_put_back():
    head = Learned().train()
    report = fl.check_loss(lambda x, y: 2 * head(x, y), *data.rows())
    assert "stateful" in report
    assert head.calls == 0


def test_settings_come_back_after_a_loss_that_raises():
    def breaks(x, y):
        torch.set_grad_enabled(False)
        raise KeyError("no such thing")

    assert names(fl.check_loss(breaks, *data.numbers())) == {"raises"}
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(mode):
    with mode():
        x, y = (t * 1 for t in data.numbers())
        assert "gradient" in fl.check_loss(mse, x, y).passed
        assert not torch.is_grad_enabled()


def test_a_factor_detached_inside_is_named():
    def focal(x, y):
        log_p = x.log_softmax(1).gather(1, y[:, None])
        return -((1 - log_p.exp().detach()).square() * log_p).mean()

    finding = next(f for f in fl.check_loss(focal, *data.scores()).findings if f.name == "gradient-wrong")
    assert "return -((1 - log_p.exp().detach())" in finding.measured


def test_no_warning_escapes(recwarn):
    x, y = data.numbers()
    fl.check_loss(mse, x, y[:, None])
    assert not recwarn.list


def test_the_line_at_fault_is_named():
    def cut(x, y):
        p = x.detach().sigmoid()
        return F.binary_cross_entropy(p, y)

    finding = next(f for f in fl.check_loss(cut, *data.logits()).findings if f.name == "detached")
    assert re.search(r"line \d+: `p = x.detach\(\).sigmoid\(\)`", finding.measured)
