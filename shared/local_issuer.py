"""The issuer of the embedded mode: whoever may read its folder may sign in under any name.

The folder holds, readable by its owner only:

    key.json     the Ed25519 key that signs now, and the public halves of those that signed before
    people.json  printed name -> opaque subject; people who want to be forgotten are forgotten here too
    lock         held while either of them is replaced, since `prooftrail token` mints while the server runs

Both are replaced whole (write beside, fsync, rename), so a killed process leaves the old file or the new one.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.errors import FieldError, Invalid, ProoftrailError
from shared.identity import printed_name
from shared.key_sources import StaticKeys

NAME_CHARACTERS_MAX = 80
LIFETIME_S_MAX = 30 * 24 * 3600  # also how long the public half of a rotated key stays published

_File = TypeVar("_File", bound=msgspec.Struct)


class CannotMint(Invalid):
    """A token was asked for that this issuer does not give."""

    def __init__(self, field: str, rule: str) -> None:
        why = "The issuer gives no token beyond its limits."
        super().__init__(f"No token: {field} must be {rule}", why=why, fields=(FieldError(f"/{field}", rule),))


class DamagedIssuerFolder(ProoftrailError):
    """A file cannot be read. It is never made anew: people would lose their subjects, and with them their roles."""


class IssuerFolderOpen(ProoftrailError):
    """Others on this machine may read the signing key or the names, or replace them."""


class _RetiredKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    public: str
    retired_at: Annotated[datetime, msgspec.Meta(tz=True)]


class _Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    signing: str
    retired: list[_RetiredKey] = []


class _People(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    person: dict[str, str] = {}
    service: dict[str, str] = {}


class LocalIssuer:
    """Mints access tokens (RFC 9068) and is the key source for them. `issuer` is the claim `iss` of its tokens."""

    def __init__(
        self, *, folder: Path, issuer: str, clock: Callable[[], datetime], random_bytes: Callable[[int], bytes]
    ) -> None:
        self.issuer = issuer
        self._folder, self._clock, self._random_bytes = folder, clock, random_bytes
        self._published: tuple[tuple[int, int, int], StaticKeys] | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        issuer: str,
        clock: Callable[[], datetime],
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> LocalIssuer:
        """The issuer that lives in `folder`, with a first key if it has none.

        Makes the folder if need be and changes no permission of one that exists. Raises DamagedIssuerFolder,
        IssuerFolderOpen.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_closed(folder, folder.stat().st_mode & 0o022)
        opened = cls(folder=folder, issuer=issuer, clock=clock, random_bytes=random_bytes)
        with opened._locked():
            if not opened._key_file.exists():
                opened._write(opened._key_file, _Keys(signing=_encoded(random_bytes(32))))
        opened._keys()
        opened._people()
        return opened

    def jwks(self) -> dict[str, Any]:
        """The published JWK Set: the signing key first, then every rotated one that may still have living tokens."""
        signing_key, retired = self._keys()
        return {"keys": [_jwk(_public_of(signing_key)), *(_jwk(key.public) for key in retired)]}

    async def key(self, key_id: str | None) -> jwt.PyJWK:
        """As KeySource.key, from the folder: a rotation by another process counts at once."""
        try:
            status = self._key_file.stat()
        except OSError as error:
            raise _damaged(self._key_file, error) from None
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._published is None or self._published[0] != version:
            self._published = (version, StaticKeys(self.jwks()))
        return await self._published[1].key(key_id)

    def subject(self, *, name: str, kind: Literal["person", "service"] = "person") -> str:
        """The opaque subject of this name, the same for ever; drawn when the name is new."""
        name = _required_name(name, "name")
        if kind not in ("person", "service"):
            raise CannotMint("kind", "person or service")
        with self._locked():
            people = self._people()
            subjects = people.person if kind == "person" else people.service
            if name not in subjects:
                subjects[name] = f"{kind}-{self._random_bytes(16).hex()}"
                self._write(self._people_file, people)
            return subjects[name]

    def forget(self, *, name: str) -> bool:
        """Remove a person's name. The same name later gets another subject, without any of the roles."""
        with self._locked():
            people = self._people()
            known = people.person.pop(_required_name(name, "name"), None) is not None
            if known:
                self._write(self._people_file, people)
            return known

    def forget_subject(self, subject: str) -> bool:
        """As `forget`, for whoever has this subject."""
        with self._locked():
            people = self._people()
            names = [name for name, known in people.person.items() if known == subject]
            for name in names:
                del people.person[name]
            if names:
                self._write(self._people_file, people)
            return bool(names)

    def mint(
        self,
        *,
        name: str,
        lifetime_s: int = 3600,
        audience: str = "prooftrail",
        kind: Literal["person", "service"] = "person",
        auth_time: datetime | None = None,
        on_behalf_of: str | None = None,
    ) -> str:
        """A signed token for this name. A person's says when it signed in: `auth_time`, or now.

        A service may act `on_behalf_of` a person, named too: then the subject is that person and `act` the service
        (RFC 8693). Raises CannotMint.
        """
        now = self._clock()
        _require_mintable(now=now, lifetime_s=lifetime_s, kind=kind, auth_time=auth_time, on_behalf_of=on_behalf_of)
        name = _required_name(name, "name")
        principal = None if on_behalf_of is None else _required_name(on_behalf_of, "on_behalf_of")
        subject = self.subject(name=name, kind=kind)
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": audience,
            "iat": int(now.timestamp()),
            "exp": int(now.timestamp()) + lifetime_s,
            "jti": self._random_bytes(16).hex(),
        }
        if kind == "person":
            claims |= {"sub": subject, "client_id": "prooftrail", "name": name}
            claims["auth_time"] = int((auth_time or now).timestamp())
        elif principal is None:
            claims |= {"sub": subject, "client_id": subject, "name": name}
        else:
            claims |= {"sub": self.subject(name=principal), "client_id": subject, "act": {"sub": subject}}
        signing_key, _ = self._keys()
        headers = {"typ": "at+jwt", "kid": _key_id(_public_of(signing_key))}
        return jwt.encode(claims, signing_key, "EdDSA", headers=headers)

    def rotate(self) -> str:
        """Sign with a new key from now on, and return its id. The private half of the old one is gone."""
        seed = self._random_bytes(32)
        with self._locked():
            signing_key, retired = self._keys()
            newly_retired = _RetiredKey(_public_of(signing_key), self._clock())
            self._write(self._key_file, _Keys(signing=_encoded(seed), retired=[newly_retired, *retired]))
        return _key_id(_public_of(Ed25519PrivateKey.from_private_bytes(seed)))

    @cached_property
    def _key_file(self) -> Path:
        return self._folder / "key.json"

    @property
    def _people_file(self) -> Path:
        return self._folder / "people.json"

    def _people(self) -> _People:
        return _read(self._people_file, _People) if self._people_file.exists() else _People()

    def _keys(self) -> tuple[Ed25519PrivateKey, list[_RetiredKey]]:
        """The key that signs, and those that signed within the longest life of a token."""
        keys = _read(self._key_file, _Keys)
        oldest = self._clock() - timedelta(seconds=LIFETIME_S_MAX)
        try:
            seed = base64.urlsafe_b64decode(keys.signing + "=" * (-len(keys.signing) % 4))
            signing_key = Ed25519PrivateKey.from_private_bytes(seed)
        except ValueError as error:
            raise _damaged(self._key_file, error) from None
        return signing_key, [key for key in keys.retired if key.retired_at > oldest]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, path: Path, content: msgspec.Struct) -> None:
        """Replace the file; only under the lock, since the name beside it is fixed."""
        beside = path.with_suffix(".new")
        beside.unlink(missing_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _read(path: Path, content: type[_File]) -> _File:
    try:
        with path.open("rb") as file:
            _require_closed(path, os.fstat(file.fileno()).st_mode & 0o077)
            return msgspec.json.decode(file.read(), type=content)
    except (OSError, msgspec.MsgspecError) as error:
        raise _damaged(path, error) from None


def _require_closed(path: Path, open_bits: int) -> None:
    if open_bits:
        raise IssuerFolderOpen(
            f"{path} is open to others on this machine",
            why="Whoever reads the issuer's key, or replaces it, can sign in as anybody.",
            next_step=f"Run chmod go= {path}; if somebody may have read the key, rotate it.",
        )


def _damaged(path: Path, error: Exception) -> DamagedIssuerFolder:
    return DamagedIssuerFolder(
        f"{path} cannot be read: {type(error).__name__}",
        why="It is written whole or not at all, so something else changed it.",
        next_step="Restore it from a backup; without one, move the folder away and grant the roles anew.",
    )


def _require_mintable(
    *, now: datetime, lifetime_s: int, kind: str, auth_time: datetime | None, on_behalf_of: str | None
) -> None:
    if not 1 <= lifetime_s <= LIFETIME_S_MAX:
        raise CannotMint("lifetime_s", f"1 to {LIFETIME_S_MAX} seconds")
    if auth_time is not None and (auth_time.utcoffset() is None or auth_time > now):
        raise CannotMint("auth_time", "a time with its zone, not in the future")
    if on_behalf_of is not None and kind == "person":
        raise CannotMint("on_behalf_of", "left out for a person: only a service acts on behalf of somebody")


def _required_name(text: str, field: str) -> str:
    name = printed_name(text, characters_max=NAME_CHARACTERS_MAX)
    if name is None:
        raise CannotMint(field, f"1 to {NAME_CHARACTERS_MAX} printable characters")
    return name


def _public_of(key: Ed25519PrivateKey) -> str:
    return _encoded(key.public_key().public_bytes_raw())


def _jwk(public: str) -> dict[str, str]:
    key = {"kty": "OKP", "crv": "Ed25519", "x": public}
    return {**key, "kid": _key_id(public), "alg": "EdDSA", "use": "sig"}


def _key_id(public: str) -> str:
    """JWK thumbprint, RFC 7638 with RFC 8037, 2."""
    members = {"crv": "Ed25519", "kty": "OKP", "x": public}
    return _encoded(hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest())


def _encoded(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
