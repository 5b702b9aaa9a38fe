"""Fills stores with many events of the published contract, through the same function `append` that the services use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple
from uuid import uuid4

import asyncpg
import msgspec

from shared.event import system_of

BATCH = 2000
ACTOR = {"subject": "person-bench", "kind": "person", "issuer": "urn:prooftrail:embedded-issuer"}


class Seed(NamedTuple):
    """One event to append: its stream, its stored name and its data."""

    stream: str
    name: str
    data: dict[str, Any]


async def append(connection: asyncpg.Connection, service: str, seeds: Iterable[Seed]) -> int:
    """Appends the events in order; returns how many."""
    versions: Counter[str] = Counter()
    iterator = iter(seeds)
    total = 0
    while batch := list(islice(iterator, BATCH)):
        records = list(_records(batch, versions))
        await connection.execute(
            f"SELECT count(*) FROM {service}.append(NULL, NULL, NULL, NULL, NULL, $1, $2, $3, $4, $5)",
            [seed.stream for seed in batch],
            [version for version, _ in records],
            [seed.name for seed in batch],
            [system_of(seed.stream) for seed in batch],
            [record for _, record in records],
        )
        total += len(batch)
    return total


def _records(batch: list[Seed], versions: Counter[str]) -> Iterator[tuple[int, str]]:
    for seed in batch:
        versions[seed.stream] += 1
        record = {
            "id": str(uuid4()),
            "stream": seed.stream,
            "version": versions[seed.stream],
            "name": seed.name,
            "schema": 1,
            "actor": ACTOR,
            "reason": "seeded",
            "correlation": "bench",
            "causation": None,
            "data": seed.data,
        }
        yield versions[seed.stream], msgspec.json.encode(record).decode()


SYSTEM = "flight-delay"
MODEL_DIGEST = "d" * 64


def system_registered(owner: str) -> Seed:
    """The AI system with its owner."""
    data = {"key": SYSTEM, "name": "Flights", "intended_use": "bench", "risk_class": "limited", "owner": owner}
    return Seed(f"ai-system:{SYSTEM}", "requirements.ai-system-registered", data)


def dataset_registered() -> Seed:
    """The test dataset that all criteria are measured on."""
    data = {
        "name": "flights", "version": "march", "digest": "a" * 64, "rows": 1000, "columns": ["label"], "purpose": "test",
        "provenance": "p", "licence": "l", "sequestered": True, "personal_data": False,
    }  # fmt: skip
    return Seed(f"dataset:{SYSTEM}/flights@march", "requirements.dataset-registered", data)


def requirements_approved(count: int) -> Iterator[Seed]:
    """Requirements in force, each with one criterion."""
    signature = _signature()
    for number in range(count):
        key = f"REQ-{number:05d}"
        criterion = {
            "key": "C1", "metric": "recall", "comparator": ">=", "threshold": 0.7, "unit": "1", "dataset": "flights",
            "dataset_version": "march", "slice": "overall", "decision_rule": "confidence bound", "level": 0.95,
            "method": "wilson", "minimum_sample_size": 500, "sample_size_rationale": "r", "least_evidence": "recomputed",
        }  # fmt: skip
        data = {
            "key": key, "revision": 1, "classification": "initial", "title": f"Requirement {number}",
            "criteria": [criterion], "signature": signature,
        }  # fmt: skip
        yield Seed(f"requirement:{SYSTEM}/{key}", "requirements.requirement-approved", data)


def verifications_approved(count: int, *, requirements: int, first: int = 0) -> Iterator[Seed]:
    """Verifications that met their criteria, spread over the requirements, recorded and approved; numbered from `first`."""
    signature = _signature()
    for number in range(first, first + count):
        key, requirement = f"VER-{number:05d}", f"REQ-{number % requirements:05d}"
        verdict = {
            "criterion": "C1", "metric": "recall", "slice": "overall", "comparator": ">=", "threshold": 0.7,
            "decision_rule": "confidence bound", "level": 0.95, "outcome": "met", "value": 0.8, "bound": 0.78, "n": 2000,
            "n_needed": None, "explanation": "met",
        }  # fmt: skip
        recorded = {
            "key": key, "author": "person-author", "test_case": "TC-1", "test_case_revision": 1, "requirement": requirement,
            "requirement_revision": 1, "model": "late", "version": "1", "model_digest": MODEL_DIGEST, "dataset": "flights",
            "dataset_version": "march", "dataset_digest": "a" * 64, "run": "RUN-1", "post_hoc": False,
            "grade": "recomputed", "verdicts": [verdict], "outcome": "met",
        }  # fmt: skip
        approved = {
            "key": key, "requirement": requirement, "requirement_revision": 1, "model_digest": MODEL_DIGEST,
            "outcome": "met", "signature": signature,
        }  # fmt: skip
        stream = f"verification:{SYSTEM}/{key}"
        yield Seed(stream, "verification.verification-recorded", recorded)
        yield Seed(stream, "verification.verification-approved", approved)


def _signature() -> dict[str, Any]:
    return {
        "signer": ACTOR, "meaning": "approval", "signed_at": "2026-01-01T00:00:00Z", "digest": "e" * 64,
        "covers": ["e" * 64],
    }  # fmt: skip
