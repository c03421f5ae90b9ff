"""`fallline lr`: three numbers in words and in JSON, and the range test as a picture."""

import json

import pytest


@pytest.fixture
def table(write):
    return write("houses.csv", [{"a": i % 7, "b": (i * 5) % 11, "price": 3 * (i % 7) - (i * 5) % 11 + 0.5} for i in range(120)])


@pytest.mark.slow
def test_three_numbers_and_a_picture(shell, table):
    code, out, _ = shell("lr", table, "--target", "price", "--model", "linear", "--optimizer", "sgd", "--epochs", "4", "--plot", "lr.html")
    assert code == 0
    lines = out.splitlines()
    assert any(line.startswith("sgd: 0.") for line in lines)
    assert any(line.startswith("  useful  0.") and " to " in line for line in lines)
    assert any(line.startswith("  edge    ") for line in lines)
    assert "picture: lr.html" in out
    page = (shell.home / "lr.html").read_text()
    assert "useful rates; the dot: suggested" in page
    assert "http://" not in page.split("<script")[0].replace("http://www.w3.org", "")


def test_json_and_a_still_picture(shell, table):
    code, out, _ = shell("lr", table, "--target", "price", "--model", "linear", "--epochs", "4", "--json", "--plot", "lr.png")
    assert code == 0
    told = json.loads(out)
    assert told["useful"][0] <= told["suggested"] <= told["useful"][1]
    assert told["edge"] is None or told["edge"] > told["suggested"]
    assert told["plot"] == "lr.png"
    assert (shell.home / "lr.png").read_bytes().startswith(b"\x89PNG")


def test_another_ending_is_refused(shell, table):
    assert ".html, .png, .svg or .pdf" in shell.refused("lr", table, "--target", "price", "--model", "linear", "--plot", "lr.doc")
