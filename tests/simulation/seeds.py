"""Which seeds are tried, otherwise a few.

Of a simulation: SIMULATION_SEED=n only that one, SIMULATION_SEEDS=n the first n. Of what is broken or killed: FAULT_SEEDS=n.
"""

from __future__ import annotations

import os
from collections.abc import Sequence


def seeds(few: int) -> Sequence[int]:
    """The seeds to try; `few` when nothing was asked for."""
    only = os.environ.get("SIMULATION_SEED")
    return (int(only),) if only else range(int(os.environ.get("SIMULATION_SEEDS", few)))


def fault_seeds(few: int) -> Sequence[int]:
    """The seeds that say what breaks when; `few` when nothing was asked for."""
    return range(int(os.environ.get("FAULT_SEEDS", few)))
