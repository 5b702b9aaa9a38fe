"""What a set of verifications says of one requirement for one model digest."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given as examples, strategies as st

from services.releases.domain.evidence import Standing, VerificationInput, standing_of
from tests.releases.samples import DATA_DIGEST

DATASET = f"flights@march {DATA_DIGEST}"


def verification(key: str, **changes: Any) -> VerificationInput:
    """An approved verification that was met."""
    found = VerificationInput(
        key=key, status="approved", suspect=False, post_hoc=False, dataset=DATASET, verdicts={"C1": "met"}
    )
    return msgspec.structs.replace(found, **changes)


def test_the_first_that_shows_it_is_used() -> None:
    """A further one for the same criterion does not outdate what was signed."""
    standing = standing_of([verification("V-1"), verification("V-2")])
    assert (standing.met, standing.used) == ((f"C1 {DATASET}",), ("V-1",))


def test_several_together_show_several_criteria() -> None:
    """Each is used for what it adds."""
    standing = standing_of([verification("V-1"), verification("V-2", verdicts={"C1": "met", "C2": "met"})])
    assert standing.used == ("V-1", "V-2")
    assert standing.met == (f"C1 {DATASET}", f"C2 {DATASET}")


def test_each_that_does_not_count_is_named() -> None:
    """So that the gate can say what is nearest."""
    standing = standing_of(
        [
            verification("V-1", suspect=True),
            verification("V-2", post_hoc=True),
            verification("V-3", status="in review"),
            verification("V-4", status="recorded"),
            verification("V-5", status="rejected"),
            verification("V-6", verdicts={"C1": "inconclusive"}),
            verification("V-7", verdicts={"C1": "not met"}),
        ]
    )
    assert standing == Standing(
        suspect="V-1", post_hoc="V-2", in_review="V-3", recorded="V-4", inconclusive="V-6", not_met="V-7"
    )


VERIFICATIONS = st.lists(
    st.builds(
        verification,
        st.sampled_from(["V-1", "V-2", "V-3"]),
        status=st.sampled_from(["recorded", "in review", "approved", "rejected"]),
        suspect=st.booleans(),
        post_hoc=st.booleans(),
        verdicts=st.dictionaries(st.sampled_from(["C1", "C2"]), st.sampled_from(["met", "not met", "inconclusive"])),
    ),
    max_size=5,
)


@examples(VERIFICATIONS)
def test_only_approved_sound_verifications_show_anything(verifications: list[VerificationInput]) -> None:
    """Leaving out all others changes nothing of what is met or not met."""
    counting = [one for one in verifications if one.status == "approved" and not one.suspect and not one.post_hoc]
    whole, part = standing_of(verifications), standing_of(counting)
    assert (whole.met, whole.used, whole.not_met) == (part.met, part.used, part.not_met)
    shown = {f"{name} {DATASET}" for one in counting for name, outcome in one.verdicts.items() if outcome == "met"}
    assert set(whole.met) == shown
