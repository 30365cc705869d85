"""The text that names blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bequest.errors import InputError
from bequest.inheritance.selection import describe_layers, layers_as_text, select_layers


@given(st.sets(st.integers(0, 60), min_size=1))
def test_what_describes_a_selection_names_it(blocks: set[int]) -> None:
    selection = tuple(sorted(blocks))
    assert select_layers(describe_layers(selection), 61) == selection
    assert select_layers(layers_as_text(selection), 61) == selection


@given(st.integers(1, 40))
def test_a_count_names_the_first_blocks(count: int) -> None:
    assert select_layers(layers_as_text(count), 40) == tuple(range(count))


@given(st.text(alphabet="0123456789-, ", max_size=12), st.integers(1, 30))
def test_any_text_is_a_selection_or_one_sentence(text: str, depth: int) -> None:
    try:
        selection = select_layers(text, depth)
    except InputError as error:
        assert "layers" in str(error)
    else:
        assert list(selection) == sorted(set(selection))
        assert set(selection) <= set(range(depth))


def test_examples() -> None:
    assert select_layers(" 0-2, 5 ", 6) == (0, 1, 2, 5)
    assert select_layers("5-5", 6) == (5,)
    assert select_layers("5", 6) == (0, 1, 2, 3, 4)
    assert describe_layers([0, 1, 2, 5]) == "0-2,5-5"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("7", "only 6 blocks"),
        ("0", "at least 1"),
        ("-3", "at least 1"),
        ("", "empty"),
        ("0-2,2", "twice"),
        ("3-4,0-1", "increasing"),
        ("0-6", "blocks 0 to 5"),
        ("4-2", "end lies before"),
        ("0:3", "is '0:3'"),
        ("half", "is 'half'"),
        ("0-2,", "is '0-2,'"),
        ("1e3", "is '1e3'"),
        ("0-999999999", "no model has so many"),
    ],
)
def test_refusals_say_what_is_wrong(text: str, found: str) -> None:
    with pytest.raises(InputError, match=found):
        select_layers(text, 6)
