"""Keys that follow from what caused a record, so that one cause has one record however often it is seen."""

from __future__ import annotations

from shared.event import digest_of

KEY_LENGTH_MAX = 63


def derived_key(prefix: str, cause: str) -> str:
    """`CR-<cause>`; a cause too long for a key is cut and gets the start of its SHA-256 instead."""
    key = f"{prefix}-{cause}"
    if len(key) <= KEY_LENGTH_MAX:
        return key
    return f"{key[: KEY_LENGTH_MAX - 17]}-{digest_of(cause.encode())[:16]}"
