"""How a process finds the others and shows who it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.cluster import feed_address
from shared.producer_feed import token_in
from shared.settings import InvalidSetting, read_settings


def test_addresses_of_feeds_are_one_for_all_or_one_each() -> None:
    """The name of the service goes where {service} stands; its own entry comes first."""
    text = "http://{service}:8080/, drift=https://drift.test"
    urls = dict(read_settings({"PROOFTRAIL_FEED_URL": text}).feed_urls)
    assert feed_address(urls, "releases") == "http://releases:8080"
    assert feed_address(urls, "drift") == "https://drift.test"
    assert feed_address({}, "drift") == ""


@pytest.mark.parametrize("text", ["{service}:8080", "drift=", "Drift=http://a", "http://a b"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    """Before it is needed, which may be years later."""
    with pytest.raises(InvalidSetting) as refused:
        read_settings({"PROOFTRAIL_FEED_URL": text})
    assert [found.field for found in refused.value.fields] == ["PROOFTRAIL_FEED_URL"]


def test_readers_and_token_are_as_named(tmp_path: Path) -> None:
    """A projected token is replaced while we run."""
    file = tmp_path / "token"
    settings = read_settings({"PROOFTRAIL_FEED_READERS": "one, two three", "PROOFTRAIL_SERVICE_TOKEN_FILE": str(file)})
    assert settings.feed_readers == ("one", "two", "three")
    assert settings.service_token is not None
    token = token_in(settings.service_token)
    for content in ("first\n", "second\n"):
        file.write_text(content)
        assert token() == content.strip()
