"""What changed, computed."""

from __future__ import annotations

from services.releases.domain.difference import Difference, differences
from tests.releases.samples import registered


def test_the_same_is_no_difference() -> None:
    """Nothing has to be believed, nothing is invented."""
    same = {"REQ-1": 1}
    assert differences(before=registered(), after=registered(), requirements_before=same, requirements_after=same) == ()


def test_each_field_that_differs_is_listed_with_before_and_after() -> None:
    """Manifest, data, code and requirement revisions; what came and what went too."""
    before, after = registered("1"), registered("2", code_revision="def", training_dataset_version="may")
    found = differences(
        before=before,
        after=after,
        requirements_before={"REQ-1": 1, "REQ-2": 1},
        requirements_after={"REQ-1": 2, "REQ-3": 1},
    )
    assert found == (
        Difference(what="code revision", before="abc", after="def"),
        Difference(what="model digest", before=before.digest, after=after.digest),
        Difference(what="model version", before="1", after="2"),
        Difference(what="requirement REQ-1", before="revision 1", after="revision 2"),
        Difference(what="requirement REQ-2", before="revision 1", after=None),
        Difference(what="requirement REQ-3", before=None, after="revision 1"),
        Difference(what="training dataset", before="flights@january", after="flights@may"),
        Difference(
            what="weights booster",
            before=before.manifest.components[0].digest,
            after=after.manifest.components[0].digest,
        ),
    )
