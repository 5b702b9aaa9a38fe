"""Asks a real API server whether it takes each overlay, and a pod of each template where Pod Security `restricted` is enforced.

Nothing is kept but the namespace and the accounts that pods name. Of a Deployment Pod Security only warns, hence the pods. Kinds of
operators are asked for where the operators are.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
Kubectl = Callable[..., str]
"""Runs it with arguments and what `given` says on its standard input. SystemExit when it fails."""

NAMESPACE = "prooftrail-admission"
OVERLAYS = ("dev", "prod")
DEPLOY = Path(__file__).parents[2] / "deploy" / "k8s"
DRY = ("--dry-run=server", "--validate=strict", "-f", "-")
ENFORCED = {"pod-security.kubernetes.io/enforce": "restricted"}
REFUSED = "violates PodSecurity"


def admit_overlays(kubectl: Kubectl, say: Callable[[str], object]) -> None:
    """Returns when all is admitted and the pod that should be refused is. SystemExit says what was not."""
    kubectl("apply", "-f", "-", given=json.dumps(_namespace()))
    kinds = kinds_of(kubectl("api-resources", "--no-headers"))
    for overlay in OVERLAYS:
        manifests = list(yaml.safe_load_all(kubectl("kustomize", str(DEPLOY / "overlays" / overlay))))
        here = list(moved(manifests))
        known = [one for one in here if (one["apiVersion"], one["kind"]) in kinds]
        pods = list(pods_of(here))
        kubectl("apply", "-f", "-", given=json.dumps(_list(_accounts(pods))))
        kubectl("apply", *DRY, given=json.dumps(_list(known)))
        for pod in pods:
            kubectl("create", *DRY, given=json.dumps(pod))
        _require_refusal(kubectl, loosened(pods[0]))
        left = sorted({one["kind"] for one in here if one not in known})
        say(
            f"{overlay}: {len(known)} manifests and {len(pods)} pods are admitted; unknown here: {', '.join(left) or 'none'}"
        )


def moved(manifests: Iterable[Manifest]) -> Iterator[Manifest]:
    """The manifests in the namespace of the trial; theirs need not be there, and a dry run makes none."""
    for manifest in manifests:
        if manifest["kind"] == "Namespace":
            yield manifest
        else:
            yield {**manifest, "metadata": {**manifest["metadata"], "namespace": NAMESPACE}}


def pods_of(manifests: Iterable[Manifest]) -> Iterator[Manifest]:
    """A pod as each template describes it."""
    for manifest in manifests:
        if "template" in manifest.get("spec", {}):
            template = copy.deepcopy(manifest["spec"]["template"])
            name = {"name": manifest["metadata"]["name"], "namespace": NAMESPACE}
            yield {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {**template["metadata"], **name}}


def loosened(pod: Manifest) -> Manifest:
    """The same, but for a container that may become more than it is."""
    loose = copy.deepcopy(pod)
    loose["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    return loose


def kinds_of(api_resources: str) -> set[tuple[str, str]]:
    """The versions and kinds that `kubectl api-resources` lists: the third column from the right and the last."""
    rows = (line.split() for line in api_resources.splitlines())
    return {(row[-3], row[-1]) for row in rows}


def _require_refusal(kubectl: Kubectl, pod: Manifest) -> None:
    try:
        kubectl("create", *DRY, given=json.dumps(pod))
    except SystemExit as refusal:
        if REFUSED in str(refusal):
            return
        raise
    raise SystemExit(
        f"This cluster enforces nothing: it takes a pod that may escalate, in {NAMESPACE}. Turn on PodSecurity."
    )


def _namespace() -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": ENFORCED}}


def _accounts(pods: Iterable[Manifest]) -> list[Manifest]:
    """A pod whose account is not there is refused before anybody looks at it."""
    names = sorted({pod["spec"].get("serviceAccountName", "default") for pod in pods})
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}}
        for name in names
    ]


def _list(items: list[Manifest]) -> Manifest:
    return {"apiVersion": "v1", "kind": "List", "items": items}
