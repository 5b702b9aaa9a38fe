"""Suspicion: exactly what depends on something that is no longer what it was, transitively, and no more.

A trace graph with an edge from each ground to what rests on it: dataset -> model version trained on it -> model version
derived from that; dataset, model version, run and requirement revision -> verification.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Node(NamedTuple):
    """One record in one version: its kind and what names it inside the AI system."""

    kind: str
    name: str


def dataset(name: str, version: str) -> Node:
    """A dataset version."""
    return Node("dataset", f"{name}@{version}")


def model_version(model: str, version: str) -> Node:
    """A model version."""
    return Node("model-version", f"{model}@{version}")


def run(key: str) -> Node:
    """An evaluation run."""
    return Node("run", key)


def requirement(key: str, revision: int) -> Node:
    """A requirement in one revision."""
    return Node("requirement", f"{key}@{revision}")


def verification(key: str) -> Node:
    """A verification."""
    return Node("verification", key)


class TrainedOn(NamedTuple):
    """What a model version was made from."""

    model: str
    version: str
    training_dataset: str | None
    training_dataset_version: str | None
    parent: str | None


class RestsOn(NamedTuple):
    """What a verification rests on."""

    key: str
    requirement: str
    requirement_revision: int
    model: str
    version: str
    dataset: str
    dataset_version: str
    run: str


Graph = Mapping[Node, frozenset[Node]]
"""From a ground to all that rests on it directly."""


def graph(models: Iterable[TrainedOn], verifications: Iterable[RestsOn]) -> Graph:
    """The edges of one AI system."""
    edges: dict[Node, set[Node]] = defaultdict(set)
    for made in models:
        node = model_version(made.model, made.version)
        if made.training_dataset is not None and made.training_dataset_version is not None:
            edges[dataset(made.training_dataset, made.training_dataset_version)].add(node)
        if made.parent is not None:
            edges[model_version(made.model, made.parent)].add(node)
    for rests in verifications:
        node = verification(rests.key)
        edges[requirement(rests.requirement, rests.requirement_revision)].add(node)
        edges[model_version(rests.model, rests.version)].add(node)
        edges[dataset(rests.dataset, rests.dataset_version)].add(node)
        edges[run(rests.run)].add(node)
    return {node: frozenset(after) for node, after in edges.items()}


def dependents(edges: Graph, cause: Node) -> list[str]:
    """The keys of all verifications that can be reached from the cause, in order."""
    seen, waiting = {cause}, deque([cause])
    while waiting:
        for node in edges.get(waiting.popleft(), frozenset()) - seen:
            seen.add(node)
            waiting.append(node)
    return sorted(node.name for node in seen if node.kind == "verification")
