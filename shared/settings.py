"""Settings: read once from the environment, validated, printed without secrets; dangerous ones are refused at start."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

from shared.errors import FieldError, Invalid
from shared.kafka_settings import KafkaSettings, read_kafka_settings
from shared.log_lines import LogFormat

ARTEFACTS_ADDRESS = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9][A-Za-z0-9._-]*)*")
FEED_URL = re.compile(r"((?P<service>[a-z]+)=)?(?P<url>https?://[^\s,=]+)")
DEPLOYMENT_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")


class InvalidSetting(Invalid):
    """An environment variable has a value that cannot be used; its name is in the message."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set. `database_url` None means the embedded PostgreSQL in `data`.

    `logins` is a folder with the passwords of the services' roles in the database: then nothing but `prooftrail migrate` migrates.
    `issuer` None means the embedded issuer. `deployment` is the first part of every log's origin; None means the one drawn once for
    `data`. `witnesses` are those outside: (verifier key, address); `log_keys` are those of logs that
    other processes seal. `timestamp_url` is an RFC 3161 authority. `artefacts` is s3://bucket/prefix;
    None means a folder in `data`. Times are in seconds. `retention_days` is how long a signer's name is kept after a record ended.

    For `drain_s` a process that was told to end still answers, while it is not ready any more.

    `kafka` None means that no other process serves a part of this deployment. `feed_urls` say where those serve HTTP (service or *,
    address), `service_token` is the file with our token there; `feed_readers` are the subjects that may read whole feeds here.
    `features_subject` is the service whose rows arrive in the topic of features; without it nobody reads that topic.
    `webhook_networks` are where webhooks may go: `public` and networks (10.0.0.0/8).
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int = 8081
    metrics_port: int = 9464
    database_url: str | None = None
    logins: Path | None = None
    issuer: str | None = None
    audience: str = "prooftrail"
    sign_in_max_age_s: int = 900
    after_timeout_s: float = 5.0
    deadline_check_s: float = 5.0
    measure_s: float = 5.0
    drain_s: float = 0.0
    log_format: LogFormat = "text"
    deployment: str | None = None
    witnesses: tuple[tuple[str, str], ...] = ()
    log_keys: tuple[str, ...] = ()
    timestamp_url: str | None = None
    artefacts: str | None = None
    artefacts_plain_http: bool = False
    retention_days: int = 3653
    kafka: KafkaSettings | None = None
    feed_urls: tuple[tuple[str, str], ...] = ()
    service_token: Path | None = None
    feed_readers: tuple[str, ...] = ()
    features_subject: str | None = None
    webhook_networks: tuple[str, ...] = ("public",)

    @property
    def mode(self) -> str:
        """`embedded` when we run PostgreSQL or the issuer ourselves, else `connected`."""
        return "embedded" if self.database_url is None or self.issuer is None else "connected"

    def printable(self) -> dict[str, str]:
        """Every setting as text; the database's address without user, password and options (which may hold a password too)."""
        values = {field.name: str(getattr(self, field.name)) for field in fields(self)}
        if self.database_url is not None:
            address = urlsplit(self.database_url)
            values["database_url"] = f"postgresql://{address.netloc.rpartition('@')[2]}{address.path}"
        return values


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of the environment: DATABASE_URL and PROOFTRAIL_<NAME>. InvalidSetting names the variable."""
    settings = Settings(
        data=Path(environment.get("PROOFTRAIL_DATA") or _default_data()),
        host=environment.get("PROOFTRAIL_HOST", "127.0.0.1"),
        port=_number(environment, "PROOFTRAIL_PORT", 8080, 65535),
        grpc_port=_number(environment, "PROOFTRAIL_GRPC_PORT", 8081, 65535),
        metrics_port=_number(environment, "PROOFTRAIL_METRICS_PORT", 9464, 65535),
        database_url=_database_url(environment),
        logins=Path(logins) if (logins := environment.get("PROOFTRAIL_LOGINS")) else None,
        issuer=environment.get("PROOFTRAIL_ISSUER") or None,
        audience=environment.get("PROOFTRAIL_AUDIENCE", "prooftrail"),
        sign_in_max_age_s=_number(environment, "PROOFTRAIL_SIGN_IN_MAX_AGE_S", 900, 86_400),
        deployment=_deployment(environment),
        witnesses=_witnesses(environment),
        log_keys=tuple(environment.get("PROOFTRAIL_LOG_KEYS", "").replace(",", " ").split()),
        timestamp_url=environment.get("PROOFTRAIL_TIMESTAMP_URL") or None,
        artefacts=_artefacts(environment),
        artefacts_plain_http=_plain_http(environment),
        kafka=read_kafka_settings(environment),
        feed_urls=_feed_urls(environment),
        service_token=Path(token) if (token := environment.get("PROOFTRAIL_SERVICE_TOKEN_FILE")) else None,
        feed_readers=tuple(environment.get("PROOFTRAIL_FEED_READERS", "").replace(",", " ").split()),
        features_subject=environment.get("PROOFTRAIL_FEATURES_SUBJECT") or None,
        webhook_networks=_webhook_networks(environment),
        measure_s=max(1, _number(environment, "PROOFTRAIL_MEASURE_S", 5, 3600)),
        log_format=_log_format(environment),
        drain_s=float(_number(environment, "PROOFTRAIL_DRAIN_S", 0, 300)),
        retention_days=_number(environment, "PROOFTRAIL_RETENTION_DAYS", 3653, 36_525),
    )
    if settings.logins is not None and settings.database_url is None:
        raise InvalidSetting(
            "PROOFTRAIL_LOGINS is set, and DATABASE_URL is not.",
            why="The embedded PostgreSQL has no logins but its own.",
            next_step="Set DATABASE_URL to postgresql://host/database, or unset PROOFTRAIL_LOGINS.",
            fields=(FieldError(field="DATABASE_URL", rule="set where PROOFTRAIL_LOGINS is"),),
        )
    if settings.mode == "embedded" and not _is_loopback(settings.host):
        raise InvalidSetting(
            f"PROOFTRAIL_HOST is {settings.host}, which other machines can reach.",
            why="Embedded mode mints its own tokens, so it listens on loopback only.",
            next_step="Set DATABASE_URL and PROOFTRAIL_ISSUER to your own, or leave PROOFTRAIL_HOST at 127.0.0.1.",
            fields=(FieldError(field="PROOFTRAIL_HOST", rule="a loopback address in embedded mode"),),
        )
    return settings


def make_open_folder(folder: Path) -> None:
    """Makes the folder, open to enter for the account of the database whatever the umask; one that exists is left as it is."""
    for directory in [*reversed(folder.absolute().parents), folder.absolute()]:
        if not directory.exists():
            directory.mkdir()
            directory.chmod(0o755)


def _default_data() -> str:
    """As root a folder that an unprivileged PostgreSQL can reach; otherwise a folder in the checkout."""
    return "/var/lib/prooftrail" if os.geteuid() == 0 else str(Path(__file__).parent.parent / "data")


def _database_url(environment: Mapping[str, str]) -> str | None:
    url = environment.get("DATABASE_URL") or None
    if url is not None and not url.startswith(("postgresql://", "postgres://")):
        raise InvalidSetting(
            "DATABASE_URL is no address of a PostgreSQL.",
            why="It must begin with postgresql://.",
            next_step="Set DATABASE_URL to postgresql://user@host/database, or unset it for the embedded PostgreSQL.",
            fields=(FieldError(field="DATABASE_URL", rule="postgresql://user:password@host:port/database"),),
        )
    return url


def _log_format(environment: Mapping[str, str]) -> LogFormat:
    form = environment.get("PROOFTRAIL_LOG_FORMAT") or "text"
    if form not in ("text", "json"):
        raise InvalidSetting(
            f"PROOFTRAIL_LOG_FORMAT is {form[:40]!r}.",
            why="Lines are written as text for people or as JSON for machines.",
            next_step="Set PROOFTRAIL_LOG_FORMAT to json, or unset it for text.",
            fields=(FieldError(field="PROOFTRAIL_LOG_FORMAT", rule="text or json"),),
        )
    return "json" if form == "json" else "text"


def _deployment(environment: Mapping[str, str]) -> str | None:
    name = environment.get("PROOFTRAIL_DEPLOYMENT") or None
    if name is not None and not DEPLOYMENT_NAME.fullmatch(name):
        raise InvalidSetting(
            f"PROOFTRAIL_DEPLOYMENT is {name[:40]!r}.",
            why="It is the first part of every log's origin, which others pin: lower case, digits, dots and hyphens.",
            next_step="Set PROOFTRAIL_DEPLOYMENT to a short name such as prooftrail.example.com, and never change it again.",
            fields=(FieldError(field="PROOFTRAIL_DEPLOYMENT", rule=DEPLOYMENT_NAME.pattern),),
        )
    return name


def _witnesses(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    entries = [entry.split() for entry in environment.get("PROOFTRAIL_WITNESSES", "").split(",") if entry.strip()]
    if any(len(entry) != 2 or not entry[1].startswith(("http://", "https://")) for entry in entries):
        raise InvalidSetting(
            "PROOFTRAIL_WITNESSES holds an entry that is not a key and an address.",
            why="A witness counts only with the key that its cosignatures are checked with.",
            next_step="Write `<verifier key> <https address>` for each, with commas between them.",
            fields=(FieldError(field="PROOFTRAIL_WITNESSES", rule="<verifier key> <https address>, ..."),),
        )
    return tuple((key, address) for key, address in entries)


def _artefacts(environment: Mapping[str, str]) -> str | None:
    address = environment.get("PROOFTRAIL_ARTEFACTS") or None
    if address is not None and not ARTEFACTS_ADDRESS.fullmatch(address):
        raise InvalidSetting(
            f"PROOFTRAIL_ARTEFACTS is {address[:80]!r}.",
            why="Evidence files are kept in a bucket of an S3-compatible server, or in the data folder.",
            next_step="Set PROOFTRAIL_ARTEFACTS to s3://bucket or s3://bucket/prefix, or unset it for the data folder.",
            fields=(FieldError(field="PROOFTRAIL_ARTEFACTS", rule=ARTEFACTS_ADDRESS.pattern),),
        )
    return address


def _feed_urls(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """`http://{service}:8080` for all, or `<service>=<address>` with commas between several."""
    entries = [entry.strip() for entry in environment.get("PROOFTRAIL_FEED_URL", "").split(",") if entry.strip()]
    found = [FEED_URL.fullmatch(entry) for entry in entries]
    if not all(found):
        rule = "http://{service}:8080, or <service>=<address> with commas between several"
        raise InvalidSetting(
            "PROOFTRAIL_FEED_URL holds something that is no address.",
            why="Events that Kafka lost are read from the service that recorded them, over HTTP.",
            next_step=f"Set PROOFTRAIL_FEED_URL to {rule}.",
            fields=(FieldError(field="PROOFTRAIL_FEED_URL", rule=rule),),
        )
    return tuple((match["service"] or "*", match["url"].rstrip("/")) for match in found if match)


def _webhook_networks(environment: Mapping[str, str]) -> tuple[str, ...]:
    words = tuple(environment.get("PROOFTRAIL_WEBHOOK_NETWORKS", "public").replace(",", " ").split())
    try:
        _ = [ipaddress.ip_network(word) for word in words if word != "public"]
    except ValueError as error:
        raise InvalidSetting(
            "PROOFTRAIL_WEBHOOK_NETWORKS holds something that is no network.",
            why=f"Webhooks go to public addresses, and to networks that are named: {error}",
            next_step="Set it to `public`, to networks such as 10.20.0.0/16, or to both, with commas between them; empty for none.",
            fields=(FieldError(field="PROOFTRAIL_WEBHOOK_NETWORKS", rule="public, and networks in CIDR notation"),),
        ) from error
    return words


def _plain_http(environment: Mapping[str, str]) -> bool:
    """Whether the S3 endpoint is one without TLS; over a network only if AWS_ALLOW_HTTP says that this is meant."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    endpoint = urlsplit(next((environment[name] for name in names if environment.get(name)), ""))
    if endpoint.scheme != "http" or not environment.get("PROOFTRAIL_ARTEFACTS"):
        return False
    if not _is_loopback(endpoint.hostname or "") and environment.get("AWS_ALLOW_HTTP", "").lower() != "true":
        raise InvalidSetting(
            f"The S3 endpoint {endpoint.hostname} would be reached without TLS.",
            why="Everybody on the way could read the evidence.",
            next_step="Use an https address in AWS_ENDPOINT_URL, or set AWS_ALLOW_HTTP=true where the network is yours alone.",
            fields=(FieldError(field="AWS_ENDPOINT_URL", rule="https, or http on loopback"),),
        )
    return True


def _number(environment: Mapping[str, str], name: str, default: int, largest: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdecimal() or len(text) > len(str(largest)) or int(text) > largest:
        raise InvalidSetting(
            f"{name} is {text[:40]!r}.",
            why=f"It must be a whole number from 0 to {largest}.",
            next_step=f"Set {name} to a number, or unset it for {default}.",
            fields=(FieldError(field=name, rule=f"0 to {largest}"),),
        )
    return int(text)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
