"""A bucket that is not as it should be: every fault has its name, says what to do, and leaves nothing that reads as whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from shared.artefact_bucket import (
    ArtefactBucket,
    ArtefactBucketMissing,
    ArtefactsNotPermitted,
    ConditionalWritesIgnored,
)
from shared.artefacts import ArtefactMissing, ArtefactsUnreachable
from tests.serving import free_port
from tests.shared.s3_server import BUCKET, S3Server, environment
from tests.shared.s3_server.faulty_way import FaultyWay
from tests.shared.s3_server.fixtures import s3_server

__all__ = ["s3_server"]

EVIDENCE = hashlib.shake_256(b"evidence").digest(1 << 20)
DIGEST = hashlib.sha256(EVIDENCE).hexdigest()

Reached = Callable[..., ArtefactBucket]


@pytest.fixture
def reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reached:
    """Makes a bucket that is reached with these AWS variables, under a prefix of this test."""

    def reach(variables: Mapping[str, str], *, bucket: str = BUCKET) -> ArtefactBucket:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return ArtefactBucket(address=f"s3://{bucket}/{tmp_path.name}", plain_http=True)

    return reach


def put(bucket: ArtefactBucket) -> None:
    """Stores the evidence."""
    bucket.put(system="flights", digest=DIGEST, content=EVIDENCE)


def get(bucket: ArtefactBucket) -> bytes:
    """Reads the evidence."""
    return bucket.get(system="flights", digest=DIGEST)


def attempts(bucket: ArtefactBucket) -> list[Callable[[], object]]:
    """Everything that can be asked of a bucket."""
    return [bucket.require_usable, lambda: put(bucket), lambda: get(bucket)]


def test_a_server_that_is_down_is_unreachable(reached: Reached) -> None:
    """The error names the bucket and the setting, and says that the same request may work later."""
    bucket = reached(environment(port=free_port()))
    for attempt in attempts(bucket):
        with pytest.raises(ArtefactsUnreachable) as told:
            attempt()
        assert type(told.value) is ArtefactsUnreachable
        assert told.value.status == 503
        assert f"s3://{BUCKET}/" in told.value.what
        assert "AWS_ENDPOINT_URL" in told.value.next_step
        assert "\n" not in told.value.why


@pytest.mark.parametrize("wrong", [{"secret_key": "another-secret"}, {"access_key": "nobody"}])
def test_wrong_credentials_are_not_taken_for_missing_evidence(
    s3_server: S3Server, reached: Reached, wrong: dict[str, str]
) -> None:
    """Whatever the server calls it; the error names the variables and holds no secret."""
    bucket = reached(environment(port=s3_server.port, **wrong))
    for attempt in attempts(bucket):
        with pytest.raises(ArtefactsNotPermitted) as told:
            attempt()
        assert "AWS_SECRET_ACCESS_KEY" in told.value.next_step
        assert not any(value in repr(vars(told.value)) for value in wrong.values())


def test_no_credentials_at_all_are_said_so(
    s3_server: S3Server, reached: Reached, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the environment nor from the instance, whose address answers nothing here."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    bucket = reached(
        {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_server.port}",
            "AWS_METADATA_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        }
    )
    with pytest.raises(ArtefactsNotPermitted) as told:
        bucket.require_usable()
    assert "there are no credentials" in told.value.what


def test_a_bucket_that_does_not_exist_is_said_so(s3_server: S3Server, reached: Reached) -> None:
    """It is not taken for a bucket without this evidence."""
    bucket = reached(s3_server.environment, bucket="elsewhere")
    for attempt in attempts(bucket):
        with pytest.raises(ArtefactBucketMissing) as told:
            attempt()
        assert "s3://elsewhere" in told.value.what


@pytest.mark.parametrize("sent", [0, 200, 10_000, 700_000])
def test_an_upload_that_is_cut_off_leaves_nothing(s3_server: S3Server, reached: Reached, sent: int) -> None:
    """Failed and not persisted: before the head, in it, and in the body. Sent again on a whole way, it is there."""
    with FaultyWay(target=s3_server.port, request_bytes=sent) as way:
        bucket = reached(environment(port=way.port))
        with pytest.raises(ArtefactsUnreachable):
            put(bucket)
        whole = reached(s3_server.environment)
        with pytest.raises(ArtefactMissing):
            get(whole)
        put(whole)
        assert get(whole) == EVIDENCE


def test_an_upload_whose_answer_is_lost_is_there_and_can_be_sent_again(s3_server: S3Server, reached: Reached) -> None:
    """Failed but persisted: the repeat finds the same bytes and is content."""
    with FaultyWay(target=s3_server.port, answer_bytes=0) as way:
        with pytest.raises(ArtefactsUnreachable):
            put(reached(environment(port=way.port)))
        whole = reached(s3_server.environment)
        assert get(whole) == EVIDENCE
        put(whole)


def test_a_download_that_breaks_off_once_is_taken_up_where_it_was(s3_server: S3Server, reached: Reached) -> None:
    """The rest is asked for, and the whole still has to have its digest."""
    put(reached(s3_server.environment))
    with FaultyWay(target=s3_server.port, answer_bytes=800_000) as way:
        assert get(reached(environment(port=way.port))) == EVIDENCE


def test_a_download_that_is_cut_off_is_not_taken_for_the_file(s3_server: S3Server, reached: Reached) -> None:
    """Neither as a shorter file nor as a damaged one."""
    put(reached(s3_server.environment))
    with FaultyWay(target=s3_server.port, answer_bytes=2_000) as way:
        bucket = reached(environment(port=way.port))
        with pytest.raises(ArtefactsUnreachable) as told:
            get(bucket)
        assert type(told.value) is ArtefactsUnreachable


def test_what_is_damaged_on_the_way_is_not_stored(s3_server: S3Server, reached: Reached) -> None:
    """The server compares the SHA-256 of what arrives."""
    with FaultyWay(target=s3_server.port, rewritten=(EVIDENCE[70_000:70_032], bytes(32))) as way:
        with pytest.raises(ArtefactsUnreachable):
            put(reached(environment(port=way.port)))
        with pytest.raises(ArtefactMissing):
            get(reached(s3_server.environment))


class _Overwriting(BaseHTTPRequestHandler):
    """A server of the kind that there was before conditional writes: it does not know the header and stores."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_a_server_that_ignores_the_condition_is_refused_at_start(reached: Reached) -> None:
    """It would overwrite evidence unseen."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Overwriting) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        bucket = reached(environment(port=server.server_port))
        with pytest.raises(ConditionalWritesIgnored):
            bucket.require_usable()
        server.shutdown()
