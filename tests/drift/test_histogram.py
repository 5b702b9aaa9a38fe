"""Counts are exact, and partial histograms merge to the same whole however the rows were split."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from services.drift.domain.histogram import (
    PartialHistogram,
    ProfileMismatch,
    category_cells,
    count_cells,
    merge_histograms,
    numeric_cells,
)

NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0])


@given(st.lists(NUMBERS, max_size=50), st.lists(st.floats(-1e9, 1e9) | st.just(1.0), min_size=1, max_size=8))
def test_the_cell_is_the_number_of_edges_at_or_below(values: list[float], edges: list[float]) -> None:
    """Each value is counted by comparing it with every edge; NaN is missing, infinities are at the ends."""
    ordered = sorted(set(edges))
    cells = numeric_cells(values=np.array(values, dtype=np.float64), edges=np.array(ordered))
    expected = [len(ordered) + 1 if math.isnan(x) else sum(edge <= x for edge in ordered) for x in values]
    assert cells.tolist() == expected


def test_infinities_and_signed_zero_have_a_cell() -> None:
    """Minus infinity is below the first edge, infinity above the last, and -0.0 is 0.0."""
    cells = numeric_cells(values=np.array([-math.inf, math.inf, -0.0, math.nan]), edges=np.array([0.0, 1.0]))
    assert cells.tolist() == [0, 2, 1, 3]


def test_unseen_and_missing_categories_have_cells_of_their_own() -> None:
    """They are never mixed with a known level."""
    assert category_cells(values=["b", None, "new", "a"], levels={"a": 0, "b": 1}).tolist() == [1, 3, 2, 0]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=60), st.randoms(use_true_random=False))
def test_any_split_and_order_of_rows_merges_to_the_same_counts(rows: list[tuple[int, int]], random: object) -> None:
    """Sums of integers commute: batches may arrive in any order."""
    whole = _partial(rows)
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    parts = [_partial(shuffled[start : start + 7]) for start in range(0, max(1, len(shuffled)), 7)]
    merged = merge_histograms(*parts)
    assert merged.rows == whole.rows
    assert merged.counts.tobytes() == whole.counts.tobytes()


def _partial(rows: list[tuple[int, int]]) -> PartialHistogram:
    groups = np.array([group for group, _ in rows], dtype=np.int64)
    cells = np.array([cell for _, cell in rows], dtype=np.int64)
    counts = count_cells(cells=cells, groups=groups, width=5, group_count=4)
    return PartialHistogram(profile="p", rows=len(rows), counts=counts.ravel())


def test_counts_over_different_profiles_do_not_merge() -> None:
    """Cells of another profile mean something else."""
    one = PartialHistogram(profile="a", rows=1, counts=np.array([1, 0]))
    with pytest.raises(ProfileMismatch):
        merge_histograms(one, PartialHistogram(profile="b", rows=1, counts=np.array([1, 0])))
