"""Evidence: what a release rests on, requirement by requirement; a sign-off covers exactly this and is outdated by any other.

A *standing* is the sum of all verifications of one requirement revision for one model digest. A verification counts if it is
approved, not suspect, and its criterion was approved before the run. One that counts and is not met outweighs any that is met:
an attempt that failed is voided with a reason or it stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from shared.event import digest_of

VerificationStatus = Literal["recorded", "in review", "approved", "rejected"]


class VerificationInput(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One verification as its events tell it. `dataset` is `name@version digest`; `verdicts` has the outcome by criterion."""

    key: str
    status: VerificationStatus
    suspect: bool
    post_hoc: bool
    dataset: str
    verdicts: Mapping[str, str]


class CriterionInput(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A criterion of a requirement in force; `dataset` is `name@version`."""

    key: str
    dataset: str


class Standing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """`met` lists `criterion name@version digest`, shown by the verifications `used`. The others name one record each, or none."""

    met: tuple[str, ...] = ()
    used: tuple[str, ...] = ()
    not_met: str | None = None
    suspect: str | None = None
    in_review: str | None = None
    recorded: str | None = None
    inconclusive: str | None = None
    post_hoc: str | None = None


class Evidence(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One requirement in force and what meets it: verifications, else a waiver, else nothing."""

    requirement: str
    revision: int
    verifications: tuple[str, ...]
    waiver: str | None


def standing_of(verifications: Sequence[VerificationInput]) -> Standing:
    """Folds verifications of one requirement revision and model digest, in order of recording.

    Of several that show the same the first is used, so that a further one does not outdate what was signed.
    """
    counting = [one for one in verifications if one.status == "approved" and not one.suspect and not one.post_hoc]
    met: list[str] = []
    used: list[str] = []
    for one in counting:
        new = [name for name in _met(one) if name not in met]
        met += new
        used += [one.key] if new else []
    return Standing(
        met=tuple(met),
        used=tuple(used),
        not_met=_first(one for one in counting if "not met" in one.verdicts.values()),
        suspect=_first(one for one in verifications if one.status == "approved" and one.suspect),
        in_review=_first(one for one in verifications if one.status == "in review"),
        recorded=_first(one for one in verifications if one.status == "recorded"),
        inconclusive=_first(one for one in counting if "inconclusive" in one.verdicts.values()),
        post_hoc=_first(one for one in verifications if one.status == "approved" and one.post_hoc),
    )


def is_met(*, criteria: Sequence[CriterionInput], standing: Standing, datasets: Mapping[str, str]) -> bool:
    """Every criterion is met on the very bytes of its dataset version, and nothing that counts says otherwise.

    `datasets` maps `name@version` to the digest of each dataset that was not withdrawn.
    """
    if not criteria or standing.not_met is not None:
        return False
    for one in criteria:
        digest = datasets.get(one.dataset)
        if digest is None or f"{one.key} {one.dataset} {digest}" not in standing.met:
            return False
    return True


def evidence_digest(evidence: Sequence[Evidence]) -> str:
    """Hex SHA-256 of the evidence as JSON with sorted keys and no spaces."""
    return digest_of(msgspec.json.encode(evidence, order="sorted"))


def _met(one: VerificationInput) -> list[str]:
    return [f"{criterion} {one.dataset}" for criterion, outcome in sorted(one.verdicts.items()) if outcome == "met"]


def _first(verifications: Iterable[VerificationInput]) -> str | None:
    return next((one.key for one in verifications), None)
