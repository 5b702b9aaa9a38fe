"""Signed notes: the examples of the specification, and that there is one way to write each."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, strategies as st

from shared.log.note import (
    COSIGNATURE,
    NOTE,
    TIME_MAX,
    MalformedKey,
    MalformedNote,
    NobodyKnownSigned,
    SignatureWrong,
    SigningKey,
    VerifierKey,
    cosign_note,
    open_note,
    parse_note,
    sign_note,
)

# C2SP signed-note, "Example".
SPECIFIED_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPECIFIED_NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
# golang.org/x/mod/sumdb/note, note_test.go: what Go's PRIVATE+KEY text of a name and key is.
GO_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"

LOG = SigningKey("acme/requirements", NOTE, bytes(range(32)))
OTHER = SigningKey("acme/releases", NOTE, bytes(range(1, 33)))
WITNESS = SigningKey("witness.example", COSIGNATURE, bytes(range(2, 34)))
TEXT = "acme/requirements/1\n3\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


def test_the_specified_example_opens() -> None:
    """Key and note of the specification's own example."""
    key = VerifierKey.parse(SPECIFIED_KEY)
    opened = open_note(SPECIFIED_NOTE, [key])
    assert (opened.text, opened.names, str(key)) == (
        "This is an example message.\n",
        ("example.com/foo",),
        SPECIFIED_KEY,
    )
    assert str(parse_note(SPECIFIED_NOTE)) == SPECIFIED_NOTE


def test_a_private_key_is_written_as_go_writes_it() -> None:
    """Both halves of the pair in the tests of Go's own implementation."""
    key = SigningKey.parse(GO_PRIVATE)
    assert (str(key.verifier), key.text) == (GO_PUBLIC, GO_PRIVATE)
    assert "AYEKFALVFGyNhPJEMzD1QIDr" not in repr(key)


def test_a_note_names_all_who_are_known_and_signed() -> None:
    """Lines of unknown keys are ignored; a second line of one key counts once."""
    note = sign_note(TEXT, LOG, OTHER, LOG) + cosign_note(TEXT, WITNESS, time=1_679_315_147)
    opened = open_note(note, [LOG.verifier, WITNESS.verifier])
    assert [(signer.key, signer.time) for signer in opened.signers] == [
        (LOG.verifier, None),
        (WITNESS.verifier, 1_679_315_147),
    ]
    with pytest.raises(NobodyKnownSigned, match="None of the keys"):
        open_note(sign_note(TEXT, OTHER), [LOG.verifier])
    with pytest.raises(NobodyKnownSigned):
        open_note(sign_note(TEXT, LOG), [])


def test_the_key_hash_tells_name_and_kind_apart() -> None:
    """The same bytes under another name or for cosignatures are another key, whose lines mean nothing here."""
    renamed = SigningKey("acme/drift", NOTE, LOG.seed)
    cosigning = SigningKey(LOG.name, COSIGNATURE, LOG.seed)
    assert len({LOG.verifier.hash, renamed.verifier.hash, cosigning.verifier.hash}) == 3
    for other in (renamed, cosigning):
        with pytest.raises(NobodyKnownSigned):
            open_note(sign_note(TEXT, LOG), [other.verifier])
    with pytest.raises(MalformedKey):
        sign_note(TEXT, cosigning)
    with pytest.raises(MalformedKey):
        cosign_note(TEXT, LOG, time=1)


@pytest.mark.parametrize("time", [0, -1, TIME_MAX + 1])
def test_a_cosignature_has_a_time(time: int) -> None:
    """Zero would say that nothing was observed (C2SP tlog-cosignature)."""
    with pytest.raises(MalformedNote):
        cosign_note(TEXT, WITNESS, time=time)


@given(data=st.data())
def test_every_other_byte_is_refused(data: st.DataObject) -> None:
    """A note with one byte changed, left out or put in is no note, not by these keys, or the very same note."""
    content = (sign_note(TEXT, LOG) + cosign_note(TEXT, WITNESS, time=1_679_315_147)).encode()
    at = data.draw(st.integers(min_value=0, max_value=len(content) - 1))
    byte = data.draw(st.binary(max_size=2))
    changed = content[:at] + byte + content[at + 1 :]
    if changed == content:
        return
    try:
        opened = open_note(changed.decode(), [LOG.verifier, WITNESS.verifier])
    except (UnicodeDecodeError, MalformedNote, NobodyKnownSigned, SignatureWrong):
        return
    # The name or the hash of one line was changed: it is now of somebody unknown, and the other line still holds.
    assert (opened.text, len(opened.signers)) == (TEXT, 1)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "text\n",
        "text\n\n",
        "text\n\n— name AAAAAAA=",
        "\n— name AAAAAAA=\n",
        "text\n\nname AAAAAAA=\n",
        "text\n\n- name AAAAAAA=\n",
        "text\n\n—  AAAAAAA=\n",
        "text\n\n— na+me AAAAAAA=\n",
        "text\n\n— na\u2003me AAAAAAA=\n",
        "text\n\n— name AAAAAAA= \n",
        "text\n\n— name AAAAAAA\n",
        "text\n\n— name AAAAAAB=\n",
        "text\n\n— name AAAA\n",
        "text\n\n— name AAAA AAA=\n",
        "text\n\n— name AAAA\u00e4AAA=\n",
        "te\txt\n\n— name AAAAAAA=\n",
        "te\rxt\n\n— name AAAAAAA=\n",
        "te\x00xt\n\n— name AAAAAAA=\n",
        "te\ud800xt\n\n— name AAAAAAA=\n",
        "text\n\n" + "— name AAAAAAA=\n" * 101,
        "x" * 1_000_000 + "\n\n— name AAAAAAA=\n",
    ],
    ids=lambda content: repr(content[:24]),
)
def test_what_is_no_note_is_refused(content: str) -> None:
    """Each breaks one rule of the specification."""
    with pytest.raises(MalformedNote) as refused:
        parse_note(content)
    assert refused.value.fields[0].field == "/note"


def test_text_may_hold_empty_lines() -> None:
    """The last empty line separates, and even one alone is text."""
    for text in ("\n", "a\n\nb\n", "a\n\n\n"):
        assert open_note(sign_note(text, LOG), [LOG.verifier]).text == text
    for text in ("", "a", "a\tb\n", "\ud800\n"):
        with pytest.raises(MalformedNote):
            sign_note(text, LOG)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+00000000",
        SPECIFIED_KEY[:-1],
        SPECIFIED_KEY + "=",
        SPECIFIED_KEY.replace("530d903a", "530D903A"),
        SPECIFIED_KEY.replace("530d903a", "530d903b"),
        SPECIFIED_KEY.replace("example.com/foo", "example.com/bar"),
        SPECIFIED_KEY.replace("example.com/foo", ""),
        "example.com/foo+530d903a+" + base64.b64encode(b"\x02" + bytes(32)).decode(),
        "example.com/foo+530d903a+" + base64.b64encode(b"\x01" + bytes(31)).decode(),
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    """Name, hash and bytes belong together."""
    with pytest.raises(MalformedKey):
        VerifierKey.parse(text)


@pytest.mark.parametrize(
    "text", ["", "PRIVATE", GO_PUBLIC, GO_PRIVATE[1:], GO_PRIVATE.replace("c74f", "c74e"), GO_PRIVATE[:-4]]
)
def test_what_is_no_private_key_is_refused_without_telling_it(text: str) -> None:
    """The error shows nothing of the secret."""
    with pytest.raises(MalformedKey) as refused:
        SigningKey.parse(text)
    assert "AYEKFALVFGyNhPJEMzD1QIDr" not in str(refused.value) + refused.value.why + refused.value.next_step
