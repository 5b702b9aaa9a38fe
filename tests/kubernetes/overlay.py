"""What is rolled out: the base with throwaway stores and an issuer, on ports of the node, in a namespace that is `restricted`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.kubernetes.identities import ISSUER, Identities

NAMESPACE = "prooftrail-rollout"
CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / "build" / "kubernetes"
SERVICES = ("requirements", "verification", "releases", "drift", "traceability")
FIRST_NODE_PORT = 30_800
NODE_PORTS = {service: FIRST_NODE_PORT + number for number, service in enumerate(SERVICES)}

RESTRICTED: dict[str, Any] = {
    "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip
CONTAINED: dict[str, Any] = {
    "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
}  # fmt: skip


def write_overlay(
    identities: Identities, *, images: Mapping[str, str], replicas: int, marks: Mapping[str, str]
) -> Path:
    """The folder to apply. `images` gives for `prooftrail`, `postgres` and `apache/kafka` where they come from; `marks` are
    annotations of the pods, by service, a change of which rolls them.
    """
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "site").mkdir(parents=True)
    for name, text in identities.site.items():
        (FOLDER / "site" / name).write_text(text)
    (FOLDER / "tls.crt").write_bytes(identities.certificate)
    (FOLDER / "tls.key").write_bytes(identities.key)
    shutil.copy(Path(__file__).with_name("issuer.py"), FOLDER)
    _write("namespace.json", _namespace())
    _write("issuer.json", _issuer())
    _write("kustomization.yaml", _kustomization(images, replicas, marks))
    return FOLDER


def _write(name: str, content: object) -> None:
    (FOLDER / name).write_text(json.dumps(content, indent=1))


def _namespace() -> dict[str, Any]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}


def _kustomization(images: Mapping[str, str], replicas: int, marks: Mapping[str, str]) -> dict[str, Any]:
    services = {"kind": "Deployment", "labelSelector": "app.kubernetes.io/name=prooftrail"}
    patches: list[dict[str, Any]] = [
        {"target": services, "patch": json.dumps(_trusting(replicas))},
        {"target": {"kind": "Deployment"}, "patch": json.dumps([_local_images()])},
        {"target": {"kind": "Job"}, "patch": json.dumps([_local_images()])},
    ]
    for service, port in NODE_PORTS.items():
        name = f"prooftrail-{service}"
        patches.append({"target": {"kind": "Service", "name": name}, "patch": json.dumps(_on_the_node(port))})
        mark = {"op": "add", "path": "/spec/template/metadata/annotations/rollout", "value": marks.get(service, "0")}
        patches.append({"target": {"kind": "Deployment", "name": name}, "patch": json.dumps([mark])})
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": NAMESPACE,
        "resources": ["namespace.json", "../../deploy/k8s/base", "issuer.json"],
        "components": ["../../deploy/k8s/components/throwaway"],
        "images": [_renamed(name, place) for name, place in images.items()],
        "configMapGenerator": [
            {"name": "prooftrail-settings", "behavior": "merge", "literals": [f"PROOFTRAIL_ISSUER={ISSUER}"]},
            {"name": "issuer-site", "files": ["site/openid-configuration", "site/jwks", "issuer.py"]},
        ],
        "secretGenerator": [{"name": "issuer-tls", "files": ["tls.crt", "tls.key"]}],
        "generatorOptions": {"disableNameSuffixHash": True},
        "patches": patches,
    }  # fmt: skip


def _renamed(name: str, place: str) -> dict[str, str]:
    image, _, tag = place.rpartition(":")
    return {"name": name, "newName": image, "newTag": tag}


def _local_images() -> dict[str, Any]:
    return {"op": "add", "path": "/spec/template/spec/containers/0/imagePullPolicy", "value": "IfNotPresent"}


def _trusting(replicas: int) -> list[dict[str, Any]]:
    """The issuer's certificate is the one that is trusted for TLS, and nothing beside it."""
    return [
        {"op": "replace", "path": "/spec/replicas", "value": replicas},
        {"op": "replace", "path": "/spec/template/spec/containers/0/resources/requests/cpu", "value": "50m"},
        {"op": "add", "path": "/spec/template/spec/volumes/-", "value": {
            "name": "authority", "secret": {"secretName": "issuer-tls", "items": [{"key": "tls.crt", "path": "ca.crt"}]}}},
        {"op": "add", "path": "/spec/template/spec/containers/0/volumeMounts/-", "value": {
            "name": "authority", "mountPath": "/run/authority", "readOnly": True}},
        {"op": "add", "path": "/spec/template/spec/containers/0/env", "value": [
            {"name": "SSL_CERT_FILE", "value": "/run/authority/ca.crt"}]},
    ]  # fmt: skip


def _on_the_node(port: int) -> list[dict[str, Any]]:
    return [
        {"op": "add", "path": "/spec/type", "value": "NodePort"},
        {"op": "add", "path": "/spec/ports/0/nodePort", "value": port},
    ]


def _issuer() -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "issuer"}
    files = [
        {"key": "openid-configuration", "path": "site/.well-known/openid-configuration"},
        {"key": "jwks", "path": "site/jwks"},
        {"key": "issuer.py", "path": "issuer.py"},
    ]
    sources = [{"configMap": {"name": "issuer-site", "items": files}}, {"secret": {"name": "issuer-tls"}}]
    container = {
        "name": "issuer", "image": "prooftrail", "command": ["python3", "/run/issuer/issuer.py"], "securityContext": CONTAINED,
        "ports": [{"name": "https", "containerPort": 8443}], "readinessProbe": {"tcpSocket": {"port": "https"}, "periodSeconds": 1},
        "volumeMounts": [{"name": "files", "mountPath": "/run/issuer", "readOnly": True}],
    }  # fmt: skip
    pod = {
        "automountServiceAccountToken": False, "securityContext": RESTRICTED, "containers": [container],
        "volumes": [{"name": "files", "projected": {"sources": sources}}],
    }  # fmt: skip
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "issuer"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }  # fmt: skip
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "issuer"},
        "spec": {"selector": labels, "ports": [{"port": 8443, "targetPort": "https"}]},
    }  # fmt: skip
    return {"apiVersion": "v1", "kind": "List", "items": [deployment, service, _policy()]}


def _policy() -> dict[str, Any]:
    """The ports of the node are not in the namespace, and the issuer is not on 443."""
    return {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "rollout"},
        "spec": {
            "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"ports": [{"port": 8080}, {"port": 8081}, {"port": 8443}]}], "egress": [{"ports": [{"port": 8443}]}],
        },
    }  # fmt: skip
