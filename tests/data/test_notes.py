"""What loading says: nothing is guessed of a set that is known, "as you said" is said only of what was said, long lists are cut."""

import polars as pl

from fallline import data


def test_a_guess_gives_its_reason_and_the_way_out():
    found = data.load(([[0.1], [0.2], [0.3], [0.4]] * 5, [0, 1, 0, 1] * 5)).notes[0]
    assert "because it holds 2 distinct whole numbers; say task='regression'" in found


def test_what_the_user_named_is_as_they_said():
    assert data.load(([[0.1], [0.2]] * 10, [0, 1] * 10), task="binary").notes[0].endswith("(0, 1), as you said")
    assert data.load(([[0.1], [0.2]] * 10, [0.5, 1.5] * 10), task="regression").notes[0].endswith("is a number, as you said")


def test_a_known_set_is_neither_guessed_nor_said():
    for name in ("iris", "diabetes"):
        found = data.load(name)
        for notes in (found.notes, data.load(**found.source).notes):
            assert "because" not in notes[0]
            assert "as you said" not in notes[0]
    assert "(setosa, versicolor, virginica)" in data.load("iris").notes[0]


def test_another_target_of_a_known_set_is_guessed():
    assert "because it holds" in data.load("iris", "sepal length (cm)").notes[0]


def test_five_columns_have_a_note_and_the_others_a_number():
    frame = pl.DataFrame({**{f"c{i}": ["a", "b", "c"] * 10 for i in range(12)}, "y": [0.5, 1.5, 2.5] * 10})
    notes = [note for note in data.load(frame, "y").notes if "prepared as" in note or "more columns" in note]
    assert len(notes) == 6
    assert notes[-1] == "and 7 more columns that are not plain numbers (see the report)"
