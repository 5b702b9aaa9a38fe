"""Which records evidence which clause of ISO/IEC 42001:2023 (paraphrased). Data, not code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONTROLS: tuple[Mapping[str, Any], ...] = (
    {"id": "4.3, 4.4", "about": "scope, management system", "evidence": ("ai-system",)},
    {"id": "5.3, A.3.2", "about": "roles and responsibilities", "evidence": ("ai-system",)},
    {"id": "6.1.2-6.1.4, 8.2-8.4, A.5.2-A.5.5", "about": "risk and impact assessment", "evidence": ("change-request",)},
    {"id": "6.2, A.6.1.2", "about": "objectives", "evidence": ("requirement",)},
    {
        "id": "6.3, 8.1",
        "about": "planning of changes, operational control",
        "evidence": ("change-request", "change-plan", "release"),
    },
    {
        "id": "9.1, A.6.2.6",
        "about": "monitoring and measurement",
        "evidence": ("run", "monitoring-plan", "drift-signal"),
    },
    {"id": "9.2, 9.3", "about": "internal audit, management review", "evidence": ("pack",)},
    {"id": "10.2", "about": "nonconformity, corrective action", "evidence": ("drift-signal", "nonconformity")},
    {"id": "A.6.2.2", "about": "requirements and specification", "evidence": ("requirement",)},
    {"id": "A.6.2.4", "about": "verification and validation, with criteria", "evidence": ("test-case", "verification")},
    {"id": "A.6.2.5", "about": "deployment", "evidence": ("release",)},
    {"id": "A.7.2-A.7.6", "about": "data: acquisition, quality, provenance, preparation", "evidence": ("dataset",)},
    {"id": "A.9.4, A.10.2-A.10.4", "about": "intended use; suppliers, customers", "evidence": ("ai-system",)},
)
