"""The names of the streams of this service, and who may do what with them."""

from __future__ import annotations

from shared.access import Role
from shared.event import Actor, stream_of

AUTHORS = (Role.AUTHOR, Role.SERVICE)
APPROVERS = (Role.APPROVER,)
TRIAGERS = (Role.REVIEWER, Role.APPROVER, Role.RELEASER, Role.AUTHOR)

DRIFT = Actor(subject="service:drift", kind="service", issuer="prooftrail")
"""Who acts when no person does: windows close and deadlines pass by themselves."""


def plan_stream(system: str, key: str) -> str:
    """The stream of a monitoring plan and its windows."""
    return stream_of(kind="monitoring-plan", system=system, key=key)


def signal_stream(system: str, key: str) -> str:
    """The stream of a drift signal."""
    return stream_of(kind="drift-signal", system=system, key=key)
