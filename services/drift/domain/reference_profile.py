"""The reference profile: what the features looked like in the data the model was made with, as counts over fixed cells.

The profile with the names of category levels is an artefact of the service; events carry its digest, edges and counts, and
know a level only by its index (no raw category values in events). Edges are float64 in hexadecimal, so that they are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec
import numpy as np
from scipy import special

from shared.errors import FieldError, Invalid
from shared.event import canonical_bytes, digest_of

from .histogram import Floats, Integers, category_cells, count_cells, numeric_cells
from .tolerance import merge_cells, sum_groups

FeatureKind: TypeAlias = Literal["numeric", "categorical"]
Channel: TypeAlias = Literal["values", "missing", "below", "above", "unseen"]

BINS = 10
TAIL = 0.001
LEVELS_MAX = 500
TAIL_LEVEL = 0.99
VARIANCE_MIN = 0.5

CHANNELS: Mapping[FeatureKind, tuple[Channel, ...]] = {
    "numeric": ("values", "missing", "below", "above"),
    "categorical": ("values", "missing", "unseen"),
}
"""What is tested of a feature: the shape of its values, and shares that a shape hides (shares are over all rows)."""


class UnusableReference(Invalid):
    """The rows cannot be a reference: a feature has no values, or too many levels."""


class FeatureReference(msgspec.Struct, frozen=True, kw_only=True):
    """One feature in the reference. `counts` has a value cell each; `levels` is the number of known levels of a categorical one.

    `overdispersion` is by channel: how much more the reference's own chunks of a window's length vary than rows drawn one by
    one would (1: no more, or not estimated because the rows came without times).
    """

    name: str
    kind: FeatureKind
    edges: tuple[str, ...]
    levels: int
    counts: tuple[int, ...]
    missing: int
    overdispersion: Mapping[str, float]


class ReferenceProfile(msgspec.Struct, frozen=True, kw_only=True):
    """The whole artefact; `level_names` gives the names of the levels of each categorical feature, in order of index.

    `chunks` is the number of chunks that overdispersion was estimated from, 0 if it was not.
    """

    model_digest: str
    rows: int
    chunks: int
    features: tuple[FeatureReference, ...]
    level_names: Mapping[str, tuple[str, ...]]

    def canonical(self) -> bytes:
        """The bytes that the digest names."""
        return canonical_bytes(self)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the canonical bytes."""
        return digest_of(self.canonical())

    @property
    def widths(self) -> tuple[int, ...]:
        """How many counts each feature has in a histogram: its value cells, and one for missing."""
        return tuple(len(feature.counts) + 1 for feature in self.features)


Column: TypeAlias = Floats | Sequence[str | None]
"""One feature of many rows: float64 with NaN for missing, or the texts of levels with None for missing."""


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Turns a column of one feature into cells."""

    reference: FeatureReference
    level_names: tuple[str, ...]

    def cells(self, column: Column) -> Integers:
        """Shape (rows,)."""
        if isinstance(column, np.ndarray):
            edges = np.array([float.fromhex(edge) for edge in self.reference.edges])
            return numeric_cells(values=column, edges=edges)
        levels = {name: index for index, name in enumerate(self.level_names)}
        return category_cells(values=column, levels=levels)


def count_rows(
    *, profile: ReferenceProfile, columns: Mapping[str, Column], panes: Integers, pane_count: int
) -> Integers:
    """Counts of shape (pane_count, sum of widths) of rows whose pane indices are `panes`; all features one after the other."""
    parts = []
    for feature, width in zip(profile.features, profile.widths, strict=True):
        encoder = Encoder(reference=feature, level_names=profile.level_names.get(feature.name, ()))
        cells = encoder.cells(columns[feature.name])
        parts.append(count_cells(cells=cells, groups=panes, width=width, group_count=pane_count))
    return np.concatenate(parts, axis=1)


def split_counts(*, widths: Sequence[int], counts: Integers) -> list[tuple[Integers, int]]:
    """The counts of the value cells and of missing values, by feature."""
    ends = np.cumsum(widths)
    return [(counts[end - width : end - 1], int(counts[end - 1])) for end, width in zip(ends, widths, strict=True)]


def profile_reference(
    *,
    model_digest: str,
    kinds: Mapping[str, FeatureKind],
    columns: Mapping[str, Column],
    chunks: Integers | None,
) -> ReferenceProfile:
    """The profile of the rows. `chunks` groups rows by consecutive stretches of time as long as a window, or None."""
    empty = {name: _empty_feature(name, kind, columns[name]) for name, kind in kinds.items()}
    level_names = {name: names for name, (_, names) in empty.items() if names}
    rows = len(next(iter(columns.values())))
    groups, group_count = _grouped(chunks, rows)
    features = []
    for name, (feature, names) in empty.items():
        cells = Encoder(reference=feature, level_names=names).cells(columns[name])
        counted = count_cells(cells=cells, groups=groups, width=len(feature.counts) + 1, group_count=group_count)
        features.append(_with_counts(feature, counted))
    return ReferenceProfile(
        model_digest=model_digest,
        rows=rows,
        chunks=0 if chunks is None else group_count,
        features=tuple(features),
        level_names=level_names,
    )


def _grouped(chunks: Integers | None, rows: int) -> tuple[Integers, int]:
    if chunks is None:
        return np.zeros(rows, dtype=np.int64), 1
    labels, groups = np.unique(chunks, return_inverse=True)
    return groups.astype(np.int64), len(labels)


def _empty_feature(name: str, kind: FeatureKind, column: Column) -> tuple[FeatureReference, tuple[str, ...]]:
    edges = quantile_edges(column) if isinstance(column, np.ndarray) else np.array([])
    names = () if isinstance(column, np.ndarray) else tuple(sorted({value for value in column if value is not None}))
    if not (len(edges) or names):
        raise _unusable(name, "at least one value that is present")
    if len(names) > LEVELS_MAX:
        raise _unusable(name, f"at most {LEVELS_MAX} levels")
    feature = FeatureReference(
        name=name,
        kind=kind,
        edges=tuple(float(edge).hex() for edge in edges),
        levels=len(names),
        counts=(0,) * (len(edges) + 1 if len(edges) else len(names) + 1),
        missing=0,
        overdispersion={},
    )
    return feature, names


def quantile_edges(values: Floats) -> Floats:
    """Deciles between the 0.001 and 0.999 quantiles of the finite values, without repeats: each edge is a value that occurred.

    The last edge is the next double above the 0.999 quantile, so that the last cell holds what is beyond the reference.
    """
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return finite
    inner = np.quantile(finite, [TAIL, *(np.arange(1, BINS) / BINS)], method="inverted_cdf")
    last = np.nextafter(np.quantile(finite, 1 - TAIL, method="inverted_cdf"), np.inf)
    # Adding zero turns -0.0 into 0.0, whose hexadecimal text would differ.
    edges: Floats = np.unique(np.append(inner, last)) + 0.0
    return edges


def _with_counts(feature: FeatureReference, counted: Integers) -> FeatureReference:
    total = counted.sum(axis=0)
    return msgspec.structs.replace(
        feature,
        counts=tuple(int(count) for count in total[:-1]),
        missing=int(total[-1]),
        overdispersion={
            channel: _channel_overdispersion(feature.kind, channel, counted) for channel in CHANNELS[feature.kind]
        },
    )


def _channel_overdispersion(kind: FeatureKind, channel: Channel, counted: Integers) -> float:
    if channel == "values":
        return values_overdispersion(chunks=counted[:, :-1], ordered=kind == "numeric")
    return share_overdispersion(
        counts=channel_counts(channel=channel, counts=counted[:, :-1], missing=counted[:, -1]), rows=counted.sum(axis=1)
    )


def channel_counts(*, channel: Channel, counts: Integers, missing: Integers) -> Integers:
    """What a share channel counts, from value cells of shape (..., cells) and missing values of shape (...)."""
    if channel == "missing":
        return missing
    result: Integers = counts[..., 0] if channel == "below" else counts[..., -1]
    return result


def values_overdispersion(*, chunks: Integers, ordered: bool) -> float:
    """How much the X2 of the chunks against all of them exceeds chi-square, in the mean and in its 0.99 quantile; at least 1.

    `chunks` has shape (chunks, cells), in order of time; those too small for a test go on to the next one, as windows do.
    The mean is the dispersion parameter of P. McCullagh and J. A. Nelder, Generalized linear models, 1989, 4.5. The quantile
    is there because alarms come from the tail: a few odd hours of each day hardly move the mean.
    """
    statistics, degrees = [], []
    pending = np.zeros_like(chunks[0])
    shares = chunks.sum(axis=0) / max(1, chunks.sum())
    for chunk in chunks if len(chunks) > 1 else ():
        pending = pending + chunk
        expected = pending.sum() * shares
        groups = merge_cells(expected=expected, ordered=ordered)
        if groups.max() > 0:
            expected_groups = np.bincount(groups, weights=expected)
            difference = sum_groups(counts=pending, groups=groups) - expected_groups
            statistics.append(float(np.sum(difference * difference / expected_groups)))
            degrees.append(int(groups.max()))
            pending = np.zeros_like(pending)
    if not statistics:
        return 1.0
    tail = np.array(statistics) / special.chdtri(degrees, 1 - TAIL_LEVEL)
    return max(1.0, sum(statistics) / sum(degrees), float(np.quantile(tail, TAIL_LEVEL)))


def share_overdispersion(*, counts: Integers, rows: Integers) -> float:
    """Mean of (k - n r)^2 / (n r (1 - r)) over the chunks, at least 1; shapes (chunks,). Source: as the mean above."""
    share = counts.sum() / rows.sum()
    usable = rows * share * (1 - share) >= VARIANCE_MIN
    if len(counts) < 2 or not usable.any():
        return 1.0
    k, n = counts[usable], rows[usable]
    return max(1.0, float(np.mean((k - n * share) ** 2 / (n * share * (1 - share)))))


def _unusable(name: str, rule: str) -> UnusableReference:
    return UnusableReference(
        f"The feature {name} cannot be profiled.",
        why="Windows are compared with the values that the reference has.",
        next_step="Send reference rows in which every feature is present, or leave the feature out of the plan.",
        fields=(FieldError(field=f"/features/{name}", rule=rule),),
    )
