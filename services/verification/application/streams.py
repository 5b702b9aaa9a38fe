"""The names of the streams of this service."""

from __future__ import annotations

from shared.event import stream_of


def case_stream(system: str, key: str) -> str:
    """A test case with all its revisions."""
    return stream_of(kind="test-case", system=system, key=key)


def run_stream(system: str, key: str) -> str:
    """One evaluation run."""
    return stream_of(kind="run", system=system, key=key)


def verification_stream(system: str, key: str) -> str:
    """One verification."""
    return stream_of(kind="verification", system=system, key=key)
