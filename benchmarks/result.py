"""What a benchmark reports: our figure, the peer's or the limit's, and their ratio against a goal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

import msgspec


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. `ratio` is how many times better we are than the peer; at least `goal` is met.

    A benchmark that could not run has no figures, counts as not met, and says in `peer_name` why.
    """

    name: str
    ours: float | None
    peer: float | None
    peer_name: str
    unit: str
    ratio: float | None
    goal: float
    met: bool


def compared(
    *, name: str, ours: float, peer: float, peer_name: str, unit: str, goal: float, better: Literal["less", "more"]
) -> Result:
    """A measured line: `better` says whether less or more of the unit is better."""
    ratio = peer / ours if better == "less" else ours / peer
    return Result(
        name=name, ours=ours, peer=peer, peer_name=peer_name, unit=unit, ratio=ratio, goal=goal, met=ratio >= goal
    )


def within(*, name: str, ours: float, limit: float, unit: str) -> Result:
    """A figure that must stay at or below a limit."""
    return compared(name=name, ours=ours, peer=limit, peer_name="limit", unit=unit, goal=1.0, better="less")


def not_run(*, name: str, why: str, unit: str, goal: float = 1.0) -> Result:
    """A benchmark that cannot run here."""
    return Result(
        name=name, ours=None, peer=None, peer_name=f"not run: {why}", unit=unit, ratio=None, goal=goal, met=False
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values are at or below (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)
