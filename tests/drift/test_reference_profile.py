"""The reference profile: cells from quantiles, counts of the reference itself, and how much its chunks vary."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from services.drift.domain.histogram import Integers
from services.drift.domain.reference_profile import (
    BINS,
    LEVELS_MAX,
    FeatureKind,
    ReferenceProfile,
    UnusableReference,
    count_rows,
    profile_reference,
    quantile_edges,
    split_counts,
)

KINDS: dict[str, FeatureKind] = {"x": "numeric", "carrier": "categorical"}
LEVELS = np.array(["AA", "B6", "UA"])


def columns(generator: np.random.Generator, count: int) -> dict[str, Any]:
    """A normal feature with 2% missing, and a carrier."""
    x = generator.normal(0, 1, count)
    x[generator.uniform(size=count) < 0.02] = math.nan
    return {"x": x, "carrier": LEVELS[generator.choice(3, count, p=[0.6, 0.3, 0.1])].tolist()}


def profile_of(values: dict[str, Any], chunks: Integers | None = None) -> ReferenceProfile:
    """The profile of a model."""
    return profile_reference(model_digest="d" * 64, kinds=KINDS, columns=values, chunks=chunks)


def test_counting_the_reference_again_gives_its_own_counts() -> None:
    """The counts of the profile are what the window code counts on the same rows."""
    values = columns(np.random.default_rng(3), 5000)
    profile = profile_of(values)
    counts = count_rows(profile=profile, columns=values, panes=np.zeros(5000, dtype=np.int64), pane_count=1)[0]
    split = split_counts(widths=profile.widths, counts=counts)
    assert [tuple(cells) for cells, _ in split] == [feature.counts for feature in profile.features]
    assert [missing for _, missing in split] == [feature.missing for feature in profile.features]
    assert sum(profile.features[0].counts) + profile.features[0].missing == 5000


def test_bins_between_the_tails_have_equal_shares() -> None:
    """Deciles: a tenth of the rows in each, a thousandth below and beyond."""
    values = np.random.default_rng(5).normal(0, 1, 100_000)
    counts = np.histogram(values, bins=[-np.inf, *quantile_edges(values), np.inf])[0]
    assert len(counts) == BINS + 2
    assert counts[1:-1] == pytest.approx(np.full(BINS, 10_000), abs=110)
    assert counts[[0, -1]] == pytest.approx([100, 100], abs=2)


def test_edges_are_values_that_occurred_and_keep_whole_numbers_whole() -> None:
    """A feature with few values has an edge at each, and none is repeated; infinities and NaN make no edge."""
    edges = quantile_edges(np.array([1.0, 1, 1, 2, 2, 3, math.inf, math.nan, -0.0, 0.0] * 10))
    assert edges[:-1].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert edges[-1] == np.nextafter(3.0, math.inf)
    assert str(edges[0]) == "0.0"


def test_edges_are_exact_in_hexadecimal() -> None:
    """What the event says is the double that counts."""
    profile = profile_of(columns(np.random.default_rng(3), 1000))
    edges = quantile_edges(columns(np.random.default_rng(3), 1000)["x"])
    assert [float.fromhex(edge) for edge in profile.features[0].edges] == edges.tolist()


def test_the_artefact_survives_its_bytes_and_names_levels_only_there() -> None:
    """The digest is of the canonical bytes; the features, which an event carries, know levels by index."""
    profile = profile_of(columns(np.random.default_rng(3), 1000))
    again = msgspec.json.decode(profile.canonical(), type=ReferenceProfile)
    assert (again, again.digest) == (profile, profile.digest)
    assert profile.level_names == {"carrier": ("AA", "B6", "UA")}
    assert b"UA" not in msgspec.json.encode(profile.features)
    other = columns(np.random.default_rng(3), 1000)
    other["carrier"] = ["ZZ" if level == "UA" else level for level in other["carrier"]]
    assert profile_of(other).digest != profile.digest


def test_rows_drawn_one_by_one_are_not_overdispersed_and_bursts_are() -> None:
    """Chunks that each have a mean and a rate of missing values of their own vary more than their rows alone explain."""
    generator = np.random.default_rng(9)
    chunks = np.repeat(np.arange(200), 100)
    plain = profile_of(columns(generator, 20_000), chunks)
    assert plain.chunks == 200
    assert all(1 <= phi < 1.3 for feature in plain.features for phi in feature.overdispersion.values())
    bursts = columns(generator, 20_000)
    bursts["x"] = bursts["x"] + np.repeat(generator.normal(0, 0.5, 200), 100)
    bursts["x"][np.isin(chunks, [5, 50, 150])] = math.nan
    uneven = profile_of(bursts, chunks).features[0].overdispersion
    assert uneven["values"] > 2
    assert uneven["missing"] > 10


def test_without_times_nothing_is_estimated() -> None:
    """The profile says so by having no chunks."""
    profile = profile_of(columns(np.random.default_rng(3), 1000))
    assert profile.chunks == 0
    assert set(profile.features[0].overdispersion.values()) == {1.0}


@pytest.mark.parametrize(
    ("column", "rule"),
    [(np.full(10, math.nan), "at least one value"), (np.array([math.inf]), "at least one value")],
    ids=["all missing", "all infinite"],
)
def test_a_feature_without_values_is_no_reference(column: Any, rule: str) -> None:
    """The field is named."""
    with pytest.raises(UnusableReference) as refused:
        profile_reference(model_digest="d" * 64, kinds={"x": "numeric"}, columns={"x": column}, chunks=None)
    assert refused.value.fields[0].field == "/features/x"
    assert rule in refused.value.fields[0].rule


def test_a_category_with_too_many_levels_is_no_reference() -> None:
    """An identifier is no feature to watch by its levels."""
    levels = [f"N{number}" for number in range(LEVELS_MAX + 1)]
    with pytest.raises(UnusableReference):
        profile_reference(model_digest="d" * 64, kinds={"tail": "categorical"}, columns={"tail": levels}, chunks=None)


def test_a_few_odd_chunks_of_each_day_are_seen_in_the_tail() -> None:
    """One chunk in twenty has another mix of carriers: the mean of X2 hardly moves, its tail does."""
    generator = np.random.default_rng(13)
    chunks = np.repeat(np.arange(400), 60)
    values = columns(generator, len(chunks))
    odd = chunks % 20 == 0
    levels = np.array(values["carrier"])
    levels[odd] = LEVELS[generator.choice(3, int(odd.sum()), p=[0.3, 0.5, 0.2])]
    feature = profile_of({**values, "carrier": levels.tolist()}, chunks).features[1]
    assert feature.overdispersion["values"] > 2


def test_small_chunks_wait_for_the_next_as_small_windows_do() -> None:
    """Four rows a chunk: they are judged in the portions in which the detector will judge windows."""
    generator = np.random.default_rng(13)
    feature = profile_of(columns(generator, 4000), np.repeat(np.arange(1000), 4)).features[0]
    assert 1 <= feature.overdispersion["values"] < 1.5
