"""Archives: in a folder always, over a real S3 API where moto is installed."""

from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from uuid import uuid4

import pytest

from runstore.adapters.objects import Objects
from runstore.adapters.store import RedisStore
from runstore.archive.archive import Archive
from tests.archive.site import NOW, Attic


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """The port of a server that speaks S3."""
    server = pytest.importorskip("moto.server", reason="S3 needs moto: pip install 'runstore[s3]'")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    try:
        yield int(running.get_host_and_port()[1])
    finally:
        running.stop()


def s3_objects(port: int, *, timeout_s: float = 10.0) -> Objects:
    """Open an empty bucket's path, by way of a port."""
    options = {"endpoint": f"http://127.0.0.1:{port}", "region": "us-east-1", "allow_http": "true"}
    return Objects.open("s3://attic/runs of/ours", timeout_s=timeout_s, options=options)


def make_bucket(port: int) -> None:
    """Make the bucket, and empty what tests before left in it."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        for method, path in (("POST", "/moto-api/reset"), ("PUT", "/attic")):
            headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request"}
            connection.request(method, path, headers=headers)
            connection.getresponse().read()


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore", reason="the archive needs obstore: pip install 'runstore[archive]'")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture(params=["folder", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """An empty object store, of each kind in turn."""
    if request.param == "folder":
        return Objects.open(str(tmp_path / "archive"))
    port: int = request.getfixturevalue("s3_port")
    make_bucket(port)
    return s3_objects(port)


@pytest.fixture
def folder(tmp_path: Path) -> Objects:
    """An empty object store in a folder."""
    return Objects.open(str(tmp_path / f"archive-{uuid4().hex[:6]}"))


@pytest.fixture
async def attic(real_store: RedisStore, objects: Objects) -> Attic:
    """A store and its archive, of each kind in turn."""
    return Attic(real_store, Archive(objects, NOW))


@pytest.fixture
async def shed(real_store: RedisStore, folder: Objects) -> Attic:
    """A store with an archive in a folder."""
    return Attic(real_store, Archive(folder, NOW))
