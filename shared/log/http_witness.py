"""A witness elsewhere, over HTTP (C2SP tlog-witness). What it answers counts only with a cosignature by the key that was pinned."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from shared.errors import Refused, Unavailable
from shared.log.checkpoint import parse_checkpoint
from shared.log.note import MalformedNote, VerifierKey, open_note, parse_note, parse_signature_line
from shared.log.witness import SIZE_MEDIA_TYPE, ForkRefused, OldSizeStale, Submission, UnknownLog

ANSWER_BYTES_MAX = 256 * 1024
"""Room for sixteen lines of the largest kind of cosignature, ML-DSA-44, of which the pinned one may be the last."""
TIMEOUT_S = 10.0


class WitnessSilent(Unavailable):
    """The witness did not answer, or not with a cosignature by its key."""


class WitnessRefused(Refused):
    """The witness knows no key that signed the checkpoint."""


class HttpWitness:
    """The witness at `address`, known by `key`, of type 0x04. The client is the caller's, and so are its connections and limits."""

    def __init__(self, address: str, *, key: VerifierKey, client: httpx.AsyncClient) -> None:
        self._url = address.rstrip("/") + "/add-checkpoint"
        self._key, self._client = key, client

    @property
    def vkey(self) -> str:
        """The verifier key of its cosignatures."""
        return str(self._key)

    async def add_checkpoint(self, *, old_size: int, proof: Sequence[bytes], note: str) -> str:
        """As `Witness.add_checkpoint`; only lines of the pinned key, checked."""
        submission = Submission(old_size=old_size, proof=tuple(proof), note=note)
        try:
            status, media_type, body = await self._answer(submission.body())
        except (httpx.HTTPError, UnicodeDecodeError) as error:
            raise self._silent(f"{type(error).__name__}: {error}") from error
        if status != 200:
            raise self._refusal(status, media_type, body, parse_checkpoint(parse_note(note).text).origin)
        return self._own_lines(note, body)

    async def _answer(self, body: str) -> tuple[int, str, str]:
        async with self._client.stream("POST", self._url, content=body.encode(), timeout=TIMEOUT_S) as response:
            content = b""
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > ANSWER_BYTES_MAX:
                    raise self._silent(f"its answer is longer than {ANSWER_BYTES_MAX} bytes")
            return response.status_code, response.headers.get("content-type", ""), content.decode()

    def _own_lines(self, note: str, body: str) -> str:
        """SignatureWrong if a line of the pinned key is not by it."""
        try:
            lines = [parse_signature_line(line) for line in body.removesuffix("\n").split("\n")]
        except MalformedNote as error:
            raise self._silent("its answer is no signature line") from error
        own = "".join(str(line) for line in lines if (line.name, line.hash) == (self._key.name, self._key.hash))
        if not own:
            raise self._silent("it cosigned with another key than the pinned one")
        open_note(f"{parse_note(note).text}\n{own}", [self._key])
        return own

    def _refusal(self, status: int, media_type: str, body: str, origin: str) -> Exception:
        size = body.rstrip("\n")
        if status == 409 and media_type.startswith(SIZE_MEDIA_TYPE) and size.isascii() and size.isdecimal():
            return OldSizeStale(origin, int(size[:19]))
        if status == 422:
            return ForkRefused(origin, None, f"{self._key.name} says: {body[:200]}")
        if status == 404:
            return UnknownLog(f"{self._key.name} does not know {origin}.", next_step="Have the log's key added there.")
        if status == 403:
            return WitnessRefused(
                f"{self._key.name} knows no key that signed the checkpoint of {origin}.",
                why=body[:200],
                next_step="After a change of keys, have the new verifier key added there.",
            )
        return self._silent(f"it answered {status}: {body[:200]}")

    def _silent(self, why: str) -> WitnessSilent:
        return WitnessSilent(
            f"No cosignature by {self._key.name} at {self._url}.",
            why=why,
            next_step="The next checkpoint asks again; look whether the witness is there if this goes on.",
        )
