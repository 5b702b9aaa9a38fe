"""What `make kubernetes` asks a cluster to admit, asked of one that lists kinds and refuses pods that may escalate."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tests.kubernetes.admission import ENFORCED, NAMESPACE, admit_overlays, kinds_of
from tests.kubernetes.test_manifests import KUBERNETES, kustomize

__all__ = ["kustomize"]

LISTED = """\
configmaps                    cm       v1                       true    ConfigMap
namespaces                    ns       v1                       false   Namespace
persistentvolumeclaims        pvc      v1                       true    PersistentVolumeClaim
pods                          po       v1                       true    Pod
secrets                                v1                       true    Secret
serviceaccounts               sa       v1                       true    ServiceAccount
services                      svc      v1                       true    Service
deployments                   deploy   apps/v1                  true    Deployment
jobs                                   batch/v1                 true    Job
networkpolicies               netpol   networking.k8s.io/v1     true    NetworkPolicy
poddisruptionbudgets          pdb      policy/v1                true    PodDisruptionBudget
"""


class Cluster:
    """Takes what is valid; with `enforcing`, no pod that may escalate, and none whose account is not there."""

    def __init__(self, kustomize: Path, *, enforcing: bool) -> None:
        self._kustomize = kustomize
        self._enforcing = enforcing
        self.kept: list[dict[str, Any]] = []
        self.tried: list[dict[str, Any]] = []

    def kubectl(self, verb: str, *arguments: str, given: str = "") -> str:
        if verb == "kustomize":
            return subprocess.run(
                [self._kustomize, "build", *arguments], check=True, capture_output=True, text=True
            ).stdout
        if verb == "api-resources":
            return LISTED
        content = json.loads(given)
        for manifest in content.get("items", [content]):
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
            self._take(manifest, dry="--dry-run=server" in arguments)
        return ""

    def _take(self, manifest: dict[str, Any], *, dry: bool) -> None:
        accounts = {one["metadata"]["name"] for one in self.kept if one["kind"] == "ServiceAccount"}
        if manifest["kind"] == "Pod" and manifest["spec"].get("serviceAccountName", "default") not in accounts:
            raise SystemExit("error looking up service account")
        if manifest["kind"] == "Pod" and self._enforcing and "'allowPrivilegeEscalation': True" in str(manifest):
            raise SystemExit('violates PodSecurity "restricted:latest"')
        (self.tried if dry else self.kept).append(manifest)


def test_everything_is_asked_for_and_next_to_nothing_is_kept(kustomize: Path) -> None:
    """Each overlay's manifests and a pod of each template, in the namespace that enforces."""
    cluster, said = Cluster(kustomize, enforcing=True), list[str]()
    admit_overlays(cluster.kubectl, said.append)
    assert {one["kind"] for one in cluster.kept} == {"Namespace", "ServiceAccount"}
    assert cluster.kept[0]["metadata"] == {"name": NAMESPACE, "labels": ENFORCED}
    templates = [one["metadata"]["name"] for one in cluster.tried if one["kind"] in {"Deployment", "Job"}]
    assert [one["metadata"]["name"] for one in cluster.tried if one["kind"] == "Pod"] != []
    assert sorted(one["metadata"]["name"] for one in cluster.tried if one["kind"] == "Pod") == sorted(templates)
    assert {one["metadata"]["namespace"] for one in cluster.tried if one["kind"] != "Namespace"} == {NAMESPACE}
    assert [line.endswith("unknown here: none") for line in said] == [True, False]
    assert "KafkaUser" in said[1]


def test_a_cluster_that_enforces_nothing_is_found(kustomize: Path) -> None:
    """Its yes would say nothing."""
    with pytest.raises(SystemExit, match="enforces nothing"):
        admit_overlays(Cluster(kustomize, enforcing=False).kubectl, print)


def test_a_kind_is_known_by_its_version() -> None:
    """With and without a short name."""
    assert {("v1", "Secret"), ("apps/v1", "Deployment")} <= kinds_of(LISTED)
