"""Settings: read once, checked, and printed without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.settings import InvalidSetting, Settings, read_settings

OWN = {"DATABASE_URL": "postgresql://ada:secret@db.example:5433/proof", "PROOFTRAIL_ISSUER": "https://id.example"}


def test_without_anything_set_all_is_embedded_and_on_loopback() -> None:
    """The defaults are for one machine."""
    settings = read_settings({})
    assert (settings.mode, settings.host, settings.port, settings.metrics_port) == ("embedded", "127.0.0.1", 8080, 9464)
    assert settings.database_url is None
    assert settings.data.is_absolute()


def test_everything_can_be_set() -> None:
    """Each by its own variable."""
    settings = read_settings(
        {
            **OWN,
            "PROOFTRAIL_DATA": "/var/tmp/proof",
            "PROOFTRAIL_HOST": "0.0.0.0",
            "PROOFTRAIL_PORT": "80",
            "PROOFTRAIL_METRICS_PORT": "0",
            "PROOFTRAIL_AUDIENCE": "proof",
            "PROOFTRAIL_SIGN_IN_MAX_AGE_S": "60",
        }
    )
    assert settings == Settings(
        data=Path("/var/tmp/proof"), host="0.0.0.0", port=80, metrics_port=0, database_url=OWN["DATABASE_URL"],
        issuer="https://id.example", audience="proof", sign_in_max_age_s=60,
    )  # fmt: skip
    assert settings.mode == "connected"


@pytest.mark.parametrize("name", ["DATABASE_URL", "PROOFTRAIL_ISSUER", "PROOFTRAIL_DATA"])
def test_an_empty_variable_is_one_that_is_not_set(name: str) -> None:
    """As shells and compose files write it."""
    assert read_settings({name: ""}) == read_settings({})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_is_fine_in_every_mode(host: str) -> None:
    """Nobody else can reach it."""
    assert read_settings({"PROOFTRAIL_HOST": host}).host == host
    assert read_settings({**OWN, "PROOFTRAIL_HOST": host}).host == host


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "::", "192.168.1.5", "10.0.0.1", "example.org", "localhost.example.org", "", "127.0.0.1.example"],
)
@pytest.mark.parametrize(
    "own", [{}, {"DATABASE_URL": OWN["DATABASE_URL"]}, {"PROOFTRAIL_ISSUER": "https://id.example"}]
)
def test_embedded_mode_refuses_what_others_can_reach(host: str, own: dict[str, str]) -> None:
    """As long as one part is ours: whoever reaches it could mint themselves a token, or has no issuer to ask."""
    with pytest.raises(InvalidSetting, match="PROOFTRAIL_HOST") as refused:
        read_settings({**own, "PROOFTRAIL_HOST": host})
    assert [error.field for error in refused.value.fields] == ["PROOFTRAIL_HOST"]
    assert refused.value.next_step


@pytest.mark.parametrize("name", ["PROOFTRAIL_PORT", "PROOFTRAIL_METRICS_PORT", "PROOFTRAIL_SIGN_IN_MAX_AGE_S"])
@pytest.mark.parametrize("value", ["", "-1", "80.5", "8e3", "eighty", "0x50", " 80", "100000", "9" * 5000, "²"])
def test_a_number_that_is_none_is_named(name: str, value: str) -> None:
    """Refused at start, not when it is first needed."""
    with pytest.raises(InvalidSetting, match=name) as refused:
        read_settings({name: value})
    assert [error.field for error in refused.value.fields] == [name]
    assert len(refused.value.what) < 300


@pytest.mark.parametrize(
    "url", ["localhost/proof", "mysql://localhost/proof", "host=localhost password=secret", "secret"]
)
def test_an_address_that_is_no_postgresql_is_refused_and_not_repeated(url: str) -> None:
    """It may hold a password."""
    with pytest.raises(InvalidSetting, match="DATABASE_URL") as refused:
        read_settings({"DATABASE_URL": url})
    assert url not in refused.value.what + refused.value.why + refused.value.next_step


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("postgresql://ada:secret@db.example:5433/proof", "postgresql://db.example:5433/proof"),
        ("postgres://secret@db.example/proof", "postgresql://db.example/proof"),
        ("postgresql://ada:secr@et@db.example/proof", "postgresql://db.example/proof"),
        ("postgresql://db.example/proof?user=ada&password=secret", "postgresql://db.example/proof"),
        ("postgresql:///proof?host=/run/postgresql&password=secret", "postgresql:///proof"),
        ("postgresql://db.example/proof#secret", "postgresql://db.example/proof"),
        (
            "postgresql://ada:secret@a.example:1,b.example:2/proof?passfile=/secret",
            "postgresql://a.example:1,b.example:2/proof",
        ),
    ],
)
def test_what_is_printed_holds_no_secret(url: str, printed: str) -> None:
    """Neither in the address nor in its options; everything else is told."""
    shown = read_settings({"DATABASE_URL": url}).printable()
    assert shown["database_url"] == printed
    assert not any("secr" in value for value in shown.values())
    assert set(shown) >= {"host", "port", "data", "issuer", "audience", "sign_in_max_age_s"}


@pytest.mark.parametrize("address", ["s3://evidence", "s3://evidence.example/team-1/proof"])
def test_evidence_files_may_go_into_a_bucket(address: str) -> None:
    """With the usual variables of AWS; without any they stay in the data folder."""
    settings = read_settings({"PROOFTRAIL_ARTEFACTS": address, "AWS_ENDPOINT_URL": "https://s3.example"})
    assert (settings.artefacts, settings.artefacts_plain_http) == (address, False)
    assert read_settings({"AWS_ENDPOINT_URL": "http://s3.example"}).artefacts is None


@pytest.mark.parametrize(
    "address",
    ["evidence", "https://evidence", "s3://", "s3://UPPER", "s3://evidence/../other", "s3://evidence/", "s3://a"],
)
def test_an_address_that_is_no_bucket_is_refused(address: str) -> None:
    """The variable is named."""
    with pytest.raises(InvalidSetting, match="PROOFTRAIL_ARTEFACTS"):
        read_settings({"PROOFTRAIL_ARTEFACTS": address})


def test_evidence_does_not_travel_in_the_clear_unless_that_is_meant() -> None:
    """Plain HTTP to another machine needs a word of its own; on loopback it does not."""
    bucket = {"PROOFTRAIL_ARTEFACTS": "s3://evidence"}
    clear = {**bucket, "AWS_ENDPOINT_URL": "http://s3.example:9000"}
    with pytest.raises(InvalidSetting, match="without TLS"):
        read_settings(clear)
    assert read_settings({**clear, "AWS_ALLOW_HTTP": "true"}).artefacts_plain_http
    assert read_settings({**bucket, "AWS_ENDPOINT_URL": "http://127.0.0.1:9000"}).artefacts_plain_http


def test_witnesses_outside_are_read_with_key_and_address() -> None:
    """With commas between them, as the documents say."""
    told = read_settings(
        {"PROOFTRAIL_WITNESSES": "a+00000000+AA https://a.example, b+00000001+AB http://b.example/w ,"}
    )
    assert told.witnesses == (("a+00000000+AA", "https://a.example"), ("b+00000001+AB", "http://b.example/w"))
    assert read_settings({}).witnesses == ()


@pytest.mark.parametrize("value", ["https://a.example", "key", "key ftp://a.example", "key https://a.example more"])
def test_a_witness_without_key_or_address_is_refused(value: str) -> None:
    """At the start, not at the first checkpoint."""
    with pytest.raises(InvalidSetting, match="PROOFTRAIL_WITNESSES") as refused:
        read_settings({"PROOFTRAIL_WITNESSES": value})
    assert [error.field for error in refused.value.fields] == ["PROOFTRAIL_WITNESSES"]
