"""Bootstrap replicates of a statistic, the same on every machine and version of numpy for the same seed."""

from __future__ import annotations

import numpy as np

from .measures import Floats, Integers, Statistic

_WEIGHTS_PER_CHUNK = 131_072


def bootstrap(*, statistic: Statistic, rows: int, resamples: int, seed: int) -> Floats:
    """Replicates of shape (resamples,): the statistic of `rows` rows drawn with replacement.

    Efron, Annals of Statistics 7 (1979). Replicate k uses the same draw whatever the statistic, so replicates of two
    models on the same rows are paired. Rows are taken as independent: repeated measurements of one unit make the spread
    too small.
    """
    bits = np.random.PCG64(seed)
    per_chunk = max(1, _WEIGHTS_PER_CHUNK // rows)
    with np.errstate(over="ignore", invalid="ignore"):
        chunks = [
            statistic(_draw_weights(bits, replicates=min(per_chunk, resamples - first), rows=rows))
            for first in range(0, resamples, per_chunk)
        ]
    return np.concatenate(chunks)


def _draw_weights(bits: np.random.PCG64, *, replicates: int, rows: int) -> Floats:
    drawn = _draw_rows(bits, count=replicates * rows, rows=rows).reshape(replicates, rows)
    drawn += np.arange(replicates, dtype=np.int64)[:, None] * rows
    weights = np.bincount(drawn.ravel(), minlength=replicates * rows)
    return weights.reshape(replicates, rows).astype(np.float64)


def _draw_rows(bits: np.random.PCG64, *, count: int, rows: int) -> Integers:
    # numpy promises a stable stream for the bit generator, not for Generator.integers, and an auditor must be able to
    # repeat a bound years later. Multiply-shift of 32 bits: no row is favoured by more than rows / 2^32.
    words = np.asarray(bits.random_raw((count + 1) // 2), dtype="<u8").view("<u4")[:count]
    drawn: Integers = words.astype(np.int64)
    drawn *= rows
    drawn >>= 32
    return drawn
