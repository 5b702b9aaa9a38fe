"""What is logged: for a person at a terminal as text, for machines one JSON object a line on standard output."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from shared.trace_ids import current_ids

LogFormat = Literal["text", "json"]


class JsonLines(logging.Formatter):
    """time, severity, logger, message, service, and trace_id and span_id where there are any; exception with its stack."""

    def __init__(self, *, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "severity": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "service": self._service,
            **{name: one for name, one in current_ids()._asdict().items() if one is not None},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False).encode(errors="replace").decode()


def set_up_logging(*, form: LogFormat, service: str) -> None:
    """Decides for the whole process how it logs. `service` is what a line says it comes from."""
    if form == "text":
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines(service=service))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
