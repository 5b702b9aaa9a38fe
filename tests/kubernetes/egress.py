"""Where the settings of a pod send it, and which of these ports the policies around it let out."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

Manifest = dict[str, Any]
PORTS = {"http": 80, "https": 443, "s3": 443}
NAMES = ("KAFKA_BOOTSTRAP",)
"""Settings that are `host:port`, several with commas, without a scheme."""


def ports_to_reach(settings: dict[str, str]) -> set[int]:
    """The port of each address in the settings."""
    return {port for name, value in settings.items() for port in _ports(name, value)}


def _ports(name: str, value: str) -> Iterator[int]:
    if name in NAMES:
        yield from (int(address.rpartition(":")[2]) for address in value.split(","))
    elif "://" in value:
        url = urlsplit(value)
        yield url.port or PORTS[url.scheme]


def ports_let_out(manifests: Iterable[Manifest], template: Manifest) -> set[int]:
    """The ports to which the policies let the pods of a template out by TCP; a named port is the one that the template names so."""
    named = {
        port["name"]: port["containerPort"]
        for container in template["spec"]["containers"]
        for port in container.get("ports", ())
    }
    policies = (one["spec"] for one in manifests if one["kind"] == "NetworkPolicy")
    ports = (
        port
        for policy in policies
        if policy["podSelector"].get("matchLabels", {}).items() <= template["metadata"]["labels"].items()
        for rule in policy.get("egress", ())
        for port in rule["ports"]
        if port.get("protocol", "TCP") == "TCP"
    )
    return {named.get(port["port"], port["port"]) for port in ports}


def settings_of(manifests: Iterable[Manifest], template: Manifest) -> dict[str, str]:
    """What the containers of a template are told: by config maps, by secrets that are made here, and in so many words."""
    told: dict[tuple[str, str], dict[str, str]] = {}
    for one in manifests:
        if one["kind"] == "ConfigMap":
            told["configMapRef", one["metadata"]["name"]] = one["data"]
        if one["kind"] == "Secret":
            told["secretKeyRef", one["metadata"]["name"]] = {
                key: base64.b64decode(value).decode() for key, value in one["data"].items()
            }
    settings: dict[str, str] = {}
    for container in template["spec"]["containers"]:
        for source in container.get("envFrom", ()):
            settings.update(*(told.get((kind, reference["name"]), {}) for kind, reference in source.items()))
        for variable in container.get("env", ()):
            settings[variable["name"]] = variable.get("value") or _looked_up(told, variable["valueFrom"])
    return settings


def _looked_up(told: dict[tuple[str, str], dict[str, str]], source: Manifest) -> str:
    """Empty for a secret that is made elsewhere."""
    reference = source["secretKeyRef"]
    return told.get(("secretKeyRef", reference["name"]), {}).get(reference["key"], "")
