"""Where webhooks may go: to public addresses, encrypted, and to networks that a setting names; never elsewhere by a detour."""

from __future__ import annotations

import httpcore
import pytest
from hypothesis import given, strategies as st

from shared.settings import InvalidSetting, read_settings
from shared.webhooks.addresses import (
    AddressNotAllowed,
    AllowedNetworks,
    GuardedBackend,
    WebhookAddressRefused,
    require_allowed,
)
from shared.webhooks.book import Patience

PUBLIC = AllowedNetworks()
INSIDE = AllowedNetworks.parse(["10.20.0.0/16", "fd00::/8"])

NOT_PUBLIC = (
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::1",
)  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_nothing_inside_is_public(address: str) -> None:
    """However it is written, and whatever it is wrapped into."""
    assert not PUBLIC.allow(address, encrypted=True)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700::1111", "64:ff9b::5db8:d70e"])
def test_public_addresses_are_reached_encrypted_only(address: str) -> None:
    """Events tell about products."""
    assert PUBLIC.allow(address, encrypted=True)
    assert not PUBLIC.allow(address, encrypted=False)
    assert not INSIDE.allow(address, encrypted=True)


def test_a_named_network_is_reached_either_way_and_nothing_beside_it() -> None:
    """It is that of whoever runs the deployment."""
    for encrypted in (True, False):
        assert INSIDE.allow("10.20.3.4", encrypted=encrypted)
        assert INSIDE.allow("fd00::1", encrypted=encrypted)
        assert not INSIDE.allow("10.21.0.1", encrypted=encrypted)
        assert not INSIDE.allow("127.0.0.1", encrypted=encrypted)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "ftp://example.com/", "https://user@example.com/", "https://user:word@example.com/",
        "https://example.com/#part", "https://example.com:0/", "https://example.com:70000/", "https://127.0.0.1/",
        "https://localhost/", "https://api.localhost:8443/", "https://localhost./", "https://[::1]/",
        "https://169.254.169.254/latest", "https://[::ffff:10.0.0.1]/", "https:///path", "example.com", "https://",
        "https://exa mple.com/", "https://example.com/ö", "https://example.com\n/", "https://[1::2::3]/",
        "https://example.com/" + "x" * 1000,
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_right_is_refused(url: str) -> None:
    """Before anything is stored, naming the field."""
    with pytest.raises(WebhookAddressRefused) as refused:
        require_allowed(url, networks=PUBLIC)
    assert refused.value.fields[0].field == "/url"


@pytest.mark.parametrize(
    "url", ["https://example.com", "https://example.com:8443/hooks?a=b&c", "https://93.184.215.14/"]
)
def test_an_address_that_may_be_right_is_taken(url: str) -> None:
    """What its name stands for is looked at with each delivery."""
    require_allowed(url, networks=PUBLIC)


def test_plain_http_is_for_named_networks() -> None:
    """A name may lead there; a public address is told at once."""
    require_allowed("http://10.20.0.1:8080/", networks=INSIDE)
    require_allowed("http://collector.internal/", networks=INSIDE)
    for url in ("http://93.184.215.14/", "http://10.21.0.1/"):
        with pytest.raises(WebhookAddressRefused):
            require_allowed(url, networks=INSIDE)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "0x7f.1", "2130706433", "127.1"])
async def test_a_name_is_looked_at_when_it_is_connected_to(host: str) -> None:
    """Also an address in a spelling that only the resolver understands."""
    backend = GuardedBackend(PUBLIC, encrypted=True)
    try:
        with pytest.raises((AddressNotAllowed, httpcore.ConnectError)):
            await backend.connect_tcp(host, 443, timeout=30)
    finally:
        backend.close()
    with pytest.raises(AddressNotAllowed):
        await backend.connect_unix_socket("/run/something.sock")


def test_the_setting_names_networks() -> None:
    """Public addresses without it, and none of them unless it says so."""
    assert AllowedNetworks.parse(read_settings({}).webhook_networks) == PUBLIC
    both = read_settings({"PROOFTRAIL_WEBHOOK_NETWORKS": "public, 10.20.0.0/16"}).webhook_networks
    assert AllowedNetworks.parse(both).allow("93.184.215.14", encrypted=True)
    assert AllowedNetworks.parse(both).allow("10.20.0.1", encrypted=False)
    none = AllowedNetworks.parse(read_settings({"PROOFTRAIL_WEBHOOK_NETWORKS": ""}).webhook_networks)
    assert not none.allow("93.184.215.14", encrypted=True)
    for wrong in ("everything", "10.0.0.1/8", "10.0.0.0/33"):
        with pytest.raises(InvalidSetting):
            read_settings({"PROOFTRAIL_WEBHOOK_NETWORKS": wrong})


@given(failures=st.integers(0, 10**6), chance=st.floats(0, 1, exclude_max=True), asked=st.floats(0, 3600))
def test_tries_become_rarer_up_to_a_limit(failures: int, chance: float, asked: float) -> None:
    """Between half of the time and all of it, at least what the receiver asked for."""
    patience = Patience()
    wait_s = patience.wait_s(failures, chance=chance, retry_after_s=asked)
    whole = min(patience.longest, patience.first * 2.0 ** min(failures, 100))
    assert max(asked, whole / 2) <= wait_s <= max(asked, whole)
