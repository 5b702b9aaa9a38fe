"""What is deployed, as Kubernetes sees it: every overlay is built and held to the schemas, and to the rules of the house."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from opentelemetry.exporter.otlp.proto.http.trace_exporter import DEFAULT_ENDPOINT

from services.composition import SERVICES
from shared.database_roles import FEED
from shared.settings import read_settings
from tests.go_programs import go_program
from tests.kubernetes import operators
from tests.kubernetes.egress import ports_let_out, ports_to_reach, settings_of
from tests.kubernetes.identities import Identities
from tests.kubernetes.overlay import write_overlay
from tests.npm_packages import CannotRun, skip_loudly

KUBERNETES = "1.34"
KUSTOMIZE = "v5.8.0"
DEPLOY = Path(__file__).parents[2] / "deploy" / "k8s"
OVERLAYS = ("dev", "prod")
OF_KUBERNETES = {"v1", "apps/v1", "batch/v1", "networking.k8s.io/v1", "policy/v1"}
"""What Kubernetes itself knows; all else is of the operators that the components are for, and so are the schemas."""

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def kustomize() -> Path:
    """The program that puts overlays together."""
    try:
        return go_program(
            name="kustomize", module="sigs.k8s.io/kustomize/kustomize/v5", version=KUSTOMIZE, folder="kustomize"
        )
    except CannotRun as reason:
        skip_loudly(what="the manifests of Kubernetes", reason=reason)


@pytest.fixture(scope="module")
def schemas() -> Path:
    """Those of the operators."""
    try:
        return operators.installed()
    except CannotRun as reason:
        skip_loudly(what="the manifests of operators", reason=reason)


@cache
def built(kustomize: Path, folder: Path) -> list[Manifest]:
    done = subprocess.run([kustomize, "build", folder], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(manifests: list[Manifest], *kinds: str) -> Iterator[Manifest]:
    return (manifest for manifest in manifests if manifest["kind"] in kinds)


def templates_of(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    for manifest in of_kind(manifests, "Deployment", "StatefulSet", "Job"):
        yield manifest["metadata"]["name"], manifest["spec"]["template"]


def pods_of(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    return ((name, template["spec"]) for name, template in templates_of(manifests))


def of_operators(manifests: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["apiVersion"] not in OF_KUBERNETES]


def require_valid(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if manifest["apiVersion"] in OF_KUBERNETES:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_manifest_is_valid(kustomize: Path, overlay: str) -> None:
    """Strictly: a field that does not exist is an error."""
    require_valid(built(kustomize, DEPLOY / "overlays" / overlay))


def test_the_check_can_fail(kustomize: Path) -> None:
    """A misspelt field is found."""
    service = next(of_kind(built(kustomize, DEPLOY / "base"), "Service"))
    with pytest.raises(kubernetes_validate.ValidationError):
        require_valid([{**service, "spec": {**service["spec"], "selectors": {}}}])


def test_every_manifest_of_an_operator_is_valid(kustomize: Path, schemas: Path) -> None:
    """By the definitions of the operators, and strictly as well."""
    theirs = of_operators(built(kustomize, DEPLOY / "overlays" / "prod"))
    assert {manifest["kind"] for manifest in theirs} == {
        "Cluster", "Kafka", "KafkaNodePool", "KafkaUser", "PodMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication",
    }  # fmt: skip
    assert operators.findings(schemas, theirs) == []
    assert of_operators(built(kustomize, DEPLOY / "overlays" / "dev")) == []


@pytest.mark.parametrize("number", range(8))
def test_the_check_of_operators_can_fail(kustomize: Path, schemas: Path, number: int) -> None:
    """For each kind a field that does not exist, at the top and below, and a wrong value are found."""
    by_kind = {one["kind"]: one for one in of_operators(built(kustomize, DEPLOY / "overlays" / "prod"))}
    kind, manifest = sorted(by_kind.items())[number]
    name, value = next((name, value) for name, value in manifest["spec"].items() if "{" in str(value))
    below = [{**value[0], "misspelt": 1}] if isinstance(value, list) else {**value, "misspelt": 1}
    wrong: list[Manifest] = [{"misspelt": 1}, {name: below}, {name: 7}]
    found = operators.findings(schemas, [{**manifest, "spec": {**manifest["spec"], **one}} for one in wrong])
    assert [line.split()[0] for line in found] == [kind, kind, kind]
    assert ["no such field" in line for line in found] == [True, True, False]


def for_trial() -> Path:
    """The overlay of `make kubernetes`."""
    return write_overlay(Identities.made(), images={"prooftrail": "localhost/prooftrail:dev"}, replicas=2, marks={})


def test_what_is_rolled_out_for_trial_is_valid_too(kustomize: Path) -> None:
    """So that the cluster does not say it first."""
    require_valid(built(kustomize, for_trial()))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_restricted(kustomize: Path, overlay: str) -> None:
    """Pod Security `restricted`, a read-only root, a limit of memory, and no token of the API server."""
    manifests = built(kustomize, DEPLOY / "overlays" / overlay)
    (namespace,) = of_kind(manifests, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, pod in pods_of(manifests):
        context = pod["securityContext"]
        assert (context["runAsNonRoot"], context["seccompProfile"]["type"]) == (True, "RuntimeDefault"), name
        assert context["runAsUser"] > 0
        assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            own = container["securityContext"]
            assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True), name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_service_has_its_own_login_and_the_owner_only_the_job(kustomize: Path, overlay: str) -> None:
    """Two passwords of six, and the address of the database without anybody's name."""
    manifests = built(kustomize, DEPLOY / "overlays" / overlay)
    (settings,) = (one["data"] for one in of_kind(manifests, "ConfigMap") if "settings" in one["metadata"]["name"])
    assert "@" not in settings["DATABASE_URL"]
    assert {name for name, pod in pods_of(manifests) if "DATABASE_URL" in str(pod)} == {"prooftrail-migrate"}
    for service in SERVICES:
        (pod,) = (pod for name, pod in pods_of(manifests) if name == f"prooftrail-{service}")
        assert pod["containers"][0]["args"] == [service]
        (logins,) = (volume["secret"] for volume in pod["volumes"] if volume["name"] == "logins")
        assert {item["key"] for item in logins["items"]} == {service, FEED}
        assert {item["key"] for item in logins["items"]} == {item["path"] for item in logins["items"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_are_settings_of_ours(kustomize: Path, overlay: str, tmp_path: Path) -> None:
    """A service reads them as they are; only files of secrets are elsewhere here."""
    manifests = built(kustomize, DEPLOY / "overlays" / overlay)
    (given,) = (one["data"] for one in of_kind(manifests, "ConfigMap") if "settings" in one["metadata"]["name"])
    (tmp_path / "file").touch()
    here = {name: str(tmp_path / "file") if name.startswith("KAFKA_SSL_") else value for name, value in given.items()}
    settings = read_settings(here)
    assert (settings.mode, settings.host, settings.log_format) == ("connected", "0.0.0.0", "json")
    assert settings.kafka is not None
    assert settings.logins == Path("/run/prooftrail/logins")


def test_a_pod_that_goes_is_taken_out_first_and_has_time(kustomize: Path) -> None:
    """It sleeps while everybody learns that it goes, and the grace is longer than all it does then."""
    for name, pod in pods_of(built(kustomize, DEPLOY / "base")):
        for container in pod["containers"] if name != "prooftrail-migrate" else ():
            sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert pod["terminationGracePeriodSeconds"] > sleep + 2 * 10, name
            assert container["livenessProbe"]["httpGet"]["path"] == "/healthz", name
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz", name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_not_allowed_is_denied(kustomize: Path, overlay: str) -> None:
    """One policy denies everything to everybody in the namespace; budgets only where a node can still be drained."""
    manifests = built(kustomize, DEPLOY / "overlays" / overlay)
    denied = [one["spec"] for one in of_kind(manifests, "NetworkPolicy") if one["metadata"]["name"].endswith("-deny")]
    assert denied == [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}]
    replicas = {one["spec"]["replicas"] for one in of_kind(manifests, "Deployment") if "replicas" in one["spec"]}
    budgets = list(of_kind(manifests, "PodDisruptionBudget"))
    assert len(budgets) == (len(SERVICES) if min(replicas) > 1 else 0)


@pytest.mark.parametrize("overlay", [*OVERLAYS, "trial"])
def test_every_address_in_the_settings_can_be_reached(kustomize: Path, overlay: str) -> None:
    """What a pod is told to talk to is let out of it, and so is a collector of traces where the exporter expects it."""
    manifests = built(kustomize, for_trial() if overlay == "trial" else DEPLOY / "overlays" / overlay)
    reached = set()
    for name, template in templates_of(manifests):
        if name.startswith("prooftrail-"):
            settings = {**settings_of(manifests, template), "OTEL_EXPORTER_OTLP_ENDPOINT": DEFAULT_ENDPOINT}
            reached |= ports_to_reach(settings)
            assert ports_to_reach(settings) - ports_let_out(manifests, template) == set(), name
    assert {8080, 5432, 4318} <= reached
    assert reached & {9092, 9093}
    assert reached & {443, 8443}
