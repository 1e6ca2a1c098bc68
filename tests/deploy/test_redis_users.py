"""Each role works as its own user of Redis through whole runs, and may do nothing else."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
import redis

from runstore import AsyncClient, AsyncPublisher, Run
from runstore.adapters import dispatch, signing_keys
from runstore.adapters.dispatch import RedisDispatch
from runstore.adapters.scripts import SHARED
from runstore.adapters.store import RedisStore
from runstore.core.errors import StoreUnavailable
from runstore.publish import PublisherConfig
from runstore.wire.keys import PartitionKeys, numbers
from tests.cli.processes import PATIENT, Started, run, started
from tests.deploy.secured import Secured, refused, secured
from tests.topology.servers import programs

pytestmark = PATIENT

TOML = """
[worker]
lease_ms = 1000
kill_after_s = 0.5
grace_s = 0.1

[reaper]
every_ms = 100
lease_ms = 1000

[projects.quick]
repository = "./model"
command = ["{python}", "-c", "import os; open(os.environ['RUNSTORE_OUTPUTS'], 'w').write('{{\\"n\\": 1}}')"]

[projects.long]
repository = "./model"
command = ["{python}", "-c", "import time; print(1, flush=True); time.sleep(60)"]
grace_s = 0
"""


@pytest.fixture(params=["wheel", "installed"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Secured]:
    found = programs()
    if request.param not in found:
        pytest.skip("no redis-server or valkey-server on PATH: apt-get install redis-server")
    with secured(found[request.param], tmp_path / "server") as made:
        yield made


class Site:
    """The services, each as its own user."""

    def __init__(self, server: Secured, folder: Path, stack: ExitStack) -> None:
        self.server = server
        self.folder = folder
        self._stack = stack

    def start(self, role: str, *words: str) -> Started:
        folder = self.folder / role
        folder.mkdir(exist_ok=True)
        words = (role, "--config", str(self.folder / "runstore.toml"), *words)
        return self._stack.enter_context(
            started(*words, folder=folder, RUNSTORE_REDIS_URL=self.server.url_of(role), XDG_STATE_HOME=str(folder))
        )

    def command(self, *words: str) -> str:
        done = run(*words, folder=self.folder, RUNSTORE_REDIS_URL=self.server.url_of("admin"))
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout.strip()


@pytest.fixture
def site(server: Secured, tmp_path: Path) -> Iterator[Site]:
    model = tmp_path / "site" / "model"
    model.mkdir(parents=True)
    (tmp_path / "site" / "runstore.toml").write_text(TOML.format(python=sys.executable))
    identity = ["-c", "user.name=m", "-c", "user.email=m@example.org"]
    for words in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "begin"]):
        subprocess.run(["git", *words], cwd=model, check=True)
    with ExitStack() as stack:
        yield Site(server, tmp_path / "site", stack)


@asynccontextmanager
async def publisher(site: Site, **settings: float) -> AsyncIterator[AsyncPublisher]:
    config = PublisherConfig(**settings)  # type: ignore[arg-type]
    async with AsyncPublisher(site.server.url_of("publisher"), config=config) as made:
        yield made


@pytest.mark.slow
async def test_every_role_does_its_work_as_its_own_user(site: Site) -> None:
    site.start("projector")
    gateway = site.start("gateway", "--port", "0")
    worker = site.start("worker")
    token = site.command("token", "create", "--name", "all", "--scope", "admin")

    async with AsyncClient(gateway.url, token=token) as client:
        async with publisher(site) as publishing:
            async with publishing.track("told") as tracked:
                tracked.outputs["large"] = "x" * 100_000
            async with publishing.track("told") as later:
                await running(client, later.run_id)
                cancelled = await client.cancel(later.run_id)
        quick = await client.run("quick", inputs={"n": 1}, mode="sync")
        long = await client.run("long")
        await running(client, long.run_id)
        async for name, text in client.logs(long.run_id, follow=True):
            assert (name, text) == ("stdout", "1\n")
            break
        await client.cancel(long.run_id)
        ended = [await client.wait(run_id, timeout_s=40) for run_id in (tracked.run_id, long.run_id)]
        lost = await client.run("long")
        await running(client, lost.run_id)
        os.kill(worker.process.pid, signal.SIGKILL)
        reaped = await client.wait(lost.run_id, timeout_s=40)
        listed = [each.run_id async for each in client.list_runs(project_name="told")]
        seen = await look_around(client, gateway.url, token, quick.run_id)
        found = await client.get_run(tracked.run_id[:8])

    assert [each.status for each in ended] == ["success", "cancelled"]
    assert cancelled.status in {"running", "cancelled"}
    assert quick.status == "success"
    assert quick.output is not None
    assert quick.output.outputs == {"n": 1}
    assert (reaped.status, reaped.error_message) == ("failed", "worker lost")
    assert set(listed) == {tracked.run_id, later.run_id}
    assert found.run_id == tracked.run_id
    assert seen == ["told", "long", "long", "quick", "quick"]
    assert "told" not in site.command("rebuild", "--check", "--json")
    site.command("token", "list")
    site.command("token", "revoke", "all")
    assert unexpected(site.server) == []


async def look_around(client: AsyncClient, url: str, token: str, run_id: str) -> list[str]:
    """Ask whatever can be asked of a gateway, and return a word of each answer."""
    since = "2020-01-01T00:00:00+00:00"
    failed = [run async for run in client.list_runs(status=["failed", "cancelled"], created_after=since)]
    recent = [run async for run in client.list_runs(project_name="quick", finished_after=since, status=["success"])]
    older = [run async for run in client.list_runs(project_name="quick", created_before="2020-01-01T00:00:00+00:00")]
    events = await client.events(run_id)
    output = await client.output(run_id)
    logs = [text async for _, text in client.logs(run_id)]
    limited = await client.run_token(run_id)
    async with AsyncClient(url, token=limited.token) as watcher:
        watched = await watcher.wait(run_id, timeout_s=20)
    told, headers = str(uuid4()), {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(url, headers=headers) as session:
        event = {"status": "success", "project_name": "x", "output": {"stdout": "y" * 2_000_000}}
        async with session.post(f"/v1/runs/{told}/transitions", json=event) as answer:
            cursor = (await answer.json())["cursor"]
        async with session.get(f"/v1/runs/{told}/output?after={cursor}") as answer:
            assert len(await answer.read()) > 2_000_000
        async with session.get(f"/v1/runs/{told}/logs") as answer:
            assert len(await answer.read()) == 2_000_000
    assert (older, len(events), output.outputs, logs) == ([], 3, {"n": 1}, [])
    projects = [run.project_name for run in failed]
    return [*sorted(projects, reverse=True)[:3], *[run.project_name for run in recent][:1], watched.project_name]


async def running(client: AsyncClient, run_id: str) -> None:
    async for seen in client.watch(run_id, events="all"):
        if seen.status == "running":
            return


def unexpected(server: Secured) -> list[tuple[str, str, str]]:
    """What a role was refused, but for the one script that it tried to send, and the feed that it tried to see."""
    known = ("script|load", "xrange", "feed")
    return [told for told in refused(server) if not told[2].endswith(known)]


@pytest.mark.slow
async def test_a_server_that_forgot_its_scripts_is_taught_them_again(site: Site) -> None:
    site.start("projector")
    gateway = site.start("gateway", "--port", "0")
    site.start("worker")
    token = site.command("token", "create", "--name", "all", "--scope", "admin")

    async with AsyncClient(gateway.url, token=token) as client, publisher(site) as publishing:
        before = await client.run("quick", mode="sync")
        site.server.restart()
        async with publishing.track("told") as tracked:
            tracked.outputs["n"] = 1
        told = await client.wait(tracked.run_id, timeout_s=40)
        quick = await client.wait((await submitted(client)).run_id, timeout_s=40)
        site.server.ask("SCRIPT", "FLUSH")
        again = await client.wait((await submitted(client)).run_id, timeout_s=40)
        kept = [each.run_id async for each in client.list_runs()]

    assert [told.status, quick.status, again.status] == ["success"] * 3
    assert {before.run_id, told.run_id, quick.run_id, again.run_id} <= set(kept)
    assert unexpected(site.server) == []


async def submitted(client: AsyncClient) -> Run:
    """Submit a run to a gateway whose store has just come back."""
    async with asyncio.timeout(30):
        while True:
            with suppress(StoreUnavailable):
                return await client.run("quick")


async def test_a_service_says_which_other_one_has_to_begin(server: Secured, tmp_path: Path) -> None:
    done = run("gateway", "--port", "0", folder=tmp_path, RUNSTORE_REDIS_URL=server.url_of("gateway"))

    assert done.returncode == 5
    assert "start `runstore projector` first" in done.stderr


async def test_a_script_that_no_projector_loaded_is_an_error_that_says_so(server: Secured) -> None:
    async with RedisStore.open(server.url_of("projector")):
        pass

    async with RedisStore.open(server.url_of("worker")) as store:
        with pytest.raises(StoreUnavailable, match="start `runstore projector` of this version"):
            await RedisDispatch(store).claim(0, "quick", worker="w", attempts=1, lease_ms=1000, deadline_ms=1000)


KEYS = PartitionKeys(3)
ID = bytes(16)
FOR_NO_ROLE = [
    *(["FLUSHALL"], ["FLUSHDB"], ["KEYS", "*"], ["SHUTDOWN"], ["MONITOR"], ["BGSAVE"]),
    *(["CONFIG", "SET", "appendonly", "no"], ["ACL", "SETUSER", "x"], ["ACL", "LIST"], ["CLIENT", "LIST"]),
    *(["REPLICAOF", "NO", "ONE"], ["SCRIPT", "FLUSH"], ["SCRIPT", "KILL"], ["FUNCTION", "FLUSH"], ["SWAPDB", 0, 1]),
    *(["MODULE", "LIST"], ["CLUSTER", "RESET"], ["GET", "of another program"], ["SET", "of another program", 1]),
    *(["PUBLISH", "c", "m"], ["SUBSCRIBE", "c"], ["MIGRATE", "h", 1, "k", 0, 1], ["DUMP", "of another program"]),
]
FOR_WHO_RUNS_SCRIPTS_BY_HASH_ONLY = [
    *(["EVAL", "return 1", 0], ["EVAL_RO", "return 1", 0], ["SCRIPT", "LOAD", "return 1"], ["SCAN", 0]),
    *(["FUNCTION", "LOAD", "#!lua name=x"], ["FCALL", "x", 0], ["INFO"], ["CONFIG", "GET", "*"], ["RANDOMKEY"]),
    *(["DEL", KEYS.events], ["XTRIM", KEYS.events, "MAXLEN", 0], ["XDEL", KEYS.events, "1-1"]),
    *(["HSET", KEYS.cursor, "n", 1], ["XADD", KEYS.feed, "*", "c", 1], ["XADD", KEYS.mark, "*", "c", 1]),
    *(["HSET", KEYS.run(ID), "s", 1], ["DEL", KEYS.run(ID)], ["HSET", "runstore:meta", "partitions", 1]),
    *(["HSET", "runstore:tokens", "me", "x"], ["ZADD", KEYS.page("p", 0), 1, ID], ["XADD", KEYS.dead, "*", "a", 1]),
    *(["RENAME", KEYS.events, KEYS.spare], ["EXPIRE", KEYS.events, 1], ["SET", KEYS.events, 1]),
    *(["SET", KEYS.owner, "me"], ["ZADD", "runstore:projectors", 1, "me"], ["HSET", numbers("p"), "last", 9]),
]
FOR_WHO_PUBLISHES = [
    *(["XRANGE", KEYS.events, "-", "+"], ["XREAD", "STREAMS", KEYS.events, "0"], ["XREAD", "STREAMS", KEYS.feed, "0"]),
    *(["HGETALL", KEYS.run(ID)], ["GET", KEYS.output(ID, b"t", "v")], ["DEL", KEYS.output(ID, b"t", "v")]),
    *(["HGETALL", "runstore:tokens"], ["HGETALL", "runstore:run_token_keys"], ["HGETALL", KEYS.projects]),
    *(["XADD", KEYS.controls, "*", "id", ID], ["XREAD", "STREAMS", KEYS.logs(ID), "0"]),
]
FOR_A_PUBLISHER = [
    *(["ZADD", KEYS.queue("p"), 1, ID], ["ZADD", KEYS.deadlines, 1, ID], ["GET", KEYS.request(ID)]),
    *(["XADD", KEYS.offers, "*", "id", ID], ["XADD", KEYS.logs(ID), "*", "s", 1], ["ZADD", "runstore:served", 1, "p"]),
    *(["XREAD", "STREAMS", KEYS.offers, "0"], ["ZRANGE", "runstore:served", 0, -1]),
]
FOR_A_GATEWAY = [
    *(["ZREM", KEYS.leases, ID], ["ZADD", KEYS.leases, 1, ID], ["DEL", KEYS.lease(ID)], ["GET", KEYS.request(ID)]),
    *(["ZADD", KEYS.queue("p"), 1, ID], ["ZADD", "runstore:served", 1, "p"], ["DEL", KEYS.output(ID, b"t", "v")]),
    *(["HDEL", "runstore:tokens", "x"], ["XADD", KEYS.logs(ID), "*", "s", 1], ["ZREM", KEYS.status("p", "failed"), ID]),
]
REFUSED = {
    "publisher": FOR_NO_ROLE + FOR_WHO_RUNS_SCRIPTS_BY_HASH_ONLY + FOR_WHO_PUBLISHES + FOR_A_PUBLISHER,
    "worker": FOR_NO_ROLE + FOR_WHO_RUNS_SCRIPTS_BY_HASH_ONLY + FOR_WHO_PUBLISHES,
    "gateway": FOR_NO_ROLE + FOR_WHO_RUNS_SCRIPTS_BY_HASH_ONLY + FOR_A_GATEWAY,
    "projector": FOR_NO_ROLE,
    "admin": FOR_NO_ROLE,
    "backup": FOR_NO_ROLE + FOR_WHO_PUBLISHES + FOR_A_PUBLISHER,
}


@pytest.mark.parametrize("role", REFUSED)
def test_a_role_is_refused_all_else(server: Secured, role: str) -> None:
    answers = []
    for words in REFUSED[role]:
        with server.as_user(role) as client:
            try:
                answers.append((words, client.execute_command(*words)))
            except redis.exceptions.NoPermissionError:
                continue
            except redis.exceptions.RedisError as error:
                answers.append((words, error))

    assert answers == []


def test_nobody_comes_in_without_a_password(server: Secured) -> None:
    with redis.Redis(port=server.port, protocol=2) as client, pytest.raises(redis.exceptions.AuthenticationError):
        client.execute_command("PING")


def test_a_script_does_nothing_that_its_caller_may_not(server: Secured) -> None:
    with server.as_user("projector") as projector:
        for script in SHARED:
            projector.execute_command("SCRIPT LOAD", script.lua)
    with server.as_user("projector") as projector:
        projector.execute_command("ZADD", KEYS.queue("p"), 1, ID)

    with server.as_user("publisher") as client:
        names = [KEYS.queue("p"), KEYS.leases, KEYS.queue_deadlines, KEYS.deadlines]
        for script, keys in ((dispatch.SHARED[0], names), (signing_keys.SHARED[0], ["runstore:run_token_keys"])):
            with pytest.raises(redis.exceptions.ResponseError, match=r"(?i)ACL failure|can't"):
                client.execute_command("EVALSHA", script.sha, len(keys), *keys, "a", "b", 1, 1, 16, 1, 1, 1)
