import io
from typing import Any

import pytest
from rich.console import Console

from fallline._core.errors import FalllineError
from fallline.cli.live import LiveTable

ROWS: list[dict[str, Any]] = [
    {"cell": "adam at batch size 32", "trials": 9, "lr": 0.003, "members": 5, "of": 5, "mean": 0.9752},
    {"cell": "[bold]sgd[/bold]", "trials": 0, "lr": None, "members": 0, "of": 5, "mean": None},
]


def drawn(table: LiveTable) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100, no_color=True).print(table.drawn())
    return stream.getvalue()


def terminal() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=True, width=100, height=30, color_system=None), stream


def test_a_table_on_a_terminal_shows_the_rows_and_is_gone_at_the_end() -> None:
    console, stream = terminal()
    with LiveTable(console=console, metric="accuracy") as table:
        table.update(ROWS, left=125.0)
        assert table.shown
    text = stream.getvalue()
    assert "adam at batch size 32" in text
    assert "about 2 min 5 s left" in text
    assert "\x1b[2K" in text.rsplit("left", 1)[1]  # what was drawn is wiped


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_is_written_where_there_is_no_terminal_or_where_it_is_quiet(quiet: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=quiet, width=100)
    with LiveTable(console=console, quiet=quiet) as table:
        table.update(ROWS)
    assert stream.getvalue() == ""


def test_standard_error_of_a_test_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveTable() as table:
        table.update(ROWS)
        assert not table.shown
    assert capsys.readouterr() == ("", "")


def test_a_row_holds_what_is_known_and_names_stay_text() -> None:
    table = LiveTable(quiet=True, metric="accuracy")
    table.update(ROWS)
    lines = [line.split() for line in drawn(table).splitlines()]
    assert next(line for line in lines if line[:1] == ["adam"]) == "adam at batch size 32 9 0.003 5 of 5 0.9752".split()  # noqa: SIM905
    assert next(line for line in lines if line[:1] == ["[bold]sgd[/bold]"])[1:] == ["-", "-", "0", "of", "5", "-"]


def test_of_many_rows_the_unfinished_are_shown_and_the_rest_counted() -> None:
    rows = [{"cell": f"c{i}", "members": 5 if i < 30 else 2, "of": 5} for i in range(40)]
    table = LiveTable(lambda: rows, quiet=True, most=12)
    text = drawn(table)
    assert all(f"c{i} " in text for i in range(30, 40))
    assert sum(f"c{i} " in text for i in range(30)) == 2
    assert "28 more cells" in text


def test_the_rows_are_asked_anew_at_every_redrawing() -> None:
    told = iter([[{"cell": "first"}], [{"cell": "second"}]])
    table = LiveTable(lambda: next(told), quiet=True)
    assert "first" in drawn(table)
    assert "second" in drawn(table)


def test_an_error_inside_leaves_the_terminal_as_it_was() -> None:
    console, stream = terminal()
    with pytest.raises(RuntimeError), LiveTable(console=console):
        raise RuntimeError
    assert stream.getvalue().count("\x1b[?25h") == 1  # the cursor is shown again


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(FalllineError, match="most >= 1"):
        LiveTable(most=0)
