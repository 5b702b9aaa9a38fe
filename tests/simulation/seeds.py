"""Which seeds a simulation tries: SIMULATION_SEED=n only that one, SIMULATION_SEEDS=n the first n, otherwise a few."""

from __future__ import annotations

import os
from collections.abc import Sequence


def seeds(few: int) -> Sequence[int]:
    """The seeds to try; `few` when nothing was asked for."""
    only = os.environ.get("SIMULATION_SEED")
    return (int(only),) if only else range(int(os.environ.get("SIMULATION_SEEDS", few)))
