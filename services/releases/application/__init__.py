"""The use cases of releases: load, decide, save. One keyword-only method per verb, in one class per kind of record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from shared.feed import Feed
from shared.runtime import Foundation
from shared.settings import Settings

from .change_control import ChangeControl
from .desk import Desk
from .escalations import Escalations
from .gate_copies import GateCopies
from .gate_keeper import GateKeeper
from .listings import Listings
from .model_versions import ModelVersions
from .nonconformities import Nonconformities
from .release_control import ReleaseControl
from .signatures import Signatures
from .waivers import Waivers


@dataclass(frozen=True, kw_only=True)
class Releases:
    """What people and other systems can ask of this service."""

    model_versions: ModelVersions
    changes: ChangeControl
    releases: ReleaseControl
    gate: GateKeeper
    waivers: Waivers
    nonconformities: Nonconformities
    listings: Listings
    signatures: Signatures
    escalations: Escalations

    @classmethod
    def on(cls, foundation: Foundation, *, feed: Feed, clock: Callable[[], datetime], settings: Settings) -> Releases:
        """The use cases on the persistence of this service."""
        desk = Desk(
            store=foundation.store,
            access=foundation.access,
            pool=foundation.pool,
            projection=foundation.projection,
            feed=feed,
            clock=clock,
            wait_s=settings.after_timeout_s,
        )
        gate = GateKeeper(desk=desk, copies=GateCopies(pool=foundation.pool))
        releases = ReleaseControl(desk=desk, gate=gate)
        changes = ChangeControl(desk=desk)
        waivers = Waivers(desk=desk)
        return cls(
            model_versions=ModelVersions(desk=desk),
            changes=changes,
            releases=releases,
            gate=gate,
            waivers=waivers,
            nonconformities=Nonconformities(desk=desk),
            listings=Listings(desk=desk),
            signatures=Signatures(desk=desk, gate=gate, changes=changes, releases=releases, waivers=waivers),
            escalations=Escalations(desk=desk, check_s=settings.deadline_check_s),
        )
