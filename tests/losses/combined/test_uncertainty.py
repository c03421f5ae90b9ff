"""Uncertainty weights: each form's optimum in closed form, forms told apart by the loss, and noise that stays within its bounds."""

import math

import pytest
import torch

from fallline import FalllineError, losses
from fallline.losses import MultiTask
from tests.losses.combined.toys import TASKS, D, batch, loss_of, network, num, walk

NEEDS = {"arc_face", "cos_face"}  # take more than a name
ONE = {"regression": "mse", "absolute": "mae", "classification": "cross_entropy"}


def single(form, **options):
    """A loss of one task whose raw loss is the output itself, so that the parts are what the test says."""
    return MultiTask({"it": lambda output, target: output}, weighting="uncertainty", forms={"it": form}, **options).double()


def at(loss, log_noise, raw):
    with torch.no_grad():
        loss.weighting.log_noise("it").fill_(log_noise)
    return loss.parts({"it": torch.tensor(raw, dtype=D)}, {"it": torch.zeros(1)})


@pytest.mark.parametrize("log_s2", [-1.3, 0.0, 0.8])
@pytest.mark.parametrize("raw", [0.02, 1.0, 7.0])
def test_each_form_is_the_papers(log_s2, raw):
    s = math.exp(log_s2 / 2)
    b = math.exp(log_s2)
    expected = {
        "regression": raw / (2 * s * s) + math.log(s),
        "absolute": raw / b + math.log(b),
        "classification": raw / (s * s) + math.log(s),
    }
    for form, value in expected.items():
        assert num(at(single(form), log_s2, raw).total) == pytest.approx(value, abs=1e-14)


@pytest.mark.parametrize(("form", "best"), [("regression", 1.0), ("absolute", 1.0), ("classification", 2.0)])
@pytest.mark.parametrize("raw", [0.003, 0.5, 40.0])
def test_at_fixed_parts_the_slope_is_zero_at_the_optimum_and_leads_there(form, best, raw):
    loss = single(form)
    for shift in (-0.5, 0.0, 0.5):
        loss.zero_grad()
        at(loss, math.log(best * raw) + shift, raw).total.backward()
        slope = num(loss.weighting.log_noise("it").grad)
        assert slope == pytest.approx(0, abs=1e-14) if shift == 0 else slope * shift > 0.05
    least = num(at(loss, math.log(best * raw), raw).total)
    assert least < num(at(loss, math.log(best * raw) + 0.01, raw).total)
    assert least < num(at(loss, math.log(best * raw) - 0.01, raw).total)


def test_the_total_goes_below_zero_by_the_log_alone():
    parts = at(single("regression"), math.log(1e-3), 1e-3)
    assert num(parts.total) < -2.9
    assert num(parts.weighted["it"]) == pytest.approx(0.5)
    assert num(parts.total) == pytest.approx(num(parts.weighted["it"] + parts.added["it"]), abs=1e-14)


def test_forms_are_told_apart_by_the_loss():
    tasks = {
        "a": "mse",
        "b": "huber",
        "c": "mae",
        "d": "quantile",
        "e": "cross_entropy",
        "f": "binary_cross_entropy",
        "g": "hinge",
        "h": "msle",
    }
    found = MultiTask(tasks, weighting="uncertainty").weighting.names
    assert [found[t] for t in "abcdefgh"] == ["regression"] * 2 + ["absolute"] * 2 + ["classification"] * 3 + ["regression"]
    told = MultiTask(tasks, weighting="uncertainty", forms={"c": "regression"}).weighting.names
    assert [told[t] for t in "cd"] == ["regression", "absolute"]


@pytest.mark.parametrize("name", ["gaussian_nll", "poisson_nll"])
def test_a_likelihood_with_noise_of_its_own_is_refused(name):
    with pytest.raises(FalllineError, match=rf"'it'.*{name}.*weighting='fixed'"):
        MultiTask({"it": name}, weighting="uncertainty")


def test_every_loss_of_the_house_is_told_or_refused():
    for name in losses.LOSSES:
        if name in {"gaussian_nll", "poisson_nll"} or name in NEEDS:
            continue
        assert MultiTask({"it": name}, weighting="uncertainty").weighting.names["it"] in ONE


def test_a_function_must_say_its_form():
    with pytest.raises(FalllineError, match=r"forms=\{'it': 'regression'\}"):
        MultiTask({"it": lambda x, y: x}, weighting="uncertainty")


def test_a_negative_loss_is_refused():
    with pytest.raises(FalllineError, match=r"'it' >= 0.*-0\.25.*'fixed'"):
        at(single("regression"), 0.0, -0.25)
    assert num(at(single("regression", validate=False), 0.0, -0.25).total) == -0.125


def test_weights_say_where_to_begin():
    for form in ONE:
        loss = single(form, weights={"it": 0.37})
        assert loss.weights["it"] == pytest.approx(0.37, abs=1e-6)
        assert num(at(single(form), 0.0, 1.0).weights["it"]) == (0.5 if form == "regression" else 1.0)


def descend(loss, raw, steps):
    """Log noise after Adam with a short memory on a loss that stays."""
    adam = torch.optim.Adam(loss.parameters(), lr=0.05, betas=(0.9, 0.9))
    for _ in range(steps):
        adam.zero_grad()
        loss.parts({"it": torch.tensor(raw, dtype=D)}, {"it": torch.zeros(1)}).total.backward()
        adam.step()
    return num(loss.weighting.log_noise("it"))


def test_a_loss_of_zero_does_not_run_away_and_comes_back():
    loss = single("regression", bounds=(1e-3, 1e3))
    assert math.log(1e-3) - 1 <= descend(loss, 0.0, 400) <= math.log(1e-3)
    assert loss.weights["it"] == pytest.approx(500)
    assert num(loss.weighting.log_noise("it").grad) == 0
    assert descend(loss, 2.0, 600) == pytest.approx(math.log(2.0), abs=0.01)
    loose = single("regression", bounds=(1e-30, 1e3))
    assert descend(loose, 0.0, 400) < -15  # without the bound it does run away


def test_a_huge_loss_stops_at_the_upper_bound_and_comes_back():
    loss = single("classification", bounds=(1e-3, 10.0))
    assert math.log(10.0) <= descend(loss, 1e6, 400) <= math.log(10.0) + 1
    assert loss.weights["it"] == pytest.approx(0.1)
    assert descend(loss, 0.5, 600) == pytest.approx(math.log(1.0), abs=0.01)


def test_beyond_a_bound_only_a_slope_that_leads_inside_is_passed_on():
    loss = single("regression", bounds=(0.1, 10.0))
    for log_noise, raw, moves in [(-5.0, 0.01, False), (-5.0, 3.0, True), (5.0, 1e3, False), (5.0, 3.0, True), (0.3, 0.01, True)]:
        loss.zero_grad()
        at(loss, log_noise, raw).total.backward()
        slope = num(loss.weighting.log_noise("it").grad)
        assert (slope != 0) == moves
        assert slope * log_noise >= 0


def test_the_unit_of_a_target_does_not_matter_at_the_optimum():
    """In millimetres in place of metres, the heads learn as before, relative to their size."""
    pulls = []
    for unit in (1.0, 1000.0):
        x, y = batch()
        loss = loss_of("uncertainty", tasks={"class": "cross_entropy", "brightness": "mse"})
        output = {"class": torch.zeros(8, 3, dtype=D), "brightness": (unit * x[:, 0]).requires_grad_()}
        target = y | {"brightness": unit * y["brightness"]}
        raw = loss.parts(output, target).raw["brightness"]
        with torch.no_grad():
            loss.weighting.log_noise("brightness").copy_(raw.log())
        loss(output, target).backward()
        pulls.append(output["brightness"].grad * unit)
    assert torch.allclose(pulls[0], pulls[1], rtol=1e-12)


def test_the_noise_learns_beside_the_network():
    model, loss = network(), loss_of("uncertainty")
    seen = walk(model, loss, 60, rate=0.05, scale=3.0)
    assert (seen[-1] - seen[0]).abs().min() > 0.05
    assert {p.split(".")[-1] for p, _ in loss.named_parameters()} == {f"log_noise_{t}" for t in TASKS}
