"""Evidence files in a bucket of an S3-compatible server: <prefix>/<system>/<first two digits>/<digest>.

An object is written by one PUT with If-None-Match: *, so that nobody overwrites anything and no part of a file is ever an object.
The server checks the SHA-256 of what arrives. Endpoint, region and credentials come from the usual AWS_* environment variables, a
web identity or the instance.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from shared.artefacts import (
    CHUNK_BYTES,
    ArtefactsUnreachable,
    ReadsInChunks,
    checked,
    missing,
    name_of,
    require_content,
)

CONNECT_TIMEOUT = timedelta(seconds=5)
READ_TIMEOUT = timedelta(seconds=30)
REQUEST_TIMEOUT = timedelta(seconds=300)
RETRIES_MAX = 2
RETRY_TIMEOUT = timedelta(seconds=10)

INSTANCE_CREDENTIALS = "/latest/api/token"
"""Where credentials are asked for when the environment has none: the address that every cloud instance has."""

PROBE = "prooftrail-probe"
ABSENT = "prooftrail-probe-absent"


class ArtefactBucketMissing(ArtefactsUnreachable):
    """The server has no such bucket."""


class ArtefactsNotPermitted(ArtefactsUnreachable):
    """The server does not know the credentials, or they do not permit this."""


class ConditionalWritesIgnored(ArtefactsUnreachable):
    """The server overwrites an object although it was told not to."""


class ArtefactBucket(ReadsInChunks):
    """A bucket, reached with the credentials of the environment; nothing is sent before the first use.

    `address` is s3://bucket or s3://bucket/prefix. `plain_http` lets it talk without TLS.
    """

    def __init__(self, *, address: str, plain_http: bool = False) -> None:
        parts = urlsplit(address)
        self._address = address
        self._store = S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            checksum_algorithm="SHA256",
            client_options={
                "allow_http": plain_http,
                "connect_timeout": CONNECT_TIMEOUT,
                "read_timeout": READ_TIMEOUT,
                "timeout": REQUEST_TIMEOUT,
            },
            retry_config={"max_retries": RETRIES_MAX, "retry_timeout": RETRY_TIMEOUT},
        )

    def require_usable(self) -> None:
        created = self._create(PROBE, b"probe")
        if created and self._create(PROBE, b"probe"):
            raise ConditionalWritesIgnored(
                f"The server of {self._address} overwrites objects.",
                why="It ignores If-None-Match, so stored evidence could be replaced unseen.",
                next_step="Use a server that honours conditional writes.",
            )
        with self._problems():
            obstore.get(self._store, PROBE).bytes()
        # A server that may not list answers 403 for what is not there: then missing and forbidden look the same.
        with contextlib.suppress(FileNotFoundError), self._problems():
            obstore.get(self._store, ABSENT)

    def put(self, *, system: str, digest: str, content: bytes) -> None:
        require_content(digest=digest, content=content)
        if not self._create(name_of(system=system, digest=digest), content):
            self.length(system=system, digest=digest)

    def chunks(self, *, system: str, digest: str) -> Iterator[bytes]:
        name = name_of(system=system, digest=digest)
        with self._problems():
            try:
                stream = obstore.get(self._store, name).stream(min_chunk_size=CHUNK_BYTES)
            except FileNotFoundError as error:
                if code_of(error) != "NoSuchKey":
                    raise
                raise missing(system=system, digest=digest) from None
            yield from checked(map(bytes, stream), digest=digest)

    def _create(self, name: str, content: bytes) -> bool:
        """False if there is an object of this name, which stays."""
        with self._problems():
            try:
                obstore.put(self._store, name, content, mode="create")
            except AlreadyExistsError:
                return False
        return True

    @contextlib.contextmanager
    def _problems(self) -> Iterator[None]:
        """What the server or the way to it answered, told as what it is."""
        try:
            yield
        except (FileNotFoundError, PermissionDeniedError, UnauthenticatedError) as error:
            if code_of(error) == "NoSuchKey":
                raise
            raise self._no_bucket() if code_of(error) == "NoSuchBucket" else self._forbidden(code_of(error)) from error
        except (BaseError, OSError) as error:
            if INSTANCE_CREDENTIALS in str(error):
                raise self._forbidden("there are no credentials") from error
            raise ArtefactsUnreachable(
                f"The bucket of evidence files, {self._address}, does not answer.",
                why=first_line(error),
                next_step="Check AWS_ENDPOINT_URL and the way to that server, then send the same request again.",
            ) from error

    def _no_bucket(self) -> ArtefactBucketMissing:
        return ArtefactBucketMissing(
            f"The bucket of evidence files, {self._address}, does not exist.",
            why="The server answered NoSuchBucket.",
            next_step="Make the bucket, or name another one in PROOFTRAIL_ARTEFACTS.",
        )

    def _forbidden(self, reason: str) -> ArtefactsNotPermitted:
        return ArtefactsNotPermitted(
            f"The bucket of evidence files, {self._address}, refuses us: {reason}.",
            why="The server does not know the credentials, or they lack s3:GetObject, s3:PutObject or s3:ListBucket there.",
            next_step="Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and the policy of the bucket.",
        )


def code_of(error: Exception) -> str:
    """The S3 error code in an answer of the server."""
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    return found[1] if found else type(error).__name__


def first_line(error: Exception) -> str:
    """What happened, without the library's account of its inside."""
    return str(error).partition("\n")[0].strip()
