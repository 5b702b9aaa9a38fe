"""The broker of a whole test run, and for each test a deployment of its own on it; or one loud line why there is none."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from shared.kafka_settings import KafkaSettings
from tests.kafka_broker.broker import KafkaBroker
from tests.kafka_broker.installation import CannotRun, installed
from tests.npm_packages import skip_loudly


@pytest.fixture(scope="session")
def kafka_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """Started at the first test that needs it; without Java or Maven those tests are skipped, and in CI they fail."""
    try:
        jars = installed()
    except CannotRun as reason:
        skip_loudly(what="against a real Kafka", reason=reason)
    broker = KafkaBroker(jars=jars, folder=tmp_path_factory.mktemp("kafka") / "node", short_lived=True)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def broker(kafka_of_the_run: KafkaBroker) -> Iterator[KafkaBroker]:
    """A broker that runs, whatever the test before did to it."""
    if not kafka_of_the_run.runs:
        kafka_of_the_run.start()
    yield kafka_of_the_run
    if kafka_of_the_run.runs:
        kafka_of_the_run.resume()


@pytest.fixture
def kafka(broker: KafkaBroker) -> KafkaSettings:
    """Topics that nobody has used before."""
    return KafkaSettings(bootstrap=(broker.plain,), topic_prefix=f"test-{secrets.token_hex(4)}")
