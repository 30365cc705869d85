"""Which classes of a model stand for those of the data: names, numbers, groups, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bequest.errors import InputError
from bequest.evaluation.image_classes import Groups, match_classes, read_groups

LOGITS = np.array([[3.0, 2.9, 2.8, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 2.0, 0.0, 0.0]])


def numbers(own: list[str], names: list[str], groups: Groups | None = None) -> list[list[int]]:
    return match_classes(
        own, names, groups, field="the data", option="groups", model="the model"
    ).numbers


def test_names_come_before_order_and_numbers_are_numbers() -> None:
    assert numbers(["red", "blue", "green"], ["blue", "red"]) == [[1], [0]]
    assert numbers(["LABEL_0", "LABEL_1"], ["blue", "red"]) == [[0], [1]]
    assert numbers(["red", "blue"], ["0", "1"]) == [[0], [1]]
    assert numbers(["a", "b", "c"], ["ant", "cat"], {"cat": ["b"], "ant": [2, "a"]}) == [
        [2, 0],
        [1],
    ]


def test_right_is_the_best_of_all_classes_or_of_the_groups() -> None:
    own = ["a", "b", "c", "d"]
    single = match_classes(own, ["b", "a"], None, field="", option="", model="")
    # The last image is b: the data's class 0.
    assert single.right(LOGITS, np.array([1, 0, 0])).tolist() == [True, False, True]
    groups = {"x": [0], "y": [1, 2], "z": [3]}
    grouped = match_classes(own, ["x", "y", "z"], groups, field="", option="", model="")
    # b and c together are more than a.
    assert grouped.right(LOGITS, np.array([1, 2, 1])).all()


@pytest.mark.parametrize(
    ("own", "names", "groups", "words"),
    [
        (["a", "b"], ["a", "c"], None, "the data has 2 classes, such as 'c', and the model 2"),
        (["crane", "crane"], ["crane"], None, "'crane' is the name of 2 classes of the model"),
        (["a", "b"], ["x"], {"x": ["c"]}, "groups names 'c', which the model does not have"),
        (["a", "b"], ["x"], {"x": [2]}, "groups does not fit the model: group 0 holds 2"),
        (["a", "b"], ["x", "y"], {"x": [0]}, "groups and the classes of the data differ by 'y'"),
    ],
)
def test_what_fits_nothing_is_refused(
    own: list[str], names: list[str], groups: Groups | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        numbers(own, names, groups)


@pytest.mark.parametrize("content", [[[0]], {"a": 3}, {"a": []}, {"a": [1.5]}, {"a": [True]}])
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: object) -> None:
    file = tmp_path / "groups.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"groups .*json must be an object"):
        read_groups(str(file), "groups")
