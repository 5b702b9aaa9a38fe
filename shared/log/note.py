"""Signed notes: text, an empty line, and signature lines (C2SP signed-note; cosignatures as in C2SP tlog-cosignature).

    acme/requirements/1
    3
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

    — acme/requirements Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=

Two kinds of keys, both Ed25519: `NOTE` (0x01) signs the text; `COSIGNATURE` (0x04) signs the text and a time. The text of a
note says nothing before a signature by a key from elsewhere is checked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.errors import FieldError, Invalid, Refused

NOTE, COSIGNATURE = 0x01, 0x04
NOTE_BYTES_MAX = 1_000_000
SIGNATURES_MAX = 100
TIME_MAX = 2**63 - 1

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


class MalformedKey(Invalid):
    """Text that is no Ed25519 key of a note or of cosignatures."""


class MalformedNote(Invalid):
    """Text that is no signed note, or that cannot become one."""


class SignatureWrong(Refused):
    """A line bears the name and the hash of a known key, and is not by it: the whole note counts for nothing."""


class NobodyKnownSigned(Refused):
    """No line is by any of the keys that count here."""


@dataclass(frozen=True)
class VerifierKey:
    """A public key under a name, for all to know. Its text is `<name>+<hash>+<base64>` (signed-note, Verifier keys)."""

    name: str
    kind: int
    public: bytes

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """MalformedKey unless the text is exactly what `str` gives of a key."""
        name, _, rest = text.partition("+")
        stated, _, encoded = rest.partition("+")
        content = _base64(encoded, MalformedKey)
        if len(content) != 33 or content[0] not in (NOTE, COSIGNATURE):
            raise _malformed_key("an Ed25519 key of type 0x01 or 0x04")
        key = cls(_key_name(name), content[0], content[1:])
        if key.hash.hex() != stated:
            raise _malformed_key("the hash that its name and its bytes give")
        return key

    @cached_property
    def hash(self) -> bytes:
        """Four bytes of SHA-256 over name, newline, type and key: with the name, what a signature line names its key by."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.hash.hex()}+{base64.b64encode(bytes([self.kind]) + self.public).decode()}"


@dataclass(frozen=True)
class SigningKey:
    """A private key under a name. Its text is `PRIVATE+KEY+<name>+<hash>+<base64>`, as Go's sumdb/note writes it."""

    name: str
    kind: int
    seed: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """MalformedKey unless the text is exactly what `text` gives; the error never tells the key."""
        private, _, rest = text.partition("+KEY+")
        name, _, rest = rest.partition("+")
        stated, _, encoded = rest.partition("+")
        content = _base64(encoded, MalformedKey)
        if private != "PRIVATE" or len(content) != 33 or content[0] not in (NOTE, COSIGNATURE):
            raise _malformed_key("a private Ed25519 key of type 0x01 or 0x04")
        key = cls(_key_name(name), content[0], content[1:])
        if key.verifier.hash.hex() != stated:
            raise _malformed_key("the hash that its name and its bytes give")
        return key

    @property
    def text(self) -> str:
        """The secret, to be kept in a file that only its owner reads."""
        content = base64.b64encode(bytes([self.kind]) + self.seed).decode()
        return f"PRIVATE+KEY+{self.name}+{self.verifier.hash.hex()}+{content}"

    @cached_property
    def verifier(self) -> VerifierKey:
        """The public half."""
        return VerifierKey(_key_name(self.name), self.kind, self._private.public_key().public_bytes_raw())

    def signature(self, message: bytes) -> bytes:
        """Ed25519 (RFC 8032), 64 bytes."""
        return self._private.sign(message)

    @cached_property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)


@dataclass(frozen=True)
class SignatureLine:
    """One line: whose it is, by name and hash, and the signature."""

    name: str
    hash: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"— {self.name} {base64.b64encode(self.hash + self.signature).decode()}\n"


@dataclass(frozen=True)
class Note:
    """Text with its signature lines, of which none is checked yet."""

    text: str
    lines: tuple[SignatureLine, ...]

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.lines))}"


@dataclass(frozen=True)
class Verified:
    """A key whose signature was checked, and for a cosignature the time in it, in seconds since 1970."""

    key: VerifierKey
    time: int | None = None


@dataclass(frozen=True)
class OpenedNote:
    """The text, and who is proven to have signed it; at least one."""

    text: str
    signers: tuple[Verified, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the keys."""
        return tuple(signer.key.name for signer in self.signers)


def parse_note(content: str) -> Note:
    """Splits a note without believing it. MalformedNote unless every byte of it is in the one form that it can have."""
    if len(content) > NOTE_BYTES_MAX or _CONTROL.search(content):
        raise _malformed(f"at most {NOTE_BYTES_MAX} characters, without control characters")
    end = content.rfind("\n\n") + 1
    lines = content[end + 1 :].split("\n")
    if not end or lines[-1] or not 1 <= len(lines) - 1 <= SIGNATURES_MAX:
        raise _malformed(f"text, an empty line, and 1 to {SIGNATURES_MAX} signature lines that end with a newline")
    _encoded(content)
    return Note(content[:end], tuple(map(parse_signature_line, lines[:-1])))


def parse_signature_line(line: str) -> SignatureLine:
    """A signature line, here without its newline."""
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    content = _base64(encoded, MalformedNote)
    if dash != "—" or not _is_key_name(name) or len(content) < 5:
        raise _malformed("signature lines of a dash, a key name and a base64 signature")
    return SignatureLine(name, content[:4], content[4:])


def sign_note(text: str, *keys: SigningKey) -> str:
    """The note over the text, which ends with a newline, signed by each key of kind NOTE."""
    if not text.endswith("\n") or _CONTROL.search(text):
        raise _malformed("text that ends with a newline and has no other control character")
    if not keys or any(key.kind != NOTE for key in keys):
        raise _malformed_key("one that signs notes (type 0x01)")
    message = _encoded(text)
    return str(Note(text, tuple(SignatureLine(key.name, key.verifier.hash, key.signature(message)) for key in keys)))


def cosign_note(text: str, key: SigningKey, *, time: int) -> str:
    """The line of a witness for the text of a checkpoint (tlog-cosignature, Ed25519); `time` in seconds since 1970."""
    if key.kind != COSIGNATURE:
        raise _malformed_key("one that cosigns (type 0x04)")
    if not 0 < time <= TIME_MAX:
        raise _malformed(f"a time of 1 to {TIME_MAX} seconds since 1970")
    signature = key.signature(_cosigned(text, time))
    return str(SignatureLine(key.name, key.verifier.hash, time.to_bytes(8) + signature))


def open_note(content: str, keys: Iterable[VerifierKey]) -> OpenedNote:
    """The text and which of the keys signed it. MalformedNote, SignatureWrong, NobodyKnownSigned; other lines are ignored."""
    note, known = parse_note(content), {(key.name, key.hash): key for key in keys}
    signers: dict[VerifierKey, Verified] = {}
    for line in note.lines:
        key = known.get((line.name, line.hash))
        if key is not None:
            signers.setdefault(key, _verified(note.text, line, key))
    if not signers:
        raise NobodyKnownSigned(
            "None of the keys that count here signed this note.",
            why=f"It bears lines of {', '.join(sorted({line.name for line in note.lines}))}; known are"
            f" {', '.join(sorted(map(str, known.values()))) or 'none'}.",
            next_step="Get the verifier key from whoever runs the log, on another way than the note came.",
        )
    return OpenedNote(note.text, tuple(signers.values()))


def _verified(text: str, line: SignatureLine, key: VerifierKey) -> Verified:
    message, signature, time = _encoded(text), line.signature, None
    if key.kind == COSIGNATURE:
        time, signature = int.from_bytes(signature[:8]), signature[8:]
        message = _cosigned(text, time)
    try:
        if time is not None and not 0 < time <= TIME_MAX:
            raise InvalidSignature
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise SignatureWrong(
            f"The signature of {key.name} does not fit the note.",
            why="The text or the line was altered after it was signed.",
            next_step="Fetch the note again; if it stays like this, keep it as evidence of an alteration.",
        ) from error
    return Verified(key, time)


def _cosigned(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n".encode() + _encoded(text)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise _malformed("text that UTF-8 can tell") from error


def decode_base64(text: str) -> bytes | None:
    """The bytes; None unless the text is their one canonical base64 (RFC 4648, 4): padded, no stray bits, no stray bytes."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return content if base64.b64encode(content).decode() == text else None


def _base64(text: str, malformed: type[MalformedKey] | type[MalformedNote]) -> bytes:
    content = decode_base64(text)
    if content is None:
        raise _malformed_key("canonical base64") if malformed is MalformedKey else _malformed("canonical base64")
    return content


def _key_name(name: str) -> str:
    if not _is_key_name(name):
        raise _malformed_key("a name without spaces and plus signs")
    return name


def _is_key_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(character.isspace() for character in name)


def _malformed_key(rule: str) -> MalformedKey:
    return MalformedKey(
        f"This is not the text of a key: it must be {rule}.",
        why="A verifier key is `<name>+<hash>+<base64>` (C2SP signed-note).",
        next_step="Copy the key again, as a whole.",
        fields=(FieldError(field="/key", rule=rule),),
    )


def _malformed(rule: str) -> MalformedNote:
    return MalformedNote(
        f"This is not a signed note: it must be {rule}.",
        why="A note has one form, byte for byte (C2SP signed-note).",
        next_step="Fetch the note again, and pass it on without reformatting it.",
        fields=(FieldError(field="/note", rule=rule),),
    )
