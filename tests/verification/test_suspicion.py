"""Suspicion reaches exactly what depends on the cause, transitively, and no more."""

from __future__ import annotations

from hypothesis import given, strategies as st

from services.verification.domain import suspicion
from services.verification.domain.suspicion import Node, RestsOn, TrainedOn

VERSIONS = ("1", "2", "3", "4", "5")


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[TrainedOn], list[RestsOn]]:
    """Model versions that derive from earlier ones, and verifications of any of them on anything."""
    models = [
        TrainedOn(
            model="m",
            version=version,
            training_dataset=draw(st.sampled_from([None, "d1", "d2", "d3"])),
            training_dataset_version="1",
            parent=draw(st.sampled_from([None, *VERSIONS[:index]])),
        )
        for index, version in enumerate(VERSIONS)
    ]
    verifications = [
        RestsOn(
            key=f"V{number}",
            requirement=draw(st.sampled_from(["R1", "R2"])),
            requirement_revision=draw(st.integers(1, 2)),
            model="m",
            version=draw(st.sampled_from(VERSIONS)),
            dataset=draw(st.sampled_from(["d1", "d2", "d3"])),
            dataset_version="1",
            run=draw(st.sampled_from(["RUN-1", "RUN-2", "RUN-3"])),
        )
        for number in range(draw(st.integers(0, 12)))
    ]
    return models, verifications


CAUSES = st.sampled_from(
    [
        *(suspicion.dataset(name, "1") for name in ("d1", "d2", "d3")),
        *(suspicion.model_version("m", version) for version in VERSIONS),
        *(suspicion.run(key) for key in ("RUN-1", "RUN-2", "RUN-3")),
        *(suspicion.requirement(key, revision) for key in ("R1", "R2") for revision in (1, 2)),
    ]
)


def oracle(models: list[TrainedOn], verifications: list[RestsOn], cause: Node) -> list[str]:
    """By saying what each thing rests on and closing that relation upwards: no graph, no walk from the cause."""
    made = {model.version: model for model in models}

    def grounds_of_model(version: str) -> set[Node]:
        model = made[version]
        grounds = {suspicion.model_version("m", version)}
        if model.training_dataset is not None:
            grounds.add(suspicion.dataset(model.training_dataset, "1"))
        return grounds | (grounds_of_model(model.parent) if model.parent is not None else set())

    return sorted(
        one.key
        for one in verifications
        if cause
        in {
            suspicion.requirement(one.requirement, one.requirement_revision),
            suspicion.dataset(one.dataset, "1"),
            suspicion.run(one.run),
            *grounds_of_model(one.version),
        }
    )


@given(histories(), CAUSES)
def test_the_suspect_set_is_what_rests_on_the_cause(
    history: tuple[list[TrainedOn], list[RestsOn]], cause: Node
) -> None:
    """Against an oracle that asks the other way round."""
    models, verifications = history
    assert suspicion.dependents(suspicion.graph(models, verifications), cause) == oracle(models, verifications, cause)


def test_a_dataset_reaches_through_training_and_derivation() -> None:
    """Withdrawn training data of a parent makes the evidence of its child suspect."""
    models = [
        TrainedOn("m", "1", "d1", "1", None),
        TrainedOn("m", "2", "d2", "1", "1"),
        TrainedOn("m", "3", "d2", "1", None),
    ]
    rests = [RestsOn(f"V{v}", "R1", 1, "m", v, "d9", "1", "RUN-1") for v in ("1", "2", "3")]
    assert suspicion.dependents(suspicion.graph(models, rests), suspicion.dataset("d1", "1")) == ["V1", "V2"]


def test_a_requirement_revision_reaches_only_what_was_verified_against_it() -> None:
    """Evidence for another revision does not rest on this one."""
    rests = [RestsOn("V1", "R1", 1, "m", "1", "d", "1", "r"), RestsOn("V2", "R1", 2, "m", "1", "d", "1", "r")]
    assert suspicion.dependents(suspicion.graph([], rests), suspicion.requirement("R1", 1)) == ["V1"]
