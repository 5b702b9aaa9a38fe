"""Parameters that several routes share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from shared.http_doors import SYSTEM_PATTERN

System = Annotated[str, Path(pattern=SYSTEM_PATTERN)]
