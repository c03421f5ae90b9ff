"""The examples of the README run as they stand, and what they print is what the README says."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", README, flags=re.S)
COMMANDS = re.findall(r"^\$ (fallline .*)$", README, flags=re.M) + re.findall(r"`(fallline [a-z]+ [^`]*)`", README)


@pytest.mark.parametrize(("code", "printed"), BLOCKS, ids=range(len(BLOCKS)))
def test_python_examples_print_what_the_readme_says(code, printed):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    assert out.getvalue() == printed


def test_there_are_examples():
    assert len(BLOCKS) >= 4
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_commands_of_the_readme_name_options_that_exist(command):
    from fallline.cli.main import build_app

    words = shlex.split(command)[1:]
    if "--help" in words:
        return
    build_app().parse_args(words, exit_on_error=False, print_error=False)


def test_pictures_of_the_readme_are_there():
    for path in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path


def test_no_path_of_one_machine_is_in_the_repository():
    mark = "/" + "work/"
    for path in [*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("*.md"), *ROOT.glob("benchmarks/**/*")]:
        if path.is_file():
            assert mark not in path.read_text(encoding="utf-8", errors="replace"), path


def test_no_file_is_longer_than_a_thought():
    for path in ROOT.glob("src/**/*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 600, path
