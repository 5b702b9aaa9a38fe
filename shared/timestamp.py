"""Asks a time stamp authority (RFC 3161) to say that something existed at a time."""

from __future__ import annotations

import hashlib
import secrets

import httpx
from asn1crypto.tsp import TimeStampReq, TimeStampResp

from shared.errors import Unavailable

TIMEOUT_SECONDS = 20.0
GRANTED = ("granted", "granted_with_mods")


class NoTimestamp(Unavailable):
    """The authority is away, refuses, or answers something else than it was asked."""


async def timestamp(content: bytes, *, authority: str, client: httpx.AsyncClient) -> bytes:
    """The authority's answer (DER, TimeStampResp) over the SHA-256 of the content, with its certificates. NoTimestamp.

    Whether its signature holds, and whose it is, is for those to say who trust the authority: nothing here depends on it.
    """
    digest, nonce = hashlib.sha256(content).digest(), secrets.randbits(63)
    imprint = {"hash_algorithm": {"algorithm": "sha256"}, "hashed_message": digest}
    request = TimeStampReq({"version": "v1", "message_imprint": imprint, "nonce": nonce, "cert_req": True})
    headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    try:
        answer = await client.post(authority, content=request.dump(), headers=headers, timeout=TIMEOUT_SECONDS)
        answer.raise_for_status()
        response = TimeStampResp.load(answer.content, strict=True)
        if response["status"]["status"].native not in GRANTED:
            raise ValueError(f"it refuses: {response['status'].native}")
        stamped = response["time_stamp_token"]["content"]["encap_content_info"]["content"].parsed
        if stamped["message_imprint"].native["hashed_message"] != digest or stamped["nonce"].native != nonce:
            raise ValueError("it answers another question")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, KeyError, AttributeError) as error:
        raise NoTimestamp(
            f"The time stamp authority at {authority} gives no time stamp.",
            why=str(error) or type(error).__name__,
            next_step="Look at PROOFTRAIL_TIMESTAMP_URL and whether the authority answers; it is asked again by itself.",
        ) from error
    return answer.content
