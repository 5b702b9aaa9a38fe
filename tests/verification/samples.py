"""Rows of a known model, drawn with a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def calibrated_rows(*, rows: int, seed: int, tied: bool = False) -> tuple[Floats, Floats]:
    """Labels and scores, each (rows,), of a model whose every score is the true probability; `tied` rounds to 0.05."""
    chance = np.random.default_rng(seed)
    scores = chance.beta(2.0, 4.0, rows)
    labels = (chance.random(rows) < scores).astype(np.float64)
    return labels, np.round(scores * 20.0) / 20.0 if tied else scores


def ranked_rows(*, positives: int, negatives: int, distance: float, seed: int) -> tuple[Floats, Floats]:
    """Binormal scores, means `distance` apart at variance 1: the true AUROC is the normal integral to distance / sqrt 2."""
    chance = np.random.default_rng(seed)
    labels = np.concatenate((np.ones(positives), np.zeros(negatives)))
    return labels, chance.normal(size=labels.size) + distance * labels
