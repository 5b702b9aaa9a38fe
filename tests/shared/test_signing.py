"""What a signer is shown: all of it, readable, with the difference to what was signed before."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from shared.event import canonical_bytes
from shared.signing import (
    OtherMeaning,
    RecordTwice,
    Signable,
    SignItem,
    readable_text,
    require_each_once,
    require_meaning,
    signable_of,
)

SCALARS = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_", min_size=1, max_size=6), inner, max_size=3)
    ),
    max_leaves=12,
)


def signable(value: Any, before: Any = None) -> Signable:
    """A signable of this content."""
    return signable_of(
        record="requirement:s/REQ-1",
        system="s",
        title="t",
        meaning="approval",
        roles=["approver"],
        canonical=canonical_bytes(value),
        before=None if before is None else canonical_bytes(before),
        version=1,
    )


def item(record: str = "requirement:s/REQ-1", meaning: str = "approval") -> SignItem:
    return SignItem(record=record, digest="0" * 64, meaning=meaning)


def test_it_reads_like_a_document() -> None:
    """Names without underscores, lists numbered, nothing hidden: not an empty list, not a no, not a none."""
    value = {
        "title": "Finds late flights",
        "decision_rule": "point",
        "level": None,
        "sequestered": False,
        "personal_data": True,
        "controls": [],
        "threshold": 0.7,
        "criteria": [{"key": "C1", "slices": ["a", "b"]}, {"key": "C2", "slices": {}}],
    }
    assert readable_text(value).splitlines() == [
        "title: Finds late flights", "decision rule: point", "level: none", "sequestered: no", "personal data: yes",
        "controls: none", "threshold: 0.7", "criteria:", "  1:", "    key: C1", "    slices:", "      1: a", "      2: b", "  2:",
        "    key: C2", "    slices: none",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (0, "0"), (1, "1"), (0.0, "0.0"), (True, "yes"), (None, "none"), ([], ""), ({}, "")]
)
def test_a_scalar_reads_as_itself(value: Any, text: str) -> None:
    """A zero is a number, not a no."""
    assert readable_text(value) == text


@pytest.mark.parametrize("end", ["\n", "\r\n", "\x85", "\u2028", "\u2029", "\x0b"])
def test_no_text_can_pass_for_a_field(end: str) -> None:
    """An author cannot write lines that the signer takes for the threshold."""
    value = {"statement": f"Recall is high.{end}threshold: 0.9{end}", "threshold": 0.1, f"a{end}threshold: 0.9": 1}
    assert readable_text(value).splitlines() == [
        "statement:", "  | Recall is high.", "  | threshold: 0.9", "  | ", "threshold: 0.1", "a threshold: 0.9: 1",
    ]  # fmt: skip
    assert readable_text([f"1{end}2"]).splitlines() == ["1:", "  | 1", "  | 2"]


def leaves(value: Any) -> list[str]:
    """All scalars, as text."""
    if isinstance(value, dict):
        return [leaf for child in value.values() for leaf in leaves(child)]
    if isinstance(value, list):
        return [leaf for child in value for leaf in leaves(child)]
    return [] if value is None or isinstance(value, bool) else str(value).splitlines()


@given(st.dictionaries(st.text("abc_", min_size=1, max_size=6), VALUES, min_size=1, max_size=4))
def test_nothing_that_is_signed_is_left_out(value: dict[str, Any]) -> None:
    """Every scalar of the canonical bytes stands in the text, and the digest is that of the bytes."""
    shown = signable(value)
    decoded = msgspec.json.decode(shown.canonical)
    assert [leaf for leaf in leaves(decoded) if leaf not in shown.text] == []
    assert hashlib.sha256(shown.canonical.encode()).hexdigest() == shown.digest


@given(VALUES, VALUES)
def test_the_difference_is_empty_only_where_nothing_was_signed_or_nothing_changed(value: Any, before: Any) -> None:
    """A signer who reads only the difference is not misled."""
    shown = signable({"content": value}, {"content": before})
    assert (shown.difference == ()) == (
        shown.text == readable_text(msgspec.json.decode(canonical_bytes({"content": before})))
    )
    assert signable({"content": value}).difference == ()


def test_the_difference_names_old_and_new() -> None:
    """A unified diff of the readable lines."""
    shown = signable({"threshold": 0.8, "title": "t"}, {"threshold": 0.7, "title": "t"})
    assert [line for line in shown.difference if line[0] in "+-"][2:] == ["-threshold: 0.7", "+threshold: 0.8"]


def test_one_act_names_a_record_once() -> None:
    """Each later naming is pointed at."""
    require_each_once([item("a:s/1"), item("a:s/2")])
    with pytest.raises(RecordTwice) as refused:
        require_each_once([item("a:s/1"), item("a:s/2"), item("a:s/1")])
    assert [error.field for error in refused.value.fields] == ["/items/2/record"]


def test_a_signature_has_the_meaning_that_was_shown() -> None:
    """21 CFR 11.50 (a) (3)."""
    require_meaning([item(), item()], "approval")
    with pytest.raises(OtherMeaning) as refused:
        require_meaning([item(), item(meaning="review")], "approval")
    assert [(error.field, error.rule) for error in refused.value.fields] == [("/items/1/meaning", "approval")]
