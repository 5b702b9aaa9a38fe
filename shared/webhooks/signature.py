"""Signatures of webhooks: Standard Webhooks 1.0, scheme v1 (HMAC-SHA256 over id, time and body)."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable

SECRET_BYTES = 32
PREFIX = "whsec_"


def secret_text(secret: bytes) -> str:
    """The secret as receivers configure it: `whsec_` and base64."""
    return PREFIX + base64.b64encode(secret).decode()


def signatures(secrets: Iterable[bytes], *, webhook_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: one signature for each secret, with spaces between. `timestamp` is in seconds (Unix)."""
    signed = b"%b.%d.%b" % (webhook_id.encode(), timestamp, body)
    return " ".join("v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode() for secret in secrets)
