"""TLS, mutual TLS and SCRAM as the settings name them, on listeners of the real broker that ask for them."""

from __future__ import annotations

import asyncio
import time
from inspect import signature
from pathlib import Path

import pytest
from crc32c import crc32c
from kafka.record.util import calc_crc32c

from shared.kafka_client import (
    KafkaAway,
    Topics,
    commit,
    end_consumer,
    end_producer,
    open_member,
    open_producer,
    polled,
)
from shared.kafka_settings import InvalidKafkaSetting, KafkaSettings, Patience, read_kafka_settings
from shared.people_topic import PeopleTopics
from tests.kafka_broker import SCRAM_PASSWORD, SCRAM_USER, KafkaBroker
from tests.kafka_broker.certificates import make_certificates
from tests.shared.conftest import Stores
from tests.shared.kafka.relays import PATIENCE, PATIENCE_S, SOURCE, assert_whole, relay_of, relaying, until_relayed
from tests.shared.kafka.test_kafka_feed import read_to, reading
from tests.shared.kafka.test_people_topic import at_work, directory_of, relay_of as names_relay_of, until_known


def mutual_tls(broker: KafkaBroker) -> dict[str, str]:
    files = broker.certificates
    return {
        "KAFKA_BOOTSTRAP": broker.mtls,
        "KAFKA_SSL_CA": str(files.authority),
        "KAFKA_SSL_CERTIFICATE": str(files.client_certificate),
        "KAFKA_SSL_KEY": str(files.client_key),
    }


def scram(broker: KafkaBroker) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP": broker.scram,
        "KAFKA_SSL_CA": str(broker.certificates.authority),
        "KAFKA_SASL_USERNAME": SCRAM_USER,
        "KAFKA_SASL_PASSWORD": SCRAM_PASSWORD,
    }


def settings_of(environment: dict[str, str], kafka: KafkaSettings) -> KafkaSettings:
    found = read_kafka_settings({**environment, "KAFKA_TOPIC_PREFIX": kafka.topic_prefix})
    assert found is not None
    return found


@pytest.mark.parametrize("way", [mutual_tls, scram])
async def test_events_travel_over_a_secured_listener(
    stores: Stores, kafka: KafkaSettings, broker: KafkaBroker, way: object
) -> None:
    """Relay and feed with the same settings, which come from the environment."""
    assert callable(way)
    secured = settings_of(way(broker), kafka)
    await stores.counter.count(1, 2, 3)
    async with relaying(relay_of(stores, secured)), reading(secured) as feed:
        await until_relayed(stores, 3)
        assert await read_to(feed, 3) == await stores.feed.read(service=SOURCE, after=0, limit=9)
    await assert_whole(stores, kafka)


@pytest.mark.parametrize("way", [mutual_tls, scram])
async def test_names_and_members_of_a_group_travel_so_too(
    stores: Stores, kafka: KafkaSettings, broker: KafkaBroker, way: object
) -> None:
    """Directories with the settings of the environment, and a record for a member of the group of features."""
    assert callable(way)
    secured = settings_of(way(broker), kafka)
    names = PeopleTopics(kafka=secured, services=[SOURCE], patience=PATIENCE)
    async with at_work(names.run, names_relay_of(stores, secured).run):
        await until_known(names, await directory_of(stores).commitment(subject="person-1", name="Grace"))
    assert await asyncio.to_thread(taken_by_a_member, secured) == [b"rows"]


def taken_by_a_member(kafka: KafkaSettings) -> list[bytes]:
    topics, producer = Topics.of(kafka, PATIENCE), open_producer(kafka, PATIENCE)
    topics.ensure_shared(kafka.features_topic, {}, partitions=2)
    topics.close()
    producer.send(kafka.features_topic, value=b"rows").get(PATIENCE_S)
    end_producer(producer)
    member = open_member(kafka, kafka.features_topic, group=kafka.features_group, patience=PATIENCE)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (records := polled(member, seconds=0.5)):
            assert time.monotonic() < deadline, "the member was given nothing"
        commit(member)
    finally:
        end_consumer(member)
    return [record.value for record in records]


def test_the_checksum_of_records_is_the_native_one() -> None:
    """The one in Python is eight times slower, and everything else would still work."""
    assert signature(calc_crc32c).parameters["_crc32c"].default is crc32c


@pytest.mark.parametrize("mistake", ["no certificate", "another authority", "wrong password", "plain text"])
async def test_who_cannot_show_who_he_is_gets_nowhere(
    kafka: KafkaSettings, broker: KafkaBroker, tmp_path: Path, mistake: str
) -> None:
    """Nothing falls back to less."""
    strangers = make_certificates(tmp_path)
    environment = {
        "no certificate": {"KAFKA_BOOTSTRAP": broker.mtls, "KAFKA_SSL_CA": str(broker.certificates.authority)},
        "another authority": {**mutual_tls(broker), "KAFKA_SSL_CA": str(strangers.authority)},
        "wrong password": {**scram(broker), "KAFKA_SASL_PASSWORD": "battery staple"},
        "plain text": {"KAFKA_BOOTSTRAP": broker.scram},
    }[mistake]
    topics = Topics.of(settings_of(environment, kafka), Patience(request_s=1.0, delivery_s=2.0))
    with pytest.raises(KafkaAway):
        await asyncio.to_thread(topics.ensure, [SOURCE])
    topics.close()


def test_without_a_bootstrap_address_there_is_no_kafka() -> None:
    """The other variables mean nothing then."""
    assert read_kafka_settings({"KAFKA_SASL_USERNAME": "x"}) is None


def test_a_password_is_never_printed() -> None:
    """Not even in the representation of the settings."""
    settings = read_kafka_settings(
        {"KAFKA_BOOTSTRAP": "a:1,b:2", "KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD": "hidden"}
    )
    assert settings is not None
    assert (settings.bootstrap, settings.security_protocol) == (("a:1", "b:2"), "SASL_SSL")
    assert "hidden" not in repr(settings)


def test_how_long_clients_wait_can_be_set() -> None:
    """In whole seconds; what is not said stays as usual."""
    settings = read_kafka_settings({"KAFKA_BOOTSTRAP": "a:1", "KAFKA_REQUEST_TIMEOUT_S": "2"})
    assert settings is not None
    assert settings.patience == Patience(request_s=2.0)


@pytest.mark.parametrize(
    ("name", "environment"),
    [
        ("KAFKA_BOOTSTRAP", {"KAFKA_BOOTSTRAP": "kafka"}),
        ("KAFKA_BOOTSTRAP", {"KAFKA_BOOTSTRAP": "kafka:9092,,"}),
        ("KAFKA_SECURITY_PROTOCOL", {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"}),
        ("KAFKA_SECURITY_PROTOCOL", {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}),
        (
            "KAFKA_SECURITY_PROTOCOL",
            {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD": "p"},
        ),
        ("KAFKA_SECURITY_PROTOCOL", {"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT", "KAFKA_SSL_CA": __file__}),
        ("KAFKA_SASL_PASSWORD", {"KAFKA_SASL_USERNAME": "u"}),
        ("KAFKA_SASL_MECHANISM", {"KAFKA_SASL_MECHANISM": "GSSAPI"}),
        ("KAFKA_SSL_KEY", {"KAFKA_SSL_CERTIFICATE": __file__}),
        ("KAFKA_SSL_CA", {"KAFKA_SSL_CA": "/nowhere/ca.pem"}),
        ("KAFKA_REPLICATION", {"KAFKA_REPLICATION": "0"}),
        ("KAFKA_REQUEST_TIMEOUT_S", {"KAFKA_REQUEST_TIMEOUT_S": "0"}),
        ("KAFKA_DELIVERY_TIMEOUT_S", {"KAFKA_DELIVERY_TIMEOUT_S": "1000"}),
        ("KAFKA_DELIVERY_TIMEOUT_S", {"KAFKA_REQUEST_TIMEOUT_S": "5", "KAFKA_DELIVERY_TIMEOUT_S": "5"}),
        ("KAFKA_TOPIC_PREFIX", {"KAFKA_TOPIC_PREFIX": "a b"}),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(name: str, environment: dict[str, str]) -> None:
    """Before anything starts."""
    with pytest.raises(InvalidKafkaSetting) as refused:
        read_kafka_settings({"KAFKA_BOOTSTRAP": "kafka:9092", **environment})
    assert [found.field for found in refused.value.fields] == [name]
