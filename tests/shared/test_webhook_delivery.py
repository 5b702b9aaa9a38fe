"""Deliveries by themselves: whatever receivers, processes and the database do, every event arrives, in order, under one id."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from standardwebhooks import Webhook as Checker, WebhookVerificationError

from shared.subscription import DELIVERY_BYTES_MAX
from shared.webhooks.book import Patience
from shared.webhooks.delivery import WebhookDelivery
from shared.webhooks.registry import Webhook
from tests.asyncapi import require_headers
from tests.kafka_broker.certificates import make_certificates
from tests.serving import CHECKOUT, free_port
from tests.shared.conftest import Stores
from tests.shared.webhook_deliveries import OWNER, SECRET, SERVICE, delivering, prepare_roles, registry
from tests.webhook_receiver import PATIENCE_SECONDS, Answer, Receiver, receiving

LONG_BYTES = 60_000
KEY = "mine"
TRIES = Patience(first=0.02, longest=0.1, off_after=0.0, failures_min=3)
"""Off after the third failure."""


@dataclass
class Line:
    """A store whose events are sent to a receiver, by whoever delivers."""

    stores: Stores
    receiver: Receiver

    async def register(self, *, url: str | None = None, key: str = KEY, **wish: tuple[str, ...]) -> None:
        webhooks = registry(self.stores.url, self.stores.pool)
        filters = {"systems": (), "names": (), **wish}
        await webhooks.register(actor=OWNER, key=key, url=url or self.receiver.url, after=0, **filters)

    async def webhook(self, key: str = KEY) -> Webhook:
        return await registry(self.stores.url, self.stores.pool).get(subject=OWNER.subject, key=key)

    async def until_stored(self, position: int, key: str = KEY) -> Webhook:
        return await self.until_seen(lambda webhook: webhook.position >= position, key)

    async def until_seen(self, as_wanted: Callable[[Webhook], bool], key: str = KEY) -> Webhook:
        """The webhook once it is as wanted: nothing tells its owner but reading it."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not as_wanted(webhook := await self.webhook(key)):  # noqa: ASYNC110 -- it is in the database
                await asyncio.sleep(0.02)
        return webhook

    async def resume(self, delivery: WebhookDelivery, after: int | None = None) -> None:
        await registry(self.stores.url, self.stores.pool, delivery.wake).resume(
            subject=OWNER.subject, key=KEY, after=after
        )


@pytest.fixture
async def line(stores: Stores) -> AsyncIterator[Line]:
    await prepare_roles(stores.pool)
    async with receiving() as receiver:
        yield Line(stores, receiver)


def _require_signed(receiver: Receiver) -> None:
    for one in receiver.received:
        assert Checker(SECRET).verify(one.body, dict(one.headers)) == json.loads(one.body)


async def test_every_event_arrives_in_order_with_the_stored_bytes(line: Line) -> None:
    """As CloudEvents in binary mode, signed; what was and what comes; and the position is stored."""
    counter = line.stores.counter
    await counter.count(*range(5))
    await line.register()
    async with delivering(line.stores.url, line.stores.pool):
        await line.receiver.until_count(5)
        await counter.count(*range(5))
        await line.receiver.until_count(10)
        webhook = await line.until_stored(10)
    stored = await line.stores.feed.read(service=SERVICE, after=0, limit=100)
    assert [one.body for one in line.receiver.received] == [event.raw for event in stored]
    for one, event in zip(line.receiver.received, stored, strict=True):
        require_headers(one.headers, trait="signedCloudEvent", prefixes=("ce-", "webhook-"))
        told = event.content()
        assert one.webhook_id == one.headers["ce-id"] == told["id"]
        assert one.position == event.position
        assert one.headers["ce-leafhash"] == event.leaf_hash
        assert one.headers["ce-specversion"] == "1.0"
        assert (one.headers["ce-source"], one.headers["ce-type"]) == (f"urn:prooftrail:{SERVICE}", told["name"])
        assert one.headers["ce-time"] == event.recorded_at.isoformat()
        assert one.headers["content-type"] == "application/json"
        assert one.headers["traceparent"].split("-")[1] == told["correlation"]
    _require_signed(line.receiver)
    assert webhook.active
    assert webhook.trouble is None
    assert webhook.delivered_at is not None


@pytest.mark.parametrize(
    "failures",
    [
        pytest.param([Answer(500)], id="refused"),
        pytest.param([Answer(cut=True)], id="taken-and-never-answered"),
        pytest.param([Answer(500), Answer(cut=True), Answer(429)], id="again-and-again"),
        pytest.param([Answer(302, headers={"Location": "/elsewhere"})], id="redirected"),
        pytest.param([Answer(204, body=b""), Answer(500, body=b"x" * (1 << 20))], id="with-a-long-answer"),
    ],
)
async def test_what_failed_comes_again_under_the_same_id(line: Line, failures: list[Answer]) -> None:
    """And nothing comes before it: order holds."""
    line.receiver.answers.extend(failures)
    await line.stores.counter.count(1, 2, 3)
    await line.register()
    async with delivering(line.stores.url, line.stores.pool):
        webhook = await line.until_stored(3)
    assert line.receiver.positions == sorted(line.receiver.positions)
    assert sorted(set(line.receiver.positions)) == [1, 2, 3]
    assert len(line.receiver.received) == 3 + sum(one.status >= 300 or one.cut for one in failures)
    assert len({(one.position, one.webhook_id, one.body) for one in line.receiver.received}) == 3
    assert {one.headers["host"] for one in line.receiver.received} == {line.receiver.url.split("/")[2]}
    assert webhook.trouble is None
    _require_signed(line.receiver)


async def test_a_receiver_that_is_down_gets_everything_when_it_is_back(line: Line) -> None:
    """Meanwhile its owner can read what is the matter."""
    port = free_port()
    await line.register(url=f"http://127.0.0.1:{port}/")
    await line.stores.counter.count(*range(20))
    async with delivering(line.stores.url, line.stores.pool):
        failing = await line.until_seen(lambda webhook: webhook.trouble is not None and webhook.trouble.failures > 1)
        assert failing.trouble is not None
        assert failing.active
        assert failing.trouble.what.startswith("cannot be reached")
        assert failing.trouble.status is None
        assert failing.trouble.next_try_at is not None
        async with receiving(port=port) as back:
            assert (await line.until_stored(20)).trouble is None
            assert back.positions == list(range(1, 21))


async def test_one_that_fails_for_long_is_switched_off_and_resumes_where_it_was(line: Line) -> None:
    """Its owner reads why; off, nothing is sent; resumed, nothing is missing."""
    line.receiver.answers.append(Answer())
    line.receiver.always = Answer(503)
    await line.stores.counter.count(1, 2, 3)
    await line.register()
    async with delivering(line.stores.url, line.stores.pool, patience=TRIES) as delivery:
        off = await line.until_seen(lambda webhook: not webhook.active)
        assert off.position == 1
        assert off.trouble is not None
        assert (off.trouble.status, off.trouble.what, off.trouble.next_try_at) == (503, "answered 503", None)
        assert off.trouble.failures == TRIES.failures_min
        assert line.receiver.positions == [1, *[2] * TRIES.failures_min]
        line.receiver.always = Answer()
        await line.resume(delivery)
        resumed = await line.until_stored(3)
        assert resumed.active
        assert line.receiver.positions[-2:] == [2, 3]
        await line.resume(delivery, after=0)
        await line.receiver.until_count(3 + TRIES.failures_min + 3)
        assert line.receiver.positions[-3:] == [1, 2, 3]


async def test_what_is_left_out_before_it_does_not_make_a_failure_new(line: Line) -> None:
    """Failures count on, although the position goes over what lies before the event that fails."""
    counter = line.stores.counter
    left_out = DELIVERY_BYTES_MAX // LONG_BYTES + 1
    for _ in range(left_out):
        await counter.tell_long(LONG_BYTES)
    await counter.count(1)
    line.receiver.always = Answer(500)
    await line.register(names=("requirements.counted",))
    async with delivering(line.stores.url, line.stores.pool, patience=TRIES):
        off = await line.until_seen(lambda webhook: not webhook.active)
    assert off.position == left_out
    assert line.receiver.positions == [left_out + 1] * TRIES.failures_min


async def test_a_late_answer_does_not_undo_what_its_owner_changed(line: Line) -> None:
    """Set back while an event is on its way, it begins there."""
    hear = asyncio.Event()
    line.receiver.answers.extend([Answer(), Answer(), Answer(after=hear)])
    await line.stores.counter.count(1, 2, 3)
    await line.register()
    async with delivering(line.stores.url, line.stores.pool):
        await line.receiver.until_count(3)
        await registry(line.stores.url, line.stores.pool).resume(subject=OWNER.subject, key=KEY, after=0)
        hear.set()
        await line.receiver.until_count(6)
        await line.until_stored(3)
    assert line.receiver.positions == [1, 2, 3, 1, 2, 3]


async def test_one_that_is_gone_is_not_asked_again(line: Line) -> None:
    """410 Gone switches it off at once."""
    line.receiver.always = Answer(410)
    await line.stores.counter.count(1, 2)
    await line.register()
    async with delivering(line.stores.url, line.stores.pool):
        off = await line.until_seen(lambda webhook: not webhook.active)
    assert off.trouble is not None
    assert off.trouble.status == 410
    assert line.receiver.positions == [1]


async def test_a_receiver_may_ask_for_time(line: Line) -> None:
    """Retry-After is heeded, whatever our own patience."""
    line.receiver.answers.append(Answer(429, headers={"Retry-After": "1800"}))
    await line.stores.counter.count(1)
    await line.register()
    async with delivering(line.stores.url, line.stores.pool):
        webhook = await line.until_seen(lambda webhook: webhook.trouble is not None)
    assert webhook.trouble is not None
    assert webhook.trouble.next_try_at is not None
    assert (webhook.trouble.next_try_at - webhook.trouble.since).total_seconds() > 1700


async def test_a_deaf_receiver_holds_up_nobody_else(line: Line) -> None:
    """The others get everything meanwhile, and so does it afterwards."""
    hear = asyncio.Event()
    line.receiver.answers.append(Answer(after=hear))
    async with receiving() as other:
        await line.register()
        await line.register(url=other.url, key="other")
        async with delivering(line.stores.url, line.stores.pool):
            await line.stores.counter.count(*range(30))
            await line.until_stored(30, "other")
            assert other.positions == list(range(1, 31))
            assert line.receiver.positions in ([], [1])
            hear.set()
            await line.until_stored(30)
    assert line.receiver.positions == list(range(1, 31))


async def test_killed_between_the_answer_and_the_row_it_is_delivered_again(line: Line) -> None:
    """kill -9 at each of the first events, twice: the same webhook-id and body once more, and no event is missing."""
    await line.stores.counter.count(*range(6))
    await line.register()
    for times in (1, 3):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.shared.webhook_process", line.stores.url, "taken", str(times), cwd=CHECKOUT
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await process.wait() == -signal.SIGKILL
    assert line.receiver.positions[0] == line.receiver.positions[1] == 1
    assert line.receiver.received[0].webhook_id == line.receiver.received[1].webhook_id
    assert line.receiver.received[0].body == line.receiver.received[1].body
    async with delivering(line.stores.url, line.stores.pool):
        await line.until_stored(6)
    assert line.receiver.positions == sorted(line.receiver.positions)
    assert set(line.receiver.positions) == set(range(1, 7))
    assert len({(one.position, one.webhook_id, one.body) for one in line.receiver.received}) == 6
    _require_signed(line.receiver)


async def test_one_replica_delivers_and_another_takes_over(line: Line) -> None:
    """While both are well every event comes once; when the leader's connection breaks, none is lost."""
    await line.register()
    async with delivering(line.stores.url, line.stores.pool), delivering(line.stores.url, line.stores.pool):
        await line.stores.counter.count(*range(50))
        await line.until_stored(50)
        assert line.receiver.positions == list(range(1, 51))
        for cut in range(3):
            await line.stores.pool.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1"
                " AND datname = current_database()",
                f"prooftrail webhooks {SERVICE}",
            )
            await line.stores.counter.count(*range(10), key=f"after {cut}")
            await line.until_stored(60 + 10 * cut)
    assert set(line.receiver.positions) == set(range(1, 81))


async def test_a_lost_role_stops_what_waits_to_be_tried_again(line: Line) -> None:
    """The event that failed is not sent any more, and the position goes over it."""
    line.receiver.always = Answer(500)
    counter = line.stores.counter
    await counter.count(1)
    await line.register()
    async with delivering(line.stores.url, line.stores.pool):
        await line.receiver.until_count(2)
        await line.stores.pool.execute(f"DELETE FROM {SERVICE}_projection.role_grant")
        line.receiver.always = Answer()
        webhook = await line.until_stored(1)
        seen = len(line.receiver.received)
        await counter.count(2)
        webhook = await line.until_stored(2)
    assert webhook.trouble is None
    assert len(line.receiver.received) == seen


async def test_a_lost_role_stops_what_was_handed_out_already(line: Line) -> None:
    """Rights are looked at before each event, not only when a batch of them is taken."""
    hear = asyncio.Event()
    line.receiver.answers.append(Answer(after=hear))
    await line.stores.counter.count(*range(40))
    await line.register()
    async with delivering(line.stores.url, line.stores.pool):
        await line.receiver.until_count(1)
        await line.stores.pool.execute(f"DELETE FROM {SERVICE}_projection.role_grant")
        await asyncio.sleep(1.1)  # RIGHTS_SECONDS_MAX: how long a right that was read may be relied on
        hear.set()
        await line.until_stored(40)
    assert line.receiver.positions == [1]


async def test_filters_narrow_it(line: Line) -> None:
    """The position moves over what is left out."""
    counter = line.stores.counter
    await counter.count(1, 2)
    await counter.tell_long(100)
    await counter.count(3)
    await line.register(names=("requirements.poisoned",))
    await line.register(systems=("another",), key="other system")
    async with delivering(line.stores.url, line.stores.pool):
        await line.until_stored(4)
        await line.until_stored(4, "other system")
    assert line.receiver.positions == [3]


async def test_a_name_that_leads_inside_is_not_connected_to(line: Line) -> None:
    """The address is looked at when it is connected to: here a name that stands for another address than those allowed."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        port = listener.getsockname()[1]
        await line.stores.counter.count(1)
        await line.register(url=f"http://[::1]:{port}/")
        async with delivering(line.stores.url, line.stores.pool):
            webhook = await line.until_seen(lambda webhook: webhook.trouble is not None)
        assert webhook.trouble is not None
        assert "may not go to" in webhook.trouble.what
        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_a_certificate_that_nobody_vouches_for_is_refused(line: Line, tmp_path: Path) -> None:
    """Nothing is sent over such a connection."""
    certificates = make_certificates(tmp_path)
    async with receiving(certificate=certificates.client_certificate, key=certificates.client_key) as receiver:
        await line.stores.counter.count(1)
        await line.register(url=receiver.url)
        async with delivering(line.stores.url, line.stores.pool):
            webhook = await line.until_seen(lambda webhook: webhook.trouble is not None)
        assert webhook.trouble is not None
        assert "certificate" in webhook.trouble.what
        assert receiver.received == []


async def test_a_wrong_signature_is_noticed(line: Line) -> None:
    """By an independent implementation: another secret, body, id or time does not pass."""
    await line.stores.counter.count(1)
    await line.register()
    async with delivering(line.stores.url, line.stores.pool):
        await line.receiver.until_count(1)
    one = line.receiver.received[0]
    headers = dict(one.headers)
    Checker(SECRET).verify(one.body, headers)
    for checker, body, changed in (
        (Checker(b"t" * 32), one.body, {}),
        (Checker(SECRET), one.body.replace(b"1", b"2"), {}),
        (Checker(SECRET), one.body, {"webhook-id": "another"}),
        (Checker(SECRET), one.body, {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}),
    ):
        with pytest.raises(WebhookVerificationError):
            checker.verify(body, {**headers, **changed})
