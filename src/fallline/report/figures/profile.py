"""Performance profiles: on what share of the problems an optimizer is within a factor of the best one's steps (Dolan and Moré 2002).

The numbers are those of `study.profiles`; a study of before these were kept is counted anew from the curves of its members.
"""

import math
from typing import Any

from fallline import record
from fallline.report.figures.intervals import main_metric
from fallline.report.figures.members import cells, members, ranked
from fallline.report.figures.shapes import Curves, Line, Table, numbers
from fallline.report.figures.source import Source, dicts, dig, points
from fallline.report.words import count, listed, number

FEWEST = 3  # problems


def profiles(reader: Source) -> list[dict[str, Any]]:
    """The profiles of a study as `study.profiles.profiles` gives them, sound ones only; [] with too few optimizers or problems."""
    given = dig(reader.info, "result", "profiles")
    found = _counted(reader) if given is None else dicts(reader.info, "result", "profiles")
    kept = []
    for item in found:
        if not isinstance(item.get("tau"), list) or not isinstance(item.get("rho"), list):
            continue
        tau, rho = numbers(item["tau"]), numbers(item["rho"])
        if tau and len(tau) == len(rho) and all(map(math.isfinite, [*tau, *rho])) and numbers([item.get("problems")])[0] >= FEWEST:
            kept.append({**item, "tau": tau, "rho": rho})
    return kept if len(kept) > 1 else []


def _counted(reader: Source) -> list[dict[str, Any]]:
    split, key = main_metric(reader)
    target = dig(reader.info, "result", "target")
    goal = numbers([target.get("value") if isinstance(target, dict) else target])[0]
    if not math.isfinite(goal):
        return []
    sign = 1 if record.key(key).better == "lower" else -1
    known = {cell.name for cell in cells(reader) if ranked(cell.row)}
    times: dict[str, dict[str, float]] = {}
    for name, group in members(reader).items():
        for member in group if name in known else ():
            curve = points(reader, key, split, member.run)
            reached = [s for s, v in zip(curve.step, curve.value, strict=True) if sign * v <= sign * goal] if curve else []
            times.setdefault(name, {})[member.seed] = max(reached[0], 1.0) if reached else math.inf
    seeds = sorted(set.intersection(*map(set, times.values()))) if times else []
    if len(times) < 2 or len(seeds) < FEWEST:
        return []
    from fallline.study.profiles import profiles as count_profiles

    return count_profiles({name: [found[s] for s in seeds] for name, found in times.items()})


def profile(reader: Source) -> Curves | None:
    """A staircase for each optimizer; None with fewer than two optimizers or three problems."""
    found = profiles(reader)
    if not found:
        return None
    lines = [Line(str(item["name"]), str(item["name"]), *stairs(item["tau"], item["rho"])) for item in found]
    rows = []
    for item in found:
        missed, score = numbers([item.get("missed"), item.get("score")])
        rows.append([str(item["name"]), number(score, 3), _percent(item["rho"][0]), _percent(item["rho"][-1]), number(missed)])
    problems = int(numbers([found[0]["problems"]])[0])
    farthest = max(item["tau"][-1] for item in found)
    best, score = str(found[0]["name"]), numbers([found[0].get("score")])[0]
    says = f"{best} has the highest score, {number(score, 3)}." if math.isfinite(score) else ""
    fastest = max(item["rho"][0] for item in found)
    names = [str(item["name"]) for item in found if item["rho"][0] == fastest]
    says += f" Most often the quickest: {listed(names[:4])}, on {_percent(fastest)} of {count(problems, 'problem')}."
    note = "Height at τ: share of the problems (seeds, at each batch size and loss) that took at most τ times the steps of the quickest."
    note += f" Score: mean height from 1 to {number(farthest)} (AlgoPerf). Who else took part matters; nothing is shown by it."
    return Curves(
        "profile",
        "Performance profiles",
        "τ, times the steps of the quickest",
        "share of problems",
        lines,
        [],
        says.strip(),
        f"Staircases of the share of problems against τ for {listed([line.name for line in lines])}. {says}",
        Table(["optimizer", "score", "quickest on", f"within {number(farthest)} times on", "never"], rows),
        note,
        can_log=False,
        percent=True,
    )


def stairs(tau: list[float], rho: list[float]) -> tuple[list[float], list[float]]:
    """The corners of a staircase that stands at rho[i] from tau[i] on.

    >>> stairs([1.0, 2.0, 4.0], [0.5, 1.0, 1.0])
    ([1.0, 2.0, 2.0, 4.0], [0.5, 0.5, 1.0, 1.0])
    """
    x, y = [tau[0]], [rho[0]]
    for t, r in zip(tau[1:], rho[1:], strict=True):
        x.append(t)
        y.append(y[-1])
        if r != y[-1]:
            x.append(t)
            y.append(r)
    return x, y


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
