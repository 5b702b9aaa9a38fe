"""`make kafka`: one broker on loopback until Ctrl-C. Its data lies in build/kafka; KAFKA_PORT sets its port (9092)."""

from __future__ import annotations

import os
import signal
import sys
import threading

from tests.kafka_broker.broker import KafkaBroker
from tests.kafka_broker.installation import INSTALLATIONS, CannotRun, installed


def main() -> int:
    """Serves until it is told to end; the exit code of the process."""
    try:
        jars = installed()
    except CannotRun as reason:
        print(f"Kafka cannot run here: {reason}", file=sys.stderr)
        return 2
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: ended.set())
    broker = KafkaBroker(
        jars=jars, folder=INSTALLATIONS.parent / "kafka", ports={"PLAIN": int(os.environ.get("KAFKA_PORT", "9092"))}
    )
    broker.start()
    print(
        f"Kafka is up: KAFKA_BOOTSTRAP={broker.plain} make run    (Ctrl-C ends it; its log: {broker.log})", flush=True
    )
    try:
        ended.wait()
    finally:
        broker.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
