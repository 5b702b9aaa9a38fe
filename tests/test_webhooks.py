"""Webhooks over HTTP and gRPC: registered, read, rotated, resumed and removed by their owner, and fed by the running services."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from standardwebhooks import Webhook as Checker, WebhookVerificationError

from services.composition import SERVICES, open_house
from shared.grpc_server import grpc_serving
from shared.settings import Settings
from shared.webhooks.book import Patience
from shared.webhooks.registry import SECRETS_MAX, WEBHOOKS_OF_A_SUBJECT_MAX
from tests.foreign import append_foreign
from tests.house import Client, TestHouse, fresh_database, problem_of, running_house
from tests.test_grpc_calls import Refused, Wire
from tests.webhook_receiver import LOOPBACK, Answer, Receiver, receiving

HOOKS = "/v1/requirements/webhooks"


@pytest.fixture
async def house(server_url: str, tmp_path: Path) -> AsyncIterator[TestHouse]:
    """All services, where webhooks may go to loopback."""
    async with running_house(server_url=server_url, folder=tmp_path / "data", webhook_networks=(LOOPBACK,)) as running:
        for delivery in running.house.webhooks.values():
            delivery.patience = Patience(first=0.02, longest=0.1, off_after=0.0, failures_min=5)
        yield running


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as one:
        yield one


async def _ask(who: Client, path: str, **body: Any) -> Any:
    answer = await who.request("POST", path, body=body)
    assert answer.is_success, answer.text
    return answer.json()


async def _refused(who: Client, path: str, **body: Any) -> tuple[int, str]:
    problem = problem_of(await who.request("POST", path, body=body))
    return problem["status"], problem["reason"]


async def _register_system(who: Client, system: str) -> None:
    await who.post("/v1/systems", key=system, name=system, intended_use="tells who is late", risk_class="limited")


async def _revise(who: Client, intended_use: str, *, system: str = "flights") -> None:
    await who.post(f"/v1/systems/{system}:revise-intended-use", intended_use=intended_use, risk_class="limited")


async def test_a_subscriber_is_sent_what_it_may_see(house: TestHouse, receiver: Receiver) -> None:
    """The same texts under the same positions as in the feed, of every service; without a from_position what comes."""
    ada = house.client("Ada Author")
    await _register_system(ada, "flights")
    registered = await _ask(ada, HOOKS, key="all", url=receiver.url, from_position=0)
    later = await _ask(ada, HOOKS, key="later", url=receiver.url)
    assert registered["webhook"]["position"] == 0
    assert later["webhook"]["position"] == later["webhook"]["head"] >= 1
    await _revise(ada, "another use")
    feed = (await ada.get("/v1/requirements/events"))["events"]
    await receiver.until_count(len(feed) + 1)
    got: dict[str, list[Any]] = {"all": [], "later": []}
    for one in receiver.received:
        signed = {key: Checker(answer["secret"]) for key, answer in (("all", registered), ("later", later))}
        key = next(key for key, checker in signed.items() if _passes(checker, one))
        got[key].append((one.position, one.body.decode()))
    assert got["all"] == [(event["position"], event["event"]) for event in feed]
    assert got["later"] == got["all"][-1:]
    for service in SERVICES:
        assert (await ada.get(f"/v1/{service}/webhooks"))["next_page_token"] is None


def _passes(checker: Checker, one: Any) -> bool:
    try:
        checker.verify(one.body, dict(one.headers))
    except WebhookVerificationError:
        return False
    return True


async def test_a_role_that_is_taken_stops_it_and_one_that_is_given_starts_it(
    house: TestHouse, receiver: Receiver
) -> None:
    """Only what belongs to the AI systems in which the owner of the webhook holds a role."""
    ada, alma = house.client("Ada Author"), house.client("Alma Auditor")
    await _register_system(ada, "flights")
    assert await _refused(alma, HOOKS, key="x", url=receiver.url, systems=["flights"]) == (404, "ai-system-not-found")
    await _ask(alma, HOOKS, key="hers", url=receiver.url, from_position=0)
    grant: dict[str, Any] = {"subject": alma.subject, "role": "auditor"}
    await ada.post("/v1/systems/flights:grant-role", **grant)
    await _revise(ada, "seen")
    await receiver.until(lambda: "seen" in _uses(receiver))
    await ada.post("/v1/systems/flights:revoke-role", **grant)
    await _revise(ada, "not seen")
    await _register_system(alma, "her-own")
    await _revise(alma, "her own", system="her-own")
    await receiver.until(lambda: "her own" in _uses(receiver))
    assert _uses(receiver) == ["seen", "her own"]
    webhook = await alma.get(f"{HOOKS}/hers")
    assert webhook["active"]
    assert webhook["trouble"] is None


def _uses(receiver: Receiver) -> list[str]:
    events = [one.event() for one in receiver.received]
    return [event["data"]["intended_use"] for event in events if event["name"].endswith("intended-use-revised")]


async def test_a_secret_is_rotated_with_an_overlap(house: TestHouse, receiver: Receiver) -> None:
    """Both pass while both hold; afterwards the new one alone; and none is shown again."""
    ada = house.client("Ada Author")
    await _register_system(ada, "flights")
    first = await _ask(ada, HOOKS, key="mine", url=receiver.url)
    second = await _ask(ada, f"{HOOKS}/mine:rotate-secret")
    await _revise(ada, "with both")
    await receiver.until_count(1)
    for secret in (first["secret"], second["secret"]):
        assert _passes(Checker(secret), receiver.received[0])
    third = await _ask(ada, f"{HOOKS}/mine:rotate-secret", overlap_s=0)
    await _revise(ada, "with one")
    await receiver.until_count(2)
    passing = [_passes(Checker(one["secret"]), receiver.received[1]) for one in (first, second, third)]
    assert passing == [False, False, True]
    assert "secret" not in (await ada.request("GET", f"{HOOKS}/mine")).text
    assert "whsec" not in (await ada.request("GET", HOOKS)).text
    for _ in range(SECRETS_MAX - 1):
        await _ask(ada, f"{HOOKS}/mine:rotate-secret")
    assert await _refused(ada, f"{HOOKS}/mine:rotate-secret") == (409, "too-many-secrets")
    await _ask(ada, f"{HOOKS}/mine:rotate-secret", overlap_s=0)


async def test_an_expired_secret_signs_no_more(house: TestHouse, receiver: Receiver) -> None:
    """Its time is over while deliveries run, without anybody doing anything."""
    ada = house.client("Ada Author")
    await _register_system(ada, "flights")
    first = await _ask(ada, HOOKS, key="mine", url=receiver.url)
    second = await _ask(ada, f"{HOOKS}/mine:rotate-secret", overlap_s=1)
    rotated_at = datetime.now(UTC).timestamp()
    number = 0
    while not receiver.received or int(receiver.received[-1].headers["webhook-timestamp"]) < rotated_at + 2:
        number += 1
        await _revise(ada, f"use {number}")
        await receiver.until_count(number)
    assert not _passes(Checker(first["secret"]), receiver.received[-1])
    assert _passes(Checker(second["secret"]), receiver.received[-1])


async def test_its_owner_is_told_why_it_is_off_and_resumes_it(house: TestHouse, receiver: Receiver) -> None:
    """Commands go on meanwhile; nothing is missing afterwards."""
    ada = house.client("Ada Author")
    await _register_system(ada, "flights")
    receiver.always = Answer(500)
    await _ask(ada, HOOKS, key="mine", url=receiver.url, systems=["flights"])
    for number in range(3):
        await _revise(ada, f"use {number}")
    while (webhook := await ada.get(f"{HOOKS}/mine"))["active"]:
        pass
    assert webhook["trouble"]["status"] == 500
    assert webhook["trouble"]["what"] == "answered 500"
    assert webhook["trouble"]["next_try_at"] is None
    receiver.always = Answer()
    assert await _refused(ada, f"{HOOKS}/mine:resume", from_position=10**6) == (409, "position-ahead")
    resumed = await _ask(ada, f"{HOOKS}/mine:resume")
    assert (resumed["active"], resumed["trouble"]) == (True, None)
    await receiver.until(lambda: _uses(receiver)[-3:] == ["use 0", "use 1", "use 2"])


async def test_it_is_its_owners_alone(house: TestHouse, receiver: Receiver) -> None:
    """To everybody else it does not exist, under whatever key."""
    ada, alma = house.client("Ada Author"), house.client("Alma Auditor")
    await _ask(ada, HOOKS, key="mine", url=receiver.url)
    assert problem_of(await alma.request("GET", f"{HOOKS}/mine"))["reason"] == "webhook-not-found"
    for verb in ("rotate-secret", "resume", "remove"):
        assert await _refused(alma, f"{HOOKS}/mine:{verb}") == (404, "webhook-not-found")
    assert (await alma.get(HOOKS))["items"] == []
    await _ask(alma, HOOKS, key="mine", url=receiver.url)
    removed = await _ask(ada, f"{HOOKS}/mine:remove")
    assert removed["key"] == "mine"
    assert (await ada.get(HOOKS))["items"] == []
    assert [one["key"] for one in (await alma.get(HOOKS))["items"]] == ["mine"]
    await _register_system(ada, "flights")
    await _register_system(alma, "hers")
    await receiver.until_count(1)
    assert {json.loads(one.body)["system"] for one in receiver.received} == {"hers"}


async def test_what_cannot_be_registered_is_refused(house: TestHouse, receiver: Receiver) -> None:
    """Naming rule and field, and nothing is stored."""
    ada = house.client("Ada Author")
    for body, status, reason in (
        ({"url": "https://10.0.0.1/"}, 422, "webhook-address-refused"),
        ({"url": "https://example.com/"}, 201, ""),
        ({"url": "not an address"}, 422, "invalid-request"),
        ({"key": "a/b"}, 422, "invalid-request"),
        ({"names": ["requirements.no-such-thing"]}, 422, "unknown-event"),
        ({"systems": ["nowhere"]}, 404, "ai-system-not-found"),
        ({"from_position": 10**6}, 409, "position-ahead"),
        ({"from_position": -1}, 422, "invalid-request"),
        ({"secret": "mine"}, 422, "invalid-request"),
        ({"key": "taken"}, 409, "webhook-exists"),
    ):
        if reason == "webhook-exists":
            await _ask(ada, HOOKS, key="taken", url=receiver.url)
        answer = await ada.request("POST", HOOKS, body={"key": "mine", "url": receiver.url, **body})
        assert (answer.status_code, answer.json().get("reason", "")) == (status, reason), body
        if status == 201:
            await _ask(ada, f"{HOOKS}/mine:remove")
    assert [one["key"] for one in (await ada.get(HOOKS))["items"]] == ["taken"]


async def test_there_is_a_limit_and_pages(house: TestHouse, receiver: Receiver) -> None:
    """A subject has so many of a service and no more."""
    ada = house.client("Ada Author")
    keys = [f"key-{number:02}" for number in range(WEBHOOKS_OF_A_SUBJECT_MAX)]
    for key in keys:
        await _ask(ada, HOOKS, key=key, url=receiver.url)
    assert await _refused(ada, HOOKS, key="further", url=receiver.url) == (409, "too-many-webhooks")
    shown, token = [], ""
    while token is not None:
        page = await ada.get(HOOKS, page_size=7, page_token=token)
        shown += [one["key"] for one in page["items"]]
        token = page["next_page_token"]
    assert shown == keys


async def test_it_is_registered_over_grpc_too(house: TestHouse, receiver: Receiver) -> None:
    """The same verbs, the same reasons."""
    ada = house.client("Ada Author")
    serving = grpc_serving(
        house.house.app, host="127.0.0.1", port=0, services=("requirements",), streams={}, drain_s=1.0
    )
    async with serving as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        wire = Wire(channel, house)
        fields = {"key": "mine", "url": receiver.url, "from_position": 0}
        registered = await wire.call(ada, "requirements/RegisterRequirementsWebhook", fields)
        await _register_system(ada, "flights")
        await receiver.until_count(1)
        assert _passes(Checker(registered.webhook_secret.secret), receiver.received[-1])
        rotated = await wire.call(ada, "requirements/RotateRequirementsWebhookSecret", {"key": "mine", "overlap_s": 0})
        assert rotated.webhook_secret.secret != registered.webhook_secret.secret
        shown = await wire.call(ada, "requirements/GetRequirementsWebhook", {"key": "mine"})
        assert shown.webhook.url == receiver.url
        resumed = await wire.call(ada, "requirements/ResumeRequirementsWebhook", {"key": "mine", "from_position": 0})
        assert resumed.webhook.active
        await receiver.until(lambda: receiver.positions.count(1) > 1)
        with pytest.raises(Refused) as refused:
            await wire.call(ada, "requirements/RegisterRequirementsWebhook", fields)
        assert refused.value.details["ErrorInfo"].reason == "webhook-exists"
        await wire.call(ada, "requirements/RemoveRequirementsWebhook", {"key": "mine"})
        listed = await wire.call(ada, "requirements/ListRequirementsWebhooks", {})
        assert list(listed.webhook_page.items) == []


async def test_it_goes_on_after_a_restart(server_url: str, tmp_path: Path, receiver: Receiver) -> None:
    """What was told while nothing ran is delivered when the services are back, and what was taken is not sent again."""
    async with fresh_database(server_url) as url:
        settings = Settings(data=tmp_path / "data", database_url=url, webhook_networks=(LOOPBACK,))
        async with open_house(settings=settings, database_url=url) as house:
            transport = httpx.ASGITransport(app=house.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://house") as http:
                assert house.issuer is not None
                ada = TestHouse(house=house, http=http, issuer=house.issuer).client("Ada Author")
                await _register_system(ada, "flights")
                await _ask(ada, HOOKS, key="mine", url=receiver.url, from_position=0)
                webhook = await ada.get(f"{HOOKS}/mine")
                while webhook["position"] < webhook["head"]:
                    webhook = await ada.get(f"{HOOKS}/mine")
        await append_foreign(
            url, "requirements", "intended-use-revised", "ai-system:flights", intended_use="later", risk_class="limited"
        )
        async with open_house(settings=settings, database_url=url):
            await receiver.until(lambda: _uses(receiver) == ["later"])
    assert receiver.positions == sorted(set(receiver.positions))
