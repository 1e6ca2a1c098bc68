"""What importing costs: a client loads no Redis, a publisher no HTTP, the package nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

import runstore
from runstore.client import Run

GOLDEN = (Path(__file__).parents[1] / "vectors" / "get_run.json").read_bytes().strip()


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import runstore", ["redis", "aiohttp", "msgspec"]),
        (
            "from runstore import AsyncClient, Client, Run; Client('http://127.0.0.1:1').close()",
            ["redis", "aiohttp.web"],
        ),
        ("from runstore import AsyncPublisher, Publisher, RunNotFound", ["aiohttp", "redis"]),
    ],
)
def test_an_import_loads_no_more_than_it_needs(code: str, absent: list[str]) -> None:
    check = f"{code}\nimport sys\nprint([name for name in {absent!r} if name in sys.modules])"

    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=30)

    assert result.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in runstore.__all__:
        assert getattr(runstore, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = runstore.nothing


def test_a_run_is_written_as_it_was_read() -> None:
    import msgspec

    run = msgspec.json.decode(GOLDEN, type=Run)

    assert run.to_json() == GOLDEN
    assert run.is_terminal
    assert run.output is not None
    assert run.output.outputs["revenue"] == [100, 110, 121]


def test_what_a_newer_server_adds_to_a_run_is_let_be() -> None:
    import msgspec

    newer = GOLDEN[:-1] + b',"colour":{"red":1}}'

    assert msgspec.json.decode(newer, type=Run).to_json() == GOLDEN


def test_a_client_and_a_publisher_left_open_end_with_the_process(redis_url: str) -> None:
    code = f"""
import runstore
client, publisher = runstore.Client("http://127.0.0.1:1"), runstore.Publisher({redis_url!r}, "forecasts")
publisher.publish("66666666-6666-6666-6666-666666666666", "running")
try:
    client.wait("66666666-6666-6666-6666-666666666666", timeout_s=0.2)
except runstore.WaitTimeout:
    print("waited")
"""

    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, timeout=30
    )

    assert (result.returncode, result.stdout, result.stderr) == (0, "waited\n", "")
