"""Exact counts per cell: partial histograms are sums of integers, so they merge in any order and split.

A numeric feature with E edges has E + 1 value cells: the cell of x is the number of edges <= x, so that the first cell is
below the first edge (minus infinity too) and the last is at or above the last edge (plus infinity too). A categorical one has
a cell for each known level and one for unseen ones. Missing values (null, NaN) have a last cell of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from shared.errors import Conflict

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]


class ProfileMismatch(Conflict):
    """Counts over different cells cannot be added."""


@dataclass(frozen=True, kw_only=True)
class PartialHistogram:
    """Counts of some rows over the cells of one profile: `counts` are those of all features, one after the other."""

    profile: str
    rows: int
    counts: Integers


def numeric_cells(*, values: Floats, edges: Floats) -> Integers:
    """The cell of every value, shape (rows,): the number of edges <= x; NaN gets len(edges) + 1."""
    cells = np.searchsorted(edges, values, side="right").astype(np.int64)
    cells[np.isnan(values)] = len(edges) + 1
    return cells


def category_cells(*, values: Sequence[str | None], levels: Mapping[str, int]) -> Integers:
    """The cell of every value, shape (rows,): the index of its level, len(levels) if unseen, one more if missing."""
    unseen, missing = len(levels), len(levels) + 1
    return np.fromiter(
        (missing if value is None else levels.get(value, unseen) for value in values),
        dtype=np.int64,
        count=len(values),
    )


def count_cells(*, cells: Integers, groups: Integers, width: int, group_count: int) -> Integers:
    """Counts of shape (group_count, width): how many rows of each group (a pane) lie in each cell."""
    return np.bincount(groups * width + cells, minlength=group_count * width).reshape(group_count, width)


def merge_histograms(*partials: PartialHistogram) -> PartialHistogram:
    """The histogram of all rows together. ProfileMismatch if the partials were counted over different cells."""
    first = partials[0]
    for partial in partials[1:]:
        if (partial.profile, partial.counts.shape) != (first.profile, first.counts.shape):
            raise ProfileMismatch(
                f"Counts over profile {partial.profile[:12]} cannot be added to counts over {first.profile[:12]}.",
                why="Cells of different reference profiles mean different things.",
                next_step="Count the rows again over one profile.",
            )
    return PartialHistogram(
        profile=first.profile,
        rows=sum(partial.rows for partial in partials),
        counts=np.sum([partial.counts for partial in partials], axis=0, dtype=np.int64),
    )
