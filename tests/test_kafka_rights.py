"""Services on a Kafka that lets each of them do what its user in deploy/k8s may, over mutual TLS, and nothing besides."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType

from services.composition import SERVICES
from shared.dead_letters import letters_of
from shared.kafka_client import KafkaAway, Topics, end_producer, kafka_errors, open_producer
from shared.kafka_settings import KafkaSettings, Patience
from shared.settings import Settings
from tests.cluster import TestCluster, running_cluster
from tests.kafka_broker import KafkaBroker
from tests.kafka_broker.certificates import certify
from tests.serving import CHECKOUT

PATIENCE_S = 60.0
USERS = CHECKOUT / "deploy" / "k8s" / "components" / "strimzi" / "users.yaml"
PREFIX_THERE = "prooftrail"


def user_of(service: str) -> str:
    return f"prooftrail-kafka-{service}"


def granted(kafka: KafkaSettings) -> Iterator[ACL]:
    """What users.yaml grants, for the topics and the group of this deployment."""
    for user in yaml.safe_load_all(USERS.read_text()):
        for rule in user["spec"]["authorization"]["acls"]:
            resource = rule["resource"]
            pattern = ResourcePattern(
                ResourceType[resource["type"].upper()],
                kafka.topic_prefix + resource["name"].removeprefix(PREFIX_THERE),
                ACLResourcePatternType[{"prefix": "PREFIXED", "literal": "LITERAL"}[resource["patternType"]]],
            )
            for operation in rule["operations"]:
                yield ACL(
                    principal=f"User:CN={user['metadata']['name']}",
                    host="*",
                    operation=ACLOperation[re.sub(r"(?<!^)(?=[A-Z])", "_", operation).upper()],
                    permission_type=ACLPermissionType.ALLOW,
                    resource_pattern=pattern,
                )


@pytest.fixture
def as_user(kafka: KafkaSettings, broker: KafkaBroker) -> Callable[[KafkaSettings, str], KafkaSettings]:
    """Settings with which a service connects as its user, to whom everything is granted that users.yaml grants."""
    topics = Topics.of(kafka, Patience())
    topics._admin().create_acls(list(granted(kafka)))
    topics.close()

    def settings(ours: KafkaSettings, service: str) -> KafkaSettings:
        certificate, key = certify(broker.certificates, user_of(service))
        return replace(
            ours, bootstrap=(broker.mtls,), security_protocol="SSL",
            authority=broker.certificates.authority, certificate=certificate, key=key,
        )  # fmt: skip

    return settings


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 -- it lies outside
            await asyncio.sleep(0.05)


async def test_services_that_begin_one_after_the_other_find_each_other(
    server_url: str,
    tmp_path: Path,
    kafka: KafkaSettings,
    as_user: Callable[[KafkaSettings, str], KafkaSettings],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The first has nobody to read from, the last everybody; then events, names, pulses and rows reach all."""
    settings = Settings(data=tmp_path / "data", after_timeout_s=PATIENCE_S, features_subject="service:predictor")
    async with running_cluster(
        server_url=server_url, folder=tmp_path / "data", kafka=kafka, settings=settings, as_user=as_user
    ) as cluster:
        owner = cluster.door.client("Olga Owner")
        await owner.post("/v1/systems", key="loans", name="Loans", intended_use="tests", risk_class="limited")
        state = await owner.get("/v1/systems/loans/state")
        assert list(state["records"]["ai-system"]) == ["loans"]
        await until_all_hear_of_each_other(cluster)
        await until_the_name_is_known(cluster, "Olga Owner")
        await asyncio.to_thread(send, kafka, kafka.features_topic, b"no rows")
        drift = cluster.houses["drift"].services["drift"].foundation
        await until(lambda: letters_of(drift.pool, service="drift"))
    assert "Authorization" not in caplog.text
    assert f"{kafka.event_topic('releases')} of releases" in caplog.text


async def until_all_hear_of_each_other(cluster: TestCluster) -> None:
    async def all_heard() -> bool:
        pulses = [
            await house.runtime.feed.pulse(service=service) for house in cluster.houses.values() for service in SERVICES
        ]
        return all(pulse.at.year > 1 for pulse in pulses)

    await until(all_heard)


async def until_the_name_is_known(cluster: TestCluster, name: str) -> None:
    """To every process, of which only requirements has it in its own database."""
    requirements = cluster.houses["requirements"].services["requirements"].foundation
    commitment = await requirements.pool.fetchval("SELECT name_commitment FROM requirements.person")
    for service, house in cluster.houses.items():
        names = house.runtime.names(house.services[service].foundation.pool)
        await until(lambda names=names: names.people([commitment]))  # type: ignore[misc]
        assert (await names.people([commitment]))[commitment].name == name


def send(kafka: KafkaSettings, topic: str, value: bytes) -> None:
    producer = open_producer(kafka, Patience())
    try:
        with kafka_errors():
            producer.send(topic, value=value).get(PATIENCE_S)
    finally:
        end_producer(producer)


@pytest.mark.parametrize("owned_by_another", ["event_topic", "people_topic"])
async def test_nobody_makes_or_writes_what_is_anothers(
    kafka: KafkaSettings, as_user: Callable[[KafkaSettings, str], KafkaSettings], owned_by_another: str
) -> None:
    """Also none of its names; the topic is there all the same, since its owner could make it."""
    topic = getattr(kafka, owned_by_another)("requirements")
    owner, stranger = (Topics.of(as_user(kafka, service), Patience()) for service in ("requirements", "releases"))
    with pytest.raises(KafkaAway, match="TopicAuthorizationFailed"):
        await asyncio.to_thread(stranger.make, topic, {})
    await asyncio.to_thread(owner.make, topic, {})
    with pytest.raises(KafkaAway, match="TopicAuthorizationFailed"):
        await asyncio.to_thread(send, as_user(kafka, "releases"), topic, b"forged")
    for topics in (owner, stranger):
        topics.close()
