"""Profiles of hypothesis: `settled` tries the same examples everywhere; HYPOTHESIS_PROFILE=night searches long."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A machine under load is no finding, hence no deadline.
settings.register_profile(
    "settled",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("night", deadline=None, max_examples=5_000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "settled"))
