import csv
import os
import random
from pathlib import Path

import pytest

from fallline.cli.main import main


class Shell:
    """A folder of its own, and `main` as a process would call it."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self.capsys = home, capsys

    def __call__(self, *tokens: object) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        self.capsys.readouterr()
        code = main([str(token) for token in tokens])
        out, err = self.capsys.readouterr()
        return code, out, err

    def files(self) -> set[str]:
        """Every path below the folder."""
        return {str(path.relative_to(self.home)) for path in self.home.rglob("*")}

    def refused(self, *tokens: object) -> str:
        """The one sentence of a refusal: exit code 2, one line, no traceback, and no file made or removed."""
        before = self.files()
        code, out, err = self(*tokens)
        assert code == 2, (code, out, err)
        assert "Traceback" not in out + err
        assert err.startswith("error: ")
        assert err.count("\n") == 1, err
        assert err.rstrip().endswith((".", "?")), err
        assert self.files() == before
        return err


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return Shell(tmp_path, capsys)


@pytest.fixture
def write(tmp_path: Path):
    def write(name: str, rows: list[dict[str, object]]) -> str:
        path = tmp_path / name
        with path.open("w", newline="") as file:
            sheet = csv.DictWriter(file, fieldnames=list(rows[0]))
            sheet.writeheader()
            sheet.writerows(rows)
        return os.fspath(path.name)

    return write


def people(n: int, seed: int = 0) -> list[dict[str, object]]:
    """Rows of two number columns, a category, a two-class and a number target that follow from them."""
    draw = random.Random(seed)
    rows = []
    for index in range(n):
        age, income, town = draw.uniform(18, 80), draw.uniform(1, 9), draw.choice(["north", "south", "west"])
        score = 0.1 * age - income + (town == "north")
        rows.append(
            {
                "age": round(age, 2),
                "income": round(income, 3),
                "town": town,
                "code": f"id-{index:04d}",
                "bought": int(score + draw.gauss(0, 0.3) > 0),
                "answer": "yes" if score > 0 else "no",
                "spent": round(10 * score + draw.gauss(0, 1), 3),
            }
        )
    return rows


@pytest.fixture
def table(write) -> str:
    """`people.csv` with 120 rows."""
    return write("people.csv", people(120))
