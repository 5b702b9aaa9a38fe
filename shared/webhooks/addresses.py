"""Where webhooks may go: addresses are looked at after names were resolved and before anything is connected to.

What is connected to is the address that was looked at, so a name that is resolved to another one a moment later gains nothing.
Without a setting only public addresses are allowed, and only by https. A network that a setting names may also be reached by http.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpcore

from shared.errors import FieldError, Invalid

PUBLIC = "public"
URL_CHARACTERS_MAX = 1000
URL_PATTERN = r"^https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:[0-9]{1,5})?([/?][!-~]*)?$"
RESOLVERS = 4
PORT_MAX = 65535
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class WebhookAddressRefused(Invalid):
    """The address is one that webhooks of this deployment may not go to."""


class AddressNotAllowed(ConnectionError):
    """The name stands for an address that webhooks may not go to."""


@dataclass(frozen=True, kw_only=True)
class AllowedNetworks:
    """Public addresses or not, and networks beside."""

    public: bool = True
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> AllowedNetworks:
        """`public` and networks as `10.0.0.0/8`. Raises ValueError."""
        words = list(entries)
        networks = tuple(ipaddress.ip_network(word) for word in words if word != PUBLIC)
        return cls(public=PUBLIC in words, networks=networks)

    def allow(self, address: str, *, encrypted: bool) -> bool:
        """Whether webhooks may go to this address."""
        parsed = ipaddress.ip_address(address.partition("%")[0])
        if any(parsed in network for network in self.networks):
            return True
        return self.public and encrypted and all(map(_is_public, _reached(parsed)))


def _is_public(address: Address) -> bool:
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _reached(address: Address) -> list[Address]:
    """The address, and the IPv4 addresses that it leads to: mapped, 6to4, Teredo; of NAT64 these only."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address in _NAT64:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    embedded = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    return [address, *(one for one in embedded if one is not None)]


def require_allowed(url: str, *, networks: AllowedNetworks) -> None:
    """Refuses an address that can be told to be wrong without asking anybody. Names are looked at with each delivery."""
    rule = _broken_rule(url, networks)
    if rule:
        raise WebhookAddressRefused(
            "Webhooks cannot go to this address.",
            why=f"It breaks a rule: {rule}.",
            next_step="Give an https address of a public host; for your own network ask who runs this deployment"
            " to name it in PROOFTRAIL_WEBHOOK_NETWORKS.",
            fields=(FieldError(field="/url", rule=rule),),
        )


def _broken_rule(url: str, networks: AllowedNetworks) -> str:
    if len(url) > URL_CHARACTERS_MAX or not re.fullmatch(URL_PATTERN, url):
        return "https://host[:port][/path], without a user and a fragment"
    try:
        parts = urlsplit(url)
        host, port, encrypted = parts.hostname or "", parts.port, parts.scheme == "https"
    except ValueError:
        return f"a host and a port from 1 to {PORT_MAX}"
    if port == 0 or "#" in url:
        return f"a port from 1 to {PORT_MAX}, and no fragment"
    if not encrypted and not networks.networks:
        return "https"
    if host.rstrip(".").endswith("localhost"):
        host = "127.0.0.1"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return ""
    return "" if networks.allow(host, encrypted=encrypted) else "an address that PROOFTRAIL_WEBHOOK_NETWORKS allows"


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to allowed addresses only. `encrypted` says whether TLS follows."""

    def __init__(self, networks: AllowedNetworks, *, encrypted: bool) -> None:
        self._networks = networks
        self._encrypted = encrypted
        self._backend = httpcore.AnyIOBackend()
        # Of its own: a name server that does not answer must not hold up others who resolve names.
        self._resolvers = ThreadPoolExecutor(max_workers=RESOLVERS, thread_name_prefix="webhook names")

    def close(self) -> None:
        """Threads that still wait for a name server are not waited for."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 -- the library's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Every address of the name must be allowed: one that is not tells that the name is no good."""
        addresses = await self._resolve(host, port, timeout)
        if not addresses or not all(self._networks.allow(one, encrypted=self._encrypted) for one in addresses):
            raise AddressNotAllowed(f"{host} stands for an address that webhooks may not go to")
        for address in addresses[:-1]:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
        return await self._backend.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def _resolve(self, host: str, port: int, seconds_max: float | None) -> Sequence[str]:
        def look_up() -> list[str]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(address[0]) for *_, address in found))

        async with asyncio.timeout(seconds_max):
            try:
                return await asyncio.get_running_loop().run_in_executor(self._resolvers, look_up)
            except (socket.gaierror, UnicodeError) as error:
                raise httpcore.ConnectError(f"{host} has no address") from error

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 -- the library's signature
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Never."""
        raise AddressNotAllowed(f"webhooks do not go to {path}")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
