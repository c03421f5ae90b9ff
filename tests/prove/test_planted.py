"""Every planted defect is found, by its own name and as bad as it is."""

import pytest

import fallline as fl
from fallline.prove import PROBLEMS
from fallline.prove.checks import CHECKS
from tests.prove import planted, planted_gradients  # noqa: F401, registers them
from tests.prove.planting import PLANTED

_NAMES = [f"{problem}:{getattr(fn, '__name__', type(fn).__name__)}" for problem, fn, *_ in PLANTED]


@pytest.mark.parametrize(("problem", "fn", "batch", "severity", "options"), PLANTED, ids=_NAMES)
def test_each_planted_defect_is_found_by_its_name(problem, fn, batch, severity, options):
    report = fl.check_loss(fn, *batch(), **options)
    found = [finding for finding in report.findings if finding.name == problem]
    assert [finding.severity for finding in found] == [severity], report.text
    assert found[0].measured
    assert report.ok == (not report.errors)
    assert (severity != "error") or not report.ok


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["wrong-sign", "detached", "gradient-wrong", "label-cast", "broadcast", "wrong-axis"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_worst_are_found_whatever_the_seed(problem, seed):
    for name, fn, batch, _, options in PLANTED:
        if name == problem:
            assert problem in fl.check_loss(fn, *batch(), **options, seed=seed)


def test_every_problem_is_planted_at_least_once():
    special = {"between-examples", "no-compile"}  # see test_check_loss
    assert {name for name, *_ in PLANTED} | special == set(PROBLEMS)


def test_every_check_says_what_it_proves():
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.proves and check.run.__doc__ for check in CHECKS)
