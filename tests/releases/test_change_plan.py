"""ChangePlan: every transition allowed and refused."""

from __future__ import annotations

import msgspec
import pytest

from services.releases.domain import change_plan
from services.releases.domain.change_plan import (
    ChangePlanApproved,
    ChangePlanDrafted,
    Modification,
    PlanContent,
    PlanCriterion,
)
from services.releases.domain.signature_rules import AuthorCannotApprove, DigestMismatch
from tests.releases.samples import given, signed

RECORD = "change-plan:flight-delay/P-1"
CONTENT = PlanContent(
    title="Retrain on new months",
    model="delay",
    modifications=(Modification(key="retrain", description="same features, newer months"),),
    protocol="train, then verify on the sequestered month",
    acceptance_criteria=(PlanCriterion(key="A1", requirement="REQ-1"),),
    rollback_criteria=("recall falls below the requirement in production",),
)
DRAFTED = ChangePlanDrafted(key="P-1", author="ada", content=CONTENT)


def approved(content: PlanContent = CONTENT) -> ChangePlanApproved:
    """Ben's signature under the plan."""
    plan = given(change_plan.evolve, msgspec.structs.replace(DRAFTED, content=content))
    signature = signed("ben", change_plan.signable_bytes(plan, record=RECORD))
    return ChangePlanApproved(key="P-1", signature=signature)


def test_a_plan_is_drafted_and_revised_until_it_is_approved() -> None:
    """The same content again is a repeat."""
    assert change_plan.draft(None, key="P-1", author="ada", content=CONTENT) == (DRAFTED,)
    plan = given(change_plan.evolve, DRAFTED)
    assert change_plan.draft(plan, key="P-1", author="bob", content=CONTENT) == ()
    other = msgspec.structs.replace(CONTENT, title="Other")
    assert len(change_plan.draft(plan, key="P-1", author="bob", content=other)) == 1


def test_an_approved_plan_never_changes() -> None:
    """What was agreed before cannot be altered after."""
    plan = given(change_plan.evolve, DRAFTED, approved())
    with pytest.raises(change_plan.ChangePlanInForce):
        change_plan.draft(plan, key="P-1", author="ada", content=msgspec.structs.replace(CONTENT, title="Other"))


def test_another_person_approves_exactly_what_they_were_shown() -> None:
    """Everybody who wrote in the plan is an author of it."""
    plan = given(change_plan.evolve, DRAFTED)
    content = change_plan.signable_bytes(plan, record=RECORD)
    assert change_plan.approve(plan, record=RECORD, signature=signed("ben", content)) == (approved(),)
    with pytest.raises(AuthorCannotApprove):
        change_plan.approve(plan, record=RECORD, signature=signed("ada", content))
    with pytest.raises(DigestMismatch):
        change_plan.approve(plan, record=RECORD, signature=signed("ben", b"something else"))
    with pytest.raises(DigestMismatch):
        change_plan.approve(plan, record="change-plan:other/P-1", signature=signed("ben", content))
    with pytest.raises(change_plan.ChangePlanMissing):
        change_plan.approve(None, record=RECORD, signature=signed("ben", content))


def test_approving_again_is_a_repeat() -> None:
    """One approval is enough."""
    plan = given(change_plan.evolve, DRAFTED, approved())
    content = change_plan.signable_bytes(plan, record=RECORD)
    assert change_plan.approve(plan, record=RECORD, signature=signed("cleo", content)) == ()


def test_only_an_approved_plan_allows_what_it_names() -> None:
    """Approved before use."""
    assert not given(change_plan.evolve, DRAFTED).allows("retrain")
    plan = given(change_plan.evolve, DRAFTED, approved())
    assert plan.allows("retrain")
    assert not plan.allows("new features")


@pytest.mark.parametrize("field", ["modifications", "acceptance_criteria", "rollback_criteria"])
def test_a_plan_without_one_of_its_parts_is_refused(field: str) -> None:
    """The refusal names the part."""
    with pytest.raises(change_plan.InvalidChangePlan) as refused:
        change_plan.draft(None, key="P-1", author="ada", content=msgspec.structs.replace(CONTENT, **{field: ()}))
    assert [one.field for one in refused.value.fields] == [f"/{field}"]
