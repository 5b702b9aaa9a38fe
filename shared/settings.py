"""Settings: read once from the environment, validated, printed without secrets; dangerous ones are refused at start."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

from shared.errors import FieldError, Invalid


class InvalidSetting(Invalid):
    """An environment variable has a value that cannot be used; its name is in the message."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set. `database_url` None means the embedded PostgreSQL in `data`.

    `issuer` None means the embedded issuer. Times are in seconds.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = 8080
    metrics_port: int = 9464
    database_url: str | None = None
    issuer: str | None = None
    audience: str = "prooftrail"
    sign_in_max_age_s: int = 900
    after_timeout_s: float = 5.0
    deadline_check_s: float = 5.0

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
        metrics_port=_number(environment, "PROOFTRAIL_METRICS_PORT", 9464, 65535),
        database_url=_database_url(environment),
        issuer=environment.get("PROOFTRAIL_ISSUER") or None,
        audience=environment.get("PROOFTRAIL_AUDIENCE", "prooftrail"),
        sign_in_max_age_s=_number(environment, "PROOFTRAIL_SIGN_IN_MAX_AGE_S", 900, 86_400),
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
