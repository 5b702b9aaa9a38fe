"""Positions as clients see them: `requirements:120,verification:8`, passed back as `after` to read one's own writes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from shared.errors import FieldError, Invalid

_ENTRY = re.compile(r"([a-z]{1,40}):([0-9]{1,18})")


class MalformedPosition(Invalid):
    """`after` is not a list of service:position."""


def parse_positions(text: str) -> dict[str, int]:
    """`requirements:120,verification:8` as a mapping; empty text is the empty mapping."""
    positions: dict[str, int] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise MalformedPosition(
                f"{entry[:60]!r} is no position.",
                why="A position is a service's name, a colon and a number.",
                next_step="Pass on the position that an answer gave you, for instance requirements:120.",
                fields=(FieldError(field="after", rule="service:number, separated by commas"),),
            )
        positions[match[1]] = max(int(match[2]), positions.get(match[1], 0))
    return positions


def format_positions(positions: Mapping[str, int]) -> str:
    """The mapping as text, in order of name."""
    return ",".join(f"{service}:{position}" for service, position in sorted(positions.items()))
