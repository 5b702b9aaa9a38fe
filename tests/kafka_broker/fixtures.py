"""The broker of a whole test run, and for each test a deployment of its own on it; or one loud line why there is none."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from shared.kafka_settings import KafkaSettings
from tests.kafka_broker.broker import KafkaBroker
from tests.kafka_broker.installation import CannotRun, installed


@pytest.fixture(scope="session")
def kafka_of_the_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """Started at the first test that needs it; without Java or Maven those tests are skipped, and in CI they fail."""
    try:
        jars = installed()
    except CannotRun as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(f"Kafka: {reason}", pytrace=False)
        terminal = request.config.pluginmanager.get_plugin("terminalreporter")
        capture = request.config.pluginmanager.get_plugin("capturemanager")
        if terminal is not None and capture is not None:
            with capture.global_and_fixture_disabled():
                terminal.write_line(f"\nNOT TESTED against a real Kafka: {reason}", red=True, bold=True)
        pytest.skip(str(reason))
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
