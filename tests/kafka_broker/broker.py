"""One node of Apache Kafka (KRaft) in a folder, on ports of loopback: started, stopped, killed, paused, started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.kafka_broker.certificates import Certificates, make_certificates

START_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 30.0
SCRAM_USER = "relay"
SCRAM_PASSWORD = "correct horse"  # of the broker of the tests
SCRAM_MODULE = "org.apache.kafka.common.security.scram.ScramLoginModule"
LISTENERS = {
    "PLAIN": "PLAINTEXT",
    "PROXIED": "PLAINTEXT",
    "MTLS": "SSL",
    "SCRAM": "SASL_SSL",
    "CONTROLLER": "PLAINTEXT",
}
"""PROXIED tells its clients the address of a proxy, which stands in front of it in some tests."""


@dataclass
class KafkaBroker:
    """`plain`, `proxied`, `mtls` and `scram` are what clients connect to; `behind_proxy` is where the proxy leads to."""

    jars: Path
    folder: Path
    ports: dict[str, int] = field(default_factory=dict)
    short_lived: bool = False
    _process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        names = [name for name in (*LISTENERS, "PROXY") if name not in self.ports]
        self.ports |= dict(zip(names, free_ports(len(names)), strict=True))

    @property
    def plain(self) -> str:
        return f"127.0.0.1:{self.ports['PLAIN']}"

    @property
    def proxied(self) -> str:
        return f"127.0.0.1:{self.ports['PROXY']}"

    @property
    def mtls(self) -> str:
        return f"127.0.0.1:{self.ports['MTLS']}"

    @property
    def scram(self) -> str:
        return f"127.0.0.1:{self.ports['SCRAM']}"

    @property
    def certificates(self) -> Certificates:
        names = ("authority", "authority.key", "broker", "client", "client.certificate", "client.key")
        return Certificates(*(self.folder / "certificates" / f"{name}.pem" for name in names))

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        """Returns when it listens; the first time it formats its folder."""
        self._configure()
        if not (self.folder / "data" / "meta.properties").exists():
            self._format()
        self._process = self._spawn()
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Kafka did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """An orderly end (SIGTERM)."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """An end without a word (SIGKILL)."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """It keeps its connections and answers nothing until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.ports["PLAIN"]), timeout=10):
                return True
        except OSError:
            return False

    def _java(self, *arguments: str) -> list[str]:
        # The broker ends with its owner, also with one that is killed; where there is no setpriv, it may outlive that.
        bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        return [*bound, "java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{self.jars}/*", *arguments]

    def _spawn(self) -> subprocess.Popen[bytes]:
        # Half the work to start; what lives longer is faster in the end when it is compiled better.
        compiled = ("-XX:TieredStopAtLevel=1",) if self.short_lived else ()
        memory = ("-Xmx256m", "-XX:+UseSerialGC", *compiled)
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            return subprocess.Popen(
                self._java(*memory, "kafka.Kafka", str(self._settings)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(log)

    @property
    def _settings(self) -> Path:
        return self.folder / "server.properties"

    def _configure(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._settings.exists():
            make_certificates(self.folder / "certificates")
        self._settings.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))

    def _format(self) -> None:
        user = f"SCRAM-SHA-512=[name={SCRAM_USER},password={SCRAM_PASSWORD}]"
        arguments = ("format", "-t", "prooftrail-tests-000000", "-c", str(self._settings), "--add-scram", user)
        done = subprocess.run(
            self._java("-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", *arguments),
            check=False, capture_output=True, text=True, timeout=START_SECONDS_MAX,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"Kafka's folder could not be formatted:\n{done.stdout}{done.stderr}")

    def _properties(self) -> dict[str, object]:
        advertised = {name: self.ports["PROXY" if name == "PROXIED" else name] for name in LISTENERS}
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self.ports['CONTROLLER']}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAIN",
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in LISTENERS.items()),
            "listeners": ",".join(f"{name}://127.0.0.1:{self.ports[name]}" for name in LISTENERS),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in advertised.items()),
            **self._security(),
            "log.dirs": self.folder / "data",
            # Else one that was killed may not come back for 9 seconds: its former self counts as alive.
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 300,
            "auto.create.topics.enable": "false",
            "log.cleaner.backoff.ms": 200,
            "log.retention.check.interval.ms": 500,
            "group.initial.rebalance.delay.ms": 0,
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
        }

    def _security(self) -> dict[str, object]:
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.certificates.broker,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.certificates.authority,
            "listener.name.mtls.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.scram.sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.scram.scram-sha-512.sasl.jaas.config": f"{SCRAM_MODULE} required;",
            # Whoever else comes with a certificate may do what was granted to it, and nothing besides.
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:ANONYMOUS;User:CN=client;User:{SCRAM_USER}",
        }


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on, each another."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
