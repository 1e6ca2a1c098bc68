"""The sample project: the same everywhere, and a model worth running."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from runstore_worker import sample
from runstore_worker.git import git
from runstore_worker.repository import Mirrors
from runstore_worker.sample import ensure_sample
from runstore_worker.source import locate

MODEL = Path(sample.__file__).parent / "forecasts" / "model.py"


@pytest.fixture
def model(tmp_path):
    def run(inputs: str | None):
        env = {"RUNSTORE_OUTPUTS": str(tmp_path / "out.json")}
        if inputs is not None:
            (tmp_path / "in.json").write_text(inputs)
            env["RUNSTORE_INPUTS"] = str(tmp_path / "in.json")
        return subprocess.run(
            [sys.executable, MODEL], check=False, env=env, capture_output=True, text=True, encoding="utf-8"
        )

    return run


def test_the_default_forecast_is_three_months_of_ten_percent_growth(model, tmp_path):
    done = model(None)

    assert done.returncode == 0
    assert json.loads((tmp_path / "out.json").read_text()) == {"revenue": [100, 110, 121]}
    assert "fitting…\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Run completed in 0.")


def test_inputs_change_the_forecast(model, tmp_path):
    model('{"horizon": 5, "growth": 0}')

    assert json.loads((tmp_path / "out.json").read_text()) == {"revenue": [91] * 5}


@pytest.mark.parametrize(
    "inputs",
    ['{"horizon": -1}', '{"horizon": "x"}', '{"horizon": 2.5}', '{"horizon": true}', '{"growth": NaN}', "[]", "{",
     '{"horizn": 3}', '{"pause_s": -1}', '{"horizon": null}'],
)  # fmt: skip
def test_bad_inputs_exit_1_with_a_sentence(model, inputs, tmp_path):
    done = model(inputs)

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out.json").exists()


async def test_the_sample_has_the_same_commit_everywhere(tmp_path):
    first, second = [await ensure_sample(tmp_path / name) for name in "ab"]

    mirrors = Mirrors(tmp_path / "cache")
    assert await mirrors.resolve(locate(str(first), tmp_path)) == await mirrors.resolve(locate(str(second), tmp_path))


async def test_a_sample_that_exists_stays_as_it_is(tmp_path):
    place = await ensure_sample(tmp_path)
    (place / "model.py").write_text("mine")

    assert await ensure_sample(tmp_path) == place
    assert (place / "model.py").read_text() == "mine"


async def test_what_a_killed_start_left_is_no_hindrance(tmp_path):
    left = tmp_path / ".forecasts-left" / "forecasts"
    left.mkdir(parents=True)
    (left / "model.py").write_text("half")

    place = await ensure_sample(tmp_path)

    assert (place / "model.py").read_bytes() == MODEL.read_bytes()


@pytest.mark.parametrize("last", ["init", "add", "commit"])
async def test_a_start_that_fails_half_way_leaves_no_half_sample(tmp_path, monkeypatch, last):
    async def fail(*arguments, **options):
        if last in arguments:
            raise InterruptedError
        return await git(*arguments, **options)

    monkeypatch.setattr(sample, "git", fail)
    with pytest.raises(InterruptedError):
        await ensure_sample(tmp_path)

    assert list(tmp_path.iterdir()) == []


async def test_starting_twice_at_once_makes_one_sample(tmp_path):
    places = await asyncio.gather(*(ensure_sample(tmp_path) for _ in range(3)))

    assert places == [tmp_path / "forecasts"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["forecasts"]
