"""Positions as clients pass them back: read, merged and written without loss."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from shared.positions import MalformedPosition, format_positions, parse_positions

POSITIONS = st.dictionaries(
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=40), st.integers(0, 10**18 - 1), max_size=6
)


@given(POSITIONS)
def test_what_is_written_is_read_again(positions: dict[str, int]) -> None:
    """The text stands for exactly this mapping."""
    assert parse_positions(format_positions(positions)) == positions


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("", {}),
        (" , ,", {}),
        ("releases:8", {"releases": 8}),
        (" releases:8 , requirements:120 ", {"releases": 8, "requirements": 120}),
        ("releases:8,releases:3", {"releases": 8}),
        ("releases:3,releases:8", {"releases": 8}),
        ("releases:007", {"releases": 7}),
    ],
)
def test_lists_are_forgiving_and_the_later_position_counts(text: str, positions: dict[str, int]) -> None:
    """Clients may join what several answers gave them."""
    assert parse_positions(text) == positions


@pytest.mark.parametrize(
    "text",
    [
        "releases", "releases:", ":8", "releases:-8", "releases:8.0", "releases:8e3", "releases: 8", "Releases:8", "rel-eases:8",
        "releases:8;drift:1", "releases:" + "9" * 19, "r" * 41 + ":1", "releases:8,drift", "releases:\u0668", "releases:8\x00",
    ],
)  # fmt: skip
def test_anything_else_is_no_position(text: str) -> None:
    """The error names the parameter and repeats no more than a part of it."""
    with pytest.raises(MalformedPosition) as refused:
        parse_positions(text)
    assert [error.field for error in refused.value.fields] == ["after"]
    assert len(refused.value.what) < 100


def test_they_are_written_in_order_of_name() -> None:
    """The same positions are the same text."""
    assert format_positions({"b": 2, "a": 1}) == format_positions({"a": 1, "b": 2}) == "a:1,b:2"
