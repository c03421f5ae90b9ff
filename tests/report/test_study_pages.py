"""The page of a study of many cells: what is said, what stands apart, how large it is, and that no name becomes markup."""

import copy
import json
import re
from typing import Any

import pytest

from fallline import record, report
from fallline.report import study as study_module
from fallline.report.how import how, known, merged
from tests.report import made, made_study
from tests.report.test_pages import Page


@pytest.fixture(scope="module")
def wide() -> record.Reader:
    return made_study.wide_record()


@pytest.fixture(scope="module")
def page(wide: record.Reader) -> Page:
    return Page(report.study_page(wide))


def test_rows_that_are_not_ranked_stand_apart_with_the_reason(wide: record.Reader) -> None:
    html = report.study_page(wide)
    first, second = re.findall(r"<tbody.*?</tbody>", re.search(r'<table class="rank">.*?</table>', html, re.DOTALL)[0], re.DOTALL)  # pyright: ignore[reportOptionalSubscript]
    table = wide.info["result"]["table"]
    aside = [row for row in table if row["rank"] is None]
    assert first.count("<tr>") == len(table) - len(aside)
    assert second.count("<tr>") == 1 + len(aside)
    assert second.count("its best learning rate stands at the edge of what was tried") == len(aside)
    assert all(row["cell"] in second and row["cell"] not in first for row in aside)
    assert "no difference shown" not in second


def test_the_headline_never_names_what_is_not_ranked() -> None:
    rows = [
        {"optimizer": "adam", "rank": 1, "mean": 0.9, "seeds": 5, "differs_from_best": "best"},
        {"optimizer": "nadam", "rank": 2, "mean": 0.8, "seeds": 5, "differs_from_best": "yes"},
        {"optimizer": "sgd", "rank": None, "mean": 0.95, "seeds": 5, "differs_from_best": "not ranked"},
    ]

    def said(table: list[dict[str, Any]]) -> str:
        w = record.Writer(None, kind="study")
        w.info.update(made.info(table=table))
        return study_module.headline(record.Reader(w))

    assert said(rows) == "adam is ahead on digits, and 5 seeds show it"
    assert said(rows[::2]) == "adam on digits: nothing to compare it with"
    assert said(rows[2:]) == "Nothing is ranked on digits: no best learning rate stands inside what was tried"


def test_the_sentence_of_the_study_stands_in_the_head(wide: record.Reader, page: Page) -> None:
    result = wide.info["result"]
    found = known(wide.info)
    for line in [*found.shown, found.rests]:
        assert line.replace("\n", " ") in page.text
    said = " ".join([*found.shown, *found.more]).lower()
    for part in [*result["headline"].split("; "), *result["shown"]]:
        assert part.lower() in said
    assert sum(map(len, found.shown)) < 1200
    assert "95 % interval is of its own mean or difference alone" in found.rests


def test_a_long_sentence_is_cut_between_statements_and_loses_none() -> None:
    parts = [f"cell {i} beats cell {i + 1} by {i} to {i + 2} points" for i in range(20)]
    found = known({"result": {"headline": f"{'; '.join(parts)}. Steps: none (validation accuracy, paired by seed)"}})
    assert found.shown[0].endswith("…")
    assert len(found.shown[0]) < 400
    text = " ".join([*found.shown, *found.more]).lower()
    assert all(part in text for part in parts)
    assert found.rests == "Validation accuracy, paired by seed."


def test_a_sentence_without_its_grounds_is_shown_whole() -> None:
    assert known({"result": {"headline": "no member was finished"}}).shown == ["No member was finished."]
    assert known({}).shown == []
    assert known({"result": {"headline": 3}}).shown == []


def test_how_it_was_run_says_budget_seeds_blocks_and_who_chooses(wide: record.Reader, page: Page) -> None:
    said = " ".join(how(wide))
    assert "Every cell had 7 trainings to find its learning rate" in said
    assert "120 members that are compared" in said
    assert "The search used seed 5, which is not compared" in said
    assert "up to 64 of them together" in said
    assert "12 trainings were run one by one: the layer BatchNorm1d" in said
    assert "Test rows were looked at once and only report." in said
    assert merged(wide.info) == ["Batch size 32 was named more than once and is run once."]
    assert all(line.replace("\N{NO-BREAK SPACE}", " ") in page.text for line in how(wide))


@pytest.mark.parametrize(
    ("trials", "says"),
    [
        ([9, 9], "The same budget of tuning for each: 9 trials"),
        ([9, 11], "9 trials of the learning rate, each a whole training, and up to 2 more outward"),
        ([0, 0], "No learning rate was searched for"),
    ],
)
def test_without_notes_the_budget_is_told_from_the_trials_of_the_rows(trials: list[int], says: str) -> None:
    w = record.Writer(None, kind="study")
    w.info.update(result={"table": [{"optimizer": n, "trials": t} for n, t in zip(("adam", "sgd"), trials, strict=True)]})
    assert any(says in line for line in how(record.Reader(w)))


def test_the_best_six_are_drawn_at_first_and_the_legend_brings_the_others() -> None:
    many = Page(report.study_page(made_study.wide_record(made.OPTIMIZERS, (32, 128), ("cross_entropy",), epochs=4)))
    keys = [a for a in many.find("button") if a.get("data-scope") == "all" and "data-series" in a]
    on = {a["data-series"] for a in keys if a["aria-pressed"] == "true"}
    assert len(on) == 6
    assert {a["data-series"] for a in keys} == set(made.OPTIMIZERS)
    assert many.find("button", data_show="all") or [a for a in many.find("button") if a.get("data-show") == "all"]


def test_a_colour_is_the_same_in_every_chart(page: Page) -> None:
    by_series: dict[str, set[str]] = {}
    for spec in page.charts.values():
        for trace in spec["data"]:
            if "line" in trace and trace.get("meta") in made_study.OPTIMIZERS:
                by_series.setdefault(trace["meta"], set()).add(trace["line"]["color"].split("/")[0])
    assert {name: found - {"@faint"} for name, found in by_series.items()} == {
        "sgd": {"@s0"}, "momentum": {"@s1"}, "rmsprop": {"@s5"}, "adam": {"@s6"},
    }  # fmt: skip


def test_one_switch_turns_all_small_pictures_of_a_measure(page: Page) -> None:
    switches = [(a["data-log-of"] or "").split() for a in page.find("button") if "data-log-of" in a]
    assert sorted(len(names) for names in switches) == [6, 6, 6]  # loss of training and validation, and of the trials
    for names in switches:
        for name in names:
            spec = page.charts[name]
            low, high = spec["range"]["log"]
            assert low < high
            assert spec["log"]["tickvals"]


@pytest.mark.slow
def test_fifty_four_cells_fit_into_a_page() -> None:
    html = report.study_page(made_study.wide_record(made.OPTIMIZERS, epochs=30))
    assert len(html.encode()) <= 2 * 1024**2
    assert len(Page(html).charts) >= 15


def test_a_page_that_would_be_too_large_leaves_out_what_is_folded_and_says_so(monkeypatch: pytest.MonkeyPatch, wide: record.Reader) -> None:
    whole = report.study_page(wide)
    monkeypatch.setattr(study_module, "LARGEST", len(whole.encode()) - 1)
    small = report.study_page(wide)
    assert len(small) < len(whole)
    assert "are left out, to keep the page small" in Page(small).text
    assert "are left out, to keep the page small" not in Page(whole).text


def test_hostile_names_stay_text_in_every_part_of_a_wide_study() -> None:
    evil = (made.EVIL.replace("/", "|"), "<img src=x onerror=alert(1)>", "a' onmouseover='x")
    reader = made_study.wide_record(("adam", "sgd"), (32, 128), ("cross_entropy", "focal"), seeds=3, epochs=3, at_edge=())
    fair = Page(report.study_page(reader))
    text = json.dumps(reader.info)
    for name, bad in zip(("adam", "sgd", "focal"), evil, strict=True):
        text = text.replace(name, json.dumps(bad)[1:-1])
    told = json.loads(text)
    told["config"]["notes"], told["result"]["notes"] = [made.EVIL], [made.EVIL]
    told["result"]["table"][0] |= {"rank": None, "note": made.EVIL}
    reader.info.clear()
    reader.info.update(told)
    found = Page(report.study_page(reader))
    assert len(found.scripts) == len(fair.scripts)
    assert not found.find("img")
    assert not [a for _, a in found.tags if any(name.startswith("on") for name in a)]
    assert made.EVIL in found.text
    for spec in found.charts.values():
        for trace in spec["data"]:
            assert "<" not in trace.get("name", "")
        for note in spec["layout"].get("annotations", []):
            assert "<" not in note["text"]


@pytest.mark.parametrize("bad", [None, "x", 3, [], {}, [None], [[]], -1])
def test_a_page_is_written_whatever_a_row_a_pair_or_a_profile_lacks(bad: Any) -> None:
    reader = made_study.wide_record(("adam", "sgd"), (32, 128), ("focal",), seeds=3, epochs=2, at_edge=())
    kept = copy.deepcopy(reader.info)
    for part in ("table", "differences", "profiles", "factors"):
        for key in kept["result"][part][0]:
            reader.info["result"] = copy.deepcopy(kept["result"])
            for item in reader.info["result"][part]:
                item[key] = bad
            assert study_module.figures(reader), (part, key)
            assert study_module.ranking_table(reader), (part, key)
            assert how(reader) is not None
    for key in kept["result"]:
        reader.info["result"] = {**copy.deepcopy(kept["result"]), key: bad}
        assert "<h1>" in report.study_page(reader), key
