"""One attempt to deliver one event: CloudEvents 1.0 over HTTP in binary mode, signed after Standard Webhooks.

The body is exactly the stored bytes, the attributes are those that Kafka carries. No redirect is followed, no proxy of the
environment is used, and of the answer nothing counts but its status.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httpcore

from shared.cloud_event import headers_of, source_of
from shared.event import RecordedEvent
from shared.webhooks.addresses import AddressNotAllowed, AllowedNetworks, GuardedBackend
from shared.webhooks.signature import signatures

ATTEMPT_SECONDS_MAX = 15.0
CONNECT_SECONDS_MAX = 5.0
ANSWER_BYTES_MAX = 64 << 10
IDLE_SECONDS_MAX = 30.0
IDLE_CONNECTIONS_MAX = 50
RETRY_AFTER_SECONDS_MAX = 3600.0
USER_AGENT = b"Prooftrail-Webhooks/1"
GONE = 410
OF_KAFKA = frozenset({"ce_epoch"})

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The receiver did not take it. `status` is what it answered, None without an answer; `gone` that it wants nothing more."""

    trouble: str
    status: int | None = None
    retry_after_s: float = 0.0

    @property
    def gone(self) -> bool:
        return self.status == GONE


def event_headers(event: RecordedEvent) -> Headers:
    """The attributes of the event as CloudEvents names them in HTTP: `ce-id` where Kafka has `ce_id`."""
    kafka = headers_of(event.raw, source=source_of(event.service).encode(), leaf_hash=event.leaf_hash, epoch=b"")
    return [(name.replace("_", "-").encode(), value) for name, value in kafka if name not in OF_KAFKA]


def signed_headers(event: RecordedEvent, *, secrets: Sequence[bytes], timestamp: int) -> Headers:
    """All headers of an attempt at that time (Unix, seconds). The webhook-id is the id of the event, so it stays the same."""
    headers = event_headers(event)
    webhook_id = dict(headers)[b"ce-id"]
    signed = signatures(secrets, webhook_id=webhook_id.decode(), timestamp=timestamp, body=event.raw)
    return [
        *headers,
        (b"webhook-id", webhook_id),
        (b"webhook-timestamp", b"%d" % timestamp),
        (b"webhook-signature", signed.encode()),
        (b"user-agent", USER_AGENT),
    ]


class Sender:
    """Connections to receivers, kept for a while."""

    def __init__(
        self, *, networks: AllowedNetworks, trusted: ssl.SSLContext, attempt_s_max: float = ATTEMPT_SECONDS_MAX
    ) -> None:
        self._attempt_s_max = attempt_s_max
        self._backends = {scheme: GuardedBackend(networks, encrypted=scheme == "https") for scheme in ("http", "https")}
        self._pools = {
            scheme: httpcore.AsyncConnectionPool(
                ssl_context=trusted,
                max_connections=None,
                max_keepalive_connections=IDLE_CONNECTIONS_MAX,
                keepalive_expiry=IDLE_SECONDS_MAX,
                network_backend=backend,
            )
            for scheme, backend in self._backends.items()
        }

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()
        for backend in self._backends.values():
            backend.close()

    async def send(self, *, url: str, event: RecordedEvent, headers: Headers) -> Failed | None:
        """None if the receiver took it (2xx), in ATTEMPT_SECONDS_MAX at most."""
        try:
            async with asyncio.timeout(self._attempt_s_max):
                return await self._attempt(url, event.raw, headers)
        except (TimeoutError, httpcore.TimeoutException):
            return Failed(trouble=f"no answer within {self._attempt_s_max:g} s")
        except AddressNotAllowed as error:
            return Failed(trouble=str(error))
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            return Failed(trouble=f"cannot be reached: {str(error) or type(error).__name__}"[:300])

    async def _attempt(self, url: str, body: bytes, headers: Headers) -> Failed | None:
        seconds = {"connect": CONNECT_SECONDS_MAX, "read": None, "write": None, "pool": None}
        async with self._pools[urlsplit(url).scheme].stream(
            "POST", url, headers=headers, content=body, extensions={"timeout": seconds}
        ) as answer:
            await _read_some(answer)
            return _outcome(answer)


async def _read_some(answer: httpcore.Response) -> None:
    """A connection is kept when all has been read; one with more to say than that is closed."""
    read = 0
    async with contextlib.aclosing(cast(AsyncGenerator[bytes, None], answer.aiter_stream())) as parts:
        async for part in parts:
            read += len(part)
            if read > ANSWER_BYTES_MAX:
                return


def _outcome(answer: httpcore.Response) -> Failed | None:
    if 200 <= answer.status < 300:
        return None
    told = {name.lower(): value for name, value in answer.headers}.get(b"retry-after", b"")
    wait = float(told) if told.isdigit() and len(told) < len("100000") else 0.0
    return Failed(
        trouble=f"answered {answer.status}",
        status=answer.status,
        retry_after_s=min(wait, RETRY_AFTER_SECONDS_MAX),
    )
