"""Every example of the README and of the page on publishing runs, against the `dev` that the README starts."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import happens

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
GOLDEN = json.loads((ROOT / "tests" / "vectors" / "get_run.json").read_bytes())


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start what the README starts, and give the environment that it tells the reader to set."""
    folder = tmp_path_factory.mktemp("reader")
    env = {name: value for name, value in os.environ.items() if not name.startswith("RUNSTORE_")}
    env["PATH"] = f"{BIN}{os.pathsep}{env['PATH']}"
    process = subprocess.Popen(
        [BIN / "runstore", "dev", "--json", "--port", "0"], cwd=folder, env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield env | {
            "RUNSTORE_URL": told["url"],
            "RUNSTORE_TOKEN": told["token"],
            "RUNSTORE_REDIS_URL": told["redis_url"],
            "HOME": str(folder),
        }
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def run(command: list[str], env: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("example", blocks("README.md", "python"))
def test_a_python_example_of_the_readme_runs(example: str, dev: dict[str, str], tmp_path: Path) -> None:
    told = run([sys.executable, "-c", example], dev, tmp_path)

    assert "[100, 110, 121]" in told or re.fullmatch(r"[0-9a-f-]{36}\n", told)


def test_the_python_example_of_an_event_on_the_page_on_publishing_runs(dev: dict[str, str], tmp_path: Path) -> None:
    example = blocks("docs/publishing.md", "python")[0]
    example = example.replace("66666666-6666-6666-6666-666666666666", "7a7a7a7a-0000-4000-8000-000000000001")

    run([sys.executable, "-c", example], dev, tmp_path)

    run_told = json.loads(run_status(dev, tmp_path, "7a7a7a7a", expect=3))
    assert (run_told["status"], run_told["error_message"]) == ("timed_out", "no answer in 60 s")


def test_the_python_example_of_tracking_on_the_page_on_publishing_runs(dev: dict[str, str], tmp_path: Path) -> None:
    example = blocks("docs/publishing.md", "python")[1] + "\nprint(run.run_id)\n"

    report = run([sys.executable, "-c", example], dev, tmp_path).strip()

    told = json.loads(run([str(BIN / "runstore"), "watch", report, "--json"], dev, tmp_path))
    assert (told["project_name"], told["status"], told["output"]["outputs"]) == ("reports", "success", {"pages": 3})
    listing = [str(BIN / "runstore"), "list", "--tag", "nightly", "--json"]
    asyncio.run(happens(lambda: '"project_name":"forecasts"' in run(listing, dev, tmp_path)))


def run_status(env: dict[str, str], cwd: Path, prefix: str, *, expect: int) -> str:
    command = [str(BIN / "runstore"), "get", prefix, "--json"]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout


def test_the_curl_example_of_the_page_on_publishing_runs_and_the_readmes_look_ups_find_the_run(
    dev: dict[str, str], tmp_path: Path
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    over_http = blocks("docs/publishing.md", "sh")[1]

    told = json.loads(run(["bash", "-euc", over_http], dev, tmp_path))

    assert told["run_id"] == GOLDEN["run_id"]
    look_up = next(line for line in blocks("README.md", "console")[2].splitlines() if line.startswith("$ curl"))
    found = json.loads(run(["bash", "-euc", look_up.removeprefix("$ ")], dev, tmp_path))
    assert list(found) == list(GOLDEN)
    assert (found["status"], found["error_message"]) == ("failed", "no data for April")


def test_the_redis_cli_example_names_the_stream_that_the_projector_reads(dev: dict[str, str], tmp_path: Path) -> None:
    """The example runs with a stand-in of a few lines where no redis-cli is installed; the stream name is its own."""
    over_redis = blocks("docs/publishing.md", "sh")[0]
    run_id = "7a7a7a7a-0000-4000-8000-000000000002"
    over_redis = over_redis.replace("66666666-6666-6666-6666-666666666666", run_id)
    if shutil.which("redis-cli") is None:
        stand_in = tmp_path / "redis-cli"
        stand_in.write_text(
            f"#!{sys.executable}\n"
            "import sys, redis\n"
            "answer = redis.Redis.from_url(sys.argv[2]).execute_command(*sys.argv[3:])\n"
            "print(answer.decode())\n"
        )
        stand_in.chmod(0o755)
    env = dev | {"PATH": f"{tmp_path}{os.pathsep}{dev['PATH']}"}

    run(["bash", "-euc", over_redis], env, tmp_path)

    found = json.loads(run([str(BIN / "runstore"), "watch", run_id, "--json"], dev, tmp_path))
    assert found["output"]["outputs"] == {"revenue": [100, 110, 121]}


def test_the_example_of_a_wrapped_command_runs(dev: dict[str, str], tmp_path: Path) -> None:
    wrapped = blocks("docs/publishing.md", "sh")[2]

    told = run(["bash", "-euc", wrapped], dev, tmp_path)

    assert told == "fitting\n"
    look = [str(BIN / "runstore"), "watch", "66666666-6666-6666-6666-666666666667", "--json"]
    found = json.loads(run(look, dev, tmp_path))
    assert found["output"]["outputs"] == {"revenue": [100, 110, 121]}


def test_the_first_two_commands_of_the_readme_are_the_demo_and_the_tests() -> None:
    demo, tests, *_ = blocks("README.md", "sh")

    assert demo.rstrip().endswith("runstore demo")
    assert "pytest" in tests
