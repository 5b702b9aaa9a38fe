"""Where Kafka is and how we show who we are: KAFKA_BOOTSTRAP and its companions, read from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from shared.errors import FieldError, Invalid

SECURITY_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_SSL")
SASL_MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")
ADDRESS = re.compile(r"[A-Za-z0-9._-]+:\d{1,5}|\[[0-9A-Fa-f:]+\]:\d{1,5}")

PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,99}")


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long clients wait, in seconds: for one answer, and for a record to be acknowledged with all repeats.

    A member of a group that was silent for `session_s` has lost its partitions.
    """

    request_s: float = 10.0
    delivery_s: float = 30.0
    reconnect_max_s: float = 1.0
    session_s: float = 10.0


class InvalidKafkaSetting(Invalid):
    """A variable that begins with KAFKA_ has a value that cannot be used, or one is missing beside it."""


@dataclass(frozen=True, kw_only=True)
class KafkaSettings:
    """`bootstrap` are addresses host:port. `certificate` and `key` (PEM) are ours, for mutual TLS; `authority` is who we trust.

    `topic_prefix` begins the names of all our topics. `replication` is the replication factor of those that we create;
    -1 leaves it to the broker.
    """

    bootstrap: tuple[str, ...]
    security_protocol: str = "PLAINTEXT"
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    sasl_mechanism: str = SASL_MECHANISMS[0]
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    topic_prefix: str = "prooftrail"
    replication: int = -1
    patience: Patience = Patience()  # noqa: RUF009 -- it cannot change

    def event_topic(self, service: str) -> str:
        """The topic of the service's events: one partition, since order is the point."""
        return f"{self.topic_prefix}.{service}"

    def people_topic(self, service: str) -> str:
        """The compacted topic of the service's directory of names."""
        return f"{self.topic_prefix}.{service}.people"

    @property
    def features_topic(self) -> str:
        """The topic in which rows of production arrive."""
        return f"{self.topic_prefix}.features"

    @property
    def features_group(self) -> str:
        """The group whose members share its partitions."""
        return f"{self.topic_prefix}-features"

    @property
    def pulse_topic(self) -> str:
        """The topic in which every service says every few seconds that it lives and how far it is."""
        return f"{self.topic_prefix}.pulse"

    def client(self) -> dict[str, Any]:
        """The arguments that every client of the library kafka-python takes."""
        known: dict[str, Any] = {
            "bootstrap_servers": list(self.bootstrap),
            "security_protocol": self.security_protocol,
            "ssl_cafile": self.authority and str(self.authority),
            "ssl_certfile": self.certificate and str(self.certificate),
            "ssl_keyfile": self.key and str(self.key),
        }
        if self.security_protocol == "SASL_SSL":
            known |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return known


def read_kafka_settings(environment: Mapping[str, str]) -> KafkaSettings | None:
    """The settings of the environment, None without KAFKA_BOOTSTRAP. InvalidKafkaSetting names the variable."""
    if not environment.get("KAFKA_BOOTSTRAP"):
        return None
    username, password = environment.get("KAFKA_SASL_USERNAME") or None, environment.get("KAFKA_SASL_PASSWORD") or None
    files = {name: _file(environment, f"KAFKA_SSL_{name}") for name in ("CA", "CERTIFICATE", "KEY")}
    if (files["CERTIFICATE"] is None) != (files["KEY"] is None):
        raise _refusal("KAFKA_SSL_KEY", "the private key of KAFKA_SSL_CERTIFICATE, both or none")
    if (username is None) != (password is None):
        raise _refusal("KAFKA_SASL_PASSWORD", "the password of KAFKA_SASL_USERNAME, both or none")
    implied = "SASL_SSL" if username else "SSL" if any(files.values()) else "PLAINTEXT"
    protocol = _one_of(environment, "KAFKA_SECURITY_PROTOCOL", SECURITY_PROTOCOLS, default=implied)
    if (protocol == "SASL_SSL") != (username is not None) or (protocol == "PLAINTEXT" and any(files.values())):
        raise _refusal("KAFKA_SECURITY_PROTOCOL", f"{implied}, which the other KAFKA_ variables ask for")
    return KafkaSettings(
        bootstrap=_addresses(environment["KAFKA_BOOTSTRAP"]),
        security_protocol=protocol,
        authority=files["CA"],
        certificate=files["CERTIFICATE"],
        key=files["KEY"],
        sasl_mechanism=_one_of(environment, "KAFKA_SASL_MECHANISM", SASL_MECHANISMS, default=SASL_MECHANISMS[0]),
        username=username,
        password=password,
        topic_prefix=_prefix(environment.get("KAFKA_TOPIC_PREFIX") or "prooftrail"),
        replication=_replication(environment.get("KAFKA_REPLICATION") or "-1"),
        patience=_patience(environment),
    )


def _addresses(text: str) -> tuple[str, ...]:
    addresses = tuple(part.strip() for part in text.split(","))
    if not all(ADDRESS.fullmatch(address) for address in addresses):
        raise _refusal("KAFKA_BOOTSTRAP", "host:port, with commas between several")
    return addresses


def _file(environment: Mapping[str, str], name: str) -> Path | None:
    text = environment.get(name)
    if text and not Path(text).is_file():
        raise _refusal(name, "a PEM file that exists")
    return Path(text) if text else None


def _one_of(environment: Mapping[str, str], name: str, allowed: tuple[str, ...], *, default: str) -> str:
    value = environment.get(name) or default
    if value not in allowed:
        raise _refusal(name, "one of " + ", ".join(allowed))
    return value


def _prefix(text: str) -> str:
    if not PREFIX.fullmatch(text):
        raise _refusal("KAFKA_TOPIC_PREFIX", "letters, digits, dots and hyphens")
    return text


def _replication(text: str) -> int:
    if not re.fullmatch(r"-1|[1-9]", text):
        raise _refusal("KAFKA_REPLICATION", "1 to 9, or -1 for what the broker does by itself")
    return int(text)


def _patience(environment: Mapping[str, str]) -> Patience:
    """Kafka's own rule: a record is given up only after at least one whole try."""
    usual = Patience()
    request_s = _seconds(environment, "KAFKA_REQUEST_TIMEOUT_S", usual.request_s)
    delivery_s = _seconds(environment, "KAFKA_DELIVERY_TIMEOUT_S", usual.delivery_s)
    if delivery_s <= request_s:
        raise _refusal("KAFKA_DELIVERY_TIMEOUT_S", f"more than KAFKA_REQUEST_TIMEOUT_S, which is {request_s:g}")
    return Patience(request_s=request_s, delivery_s=delivery_s)


def _seconds(environment: Mapping[str, str], name: str, usual: float) -> float:
    text = environment.get(name) or f"{usual:g}"
    if not re.fullmatch(r"[1-9]\d{0,2}", text):
        raise _refusal(name, "whole seconds, 1 to 999")
    return float(text)


def _refusal(name: str, rule: str) -> InvalidKafkaSetting:
    return InvalidKafkaSetting(
        f"{name} cannot be used.",
        why=f"It must be {rule}.",
        next_step=f"Set {name} so, or unset all variables that begin with KAFKA_ to do without Kafka.",
        fields=(FieldError(field=name, rule=rule),),
    )
